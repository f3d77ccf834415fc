/** Looks at disks and descriptors once a second while an engine lives. */
import type { WatchedFolder } from './disk-watch.js'
import { DiskWatch } from './disk-watch.js'
import { FilesWatch } from './files-watch.js'

/** Tells of a resource whose level has changed. */
export type TellResource = (
  message: string,
  fields: Readonly<Record<string, unknown>>,
  level: 'enough' | 'low' | 'full'
) => void

export interface ResourceLimits {
  diskLowBytes: number
  diskFullBytes: number
  filesLow: number
}

const lookMs = 1000

/**
 * Watches until the function that it returns is called, which waits for the look under way, or until there are no `folders` any more (undefined).
 * It keeps no process alive.
 */
export function watchResources(
  limits: ResourceLimits,
  folders: () => WatchedFolder[] | undefined,
  fileLimit: () => number,
  tell: TellResource
): () => Promise<void> {
  const disks = new DiskWatch(limits, tell)
  const files = new FilesWatch(limits.filesLow, fileLimit, tell)
  let looking: Promise<void> | undefined
  const look = (): void => {
    const watched = folders()
    if (!watched) {
      clearInterval(timer)
      return
    }
    files.look()
    // A disk that does not answer is asked no second time.
    looking ??= disks
      .look(watched)
      // What could not be done now is tried again at the next look.
      .catch(() => undefined)
      .finally(() => {
        looking = undefined
      })
  }
  const timer = setInterval(look, lookMs).unref()
  return async () => {
    clearInterval(timer)
    await looking
  }
}
