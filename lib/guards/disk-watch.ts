/** Looks after the disks that an engine writes to: it tells when one runs short, and has room made on one that is nearly full. */
import { availableBytes } from '../disk-room.js'
import type { TellResource } from './resource-watch.js'

/** A folder that is written to. */
export interface WatchedFolder {
  path: string
  /** What it is, for messages. */
  use: string
  /** Gives back so many bytes, where something there can be had again. */
  makeRoom?: (bytes: number) => Promise<void>
}

type Level = 'enough' | 'low' | 'full'

/** Times a limit that has to be free before it counts as kept again: at the limit itself every byte would tell. */
const calmShare = 1.25

export class DiskWatch {
  readonly #limits: { diskLowBytes: number; diskFullBytes: number }
  readonly #tell: TellResource
  readonly #levels = new Map<string, Level>()

  constructor(limits: { diskLowBytes: number; diskFullBytes: number }, tell: TellResource) {
    this.#limits = limits
    this.#tell = tell
  }

  /** A folder that is not there is not looked at. */
  async look(folders: readonly WatchedFolder[]): Promise<void> {
    for (const folder of folders) {
      const available = await availableBytes(folder.path).catch(() => undefined)
      if (available === undefined) continue
      const level = this.#level(folder.path, available)
      if (level !== (this.#levels.get(folder.path) ?? 'enough')) this.#changed(folder, available, level)
      const missing = this.#limits.diskFullBytes - available
      if (missing > 0) await folder.makeRoom?.(missing)
    }
  }

  #level(path: string, available: number): Level {
    const { diskLowBytes, diskFullBytes } = this.#limits
    const before = this.#levels.get(path) ?? 'enough'
    if (available < diskFullBytes * (before === 'full' ? calmShare : 1)) return 'full'
    if (available < diskLowBytes) return 'low'
    return before === 'enough' || available >= diskLowBytes * calmShare ? 'enough' : 'low'
  }

  #changed({ path, use }: WatchedFolder, availableBytes: number, level: Level): void {
    this.#levels.set(path, level)
    const { diskLowBytes, diskFullBytes } = this.#limits
    const limitBytes = level === 'full' ? diskFullBytes : diskLowBytes
    const text =
      level === 'enough'
        ? `the disk of the ${use} has ${availableBytes} bytes free again`
        : `the disk of the ${use} has ${availableBytes} bytes free, of ${limitBytes} that should be`
    this.#tell(text, { resource: 'disk', state: level, use, path, availableBytes, limitBytes }, level)
  }
}
