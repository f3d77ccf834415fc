/** The watch over what an engine needs of the machine beside memory: disks and descriptors. */
import { dirname } from 'node:path'
import type { WatchedFolder } from '../guards/disk-watch.js'
import { watchResources } from '../guards/resource-watch.js'
import type { NativeAddon } from '../native.js'
import type { EventLevel } from '../telemetry/logger.js'
import type { Telemetry } from '../telemetry/telemetry.js'
import type { Models } from './models.js'
import type { CheckedOptions } from './options.js'

const levels = { enough: 'info', low: 'warn', full: 'error' } as const satisfies Record<string, EventLevel>

/** Watches until the function that it returns is called. */
export function watchEngine(
  options: CheckedOptions,
  addon: NativeAddon,
  models: Models,
  telemetry: Telemetry
): () => Promise<void> {
  const own = ownFolders(options)
  // An engine that is dropped without dispose() goes, with its watch.
  const kept = new WeakRef(models)
  const told = new WeakRef(telemetry)
  const folders = (): WatchedFolder[] | undefined => {
    const cold = kept
      .deref()
      ?.all()
      .flatMap(({ archive }) => archive?.coldFolder ?? [])
    if (!cold) return undefined
    const used = cold.map((folder) => ({
      path: folder.path,
      use: 'cold folder',
      makeRoom: (bytes: number) => folder.makeRoom(bytes)
    }))
    // Models of a process share a cold folder.
    return [...own, ...new Map(used.map((folder) => [folder.path, folder])).values()]
  }
  return watchResources(
    options.guards,
    folders,
    () => addon.openFileLimit(),
    (message, fields, level) => told.deref()?.event('resource_low', message, fields, levels[level])
  )
}

/** What the options name. */
function ownFolders({ journal, audit, staging }: CheckedOptions): WatchedFolder[] {
  const folders: WatchedFolder[] = []
  if (journal !== undefined)
    folders.push({ path: typeof journal === 'string' ? journal : journal.path, use: 'journal' })
  if (audit !== undefined) {
    folders.push({ path: dirname(typeof audit === 'string' ? audit : audit.path), use: 'audit log' })
  }
  if (staging) folders.push({ path: staging.folder, use: 'staging folder' })
  return folders
}
