/**
 * The versions of one model's experts while it serves. A change begins a new epoch: requests that begin from then on use it, those before
 * keep what they began with. A version that no request needs any more is given up: its memory and, where it is this model's own, its file.
 */
import { rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { NativeModel, PlacedVersions } from '../native.js'
import type { Chain, ChangedExpert, ChangeRecord, ExpertPlace, ExpertVersion, VersionBlob } from './history.js'
import { History, neededOf } from './history.js'

/** Keeps the versions of an epoch until it is released. */
export interface EpochHold {
  readonly epoch: number
  release(): void
}

/** What has to outlive this process. */
export interface VersionLog {
  /** Makes a change durable. JOURNAL_WRITE_FAILED. */
  record(change: ChangeRecord): Promise<void>
  /** Epochs of requests that have not ended. */
  epochs(): Iterable<number>
  /** Makes durable what `epochs` says: that others have ended. JOURNAL_WRITE_FAILED. */
  flush(): Promise<void>
}

export interface VersionsSetup {
  native: Pick<NativeModel, 'placeVersions'>
  /** What the model was loaded with. */
  original(place: ExpertPlace): Omit<ExpertVersion, 'epoch'>
  /** Where the files of new versions are; asked for once, when there is one. */
  folder: () => string
  /** The folder is this model's alone and goes with it. */
  temporary: boolean
  log?: VersionLog | undefined
}

export interface NewVersion extends ExpertPlace {
  blob: VersionBlob
}

export class ExpertVersions {
  readonly #setup: VersionsSetup
  readonly #history: History
  readonly #holds = new Map<number, number>()
  /** Files that a manifest on disk names: they stay. */
  #persisted: ReadonlySet<string> = new Set()
  #folder: string | undefined
  #epoch = 0
  #last: Promise<unknown> = Promise.resolve()

  constructor(setup: VersionsSetup) {
    this.#setup = setup
    this.#history = new History(setup.original)
  }

  /** For the files of new versions. FILE_WRITE_FAILED where it is temporary and cannot be made. */
  get folder(): string {
    this.#folder ??= this.#setup.folder()
    return this.#folder
  }

  /** Counts the changes. */
  get epoch(): number {
    return this.#epoch
  }

  /** For a request that begins now, or goes on in the epoch in which it began. */
  hold(epoch = this.#epoch): EpochHold {
    const count = this.#holds.get(epoch) ?? 0
    this.#holds.set(epoch, count + 1)
    let held = true
    return {
      epoch,
      release: () => {
        if (!held) return
        held = false
        const left = this.#holds.get(epoch)! - 1
        if (left > 0) this.#holds.set(epoch, left)
        else this.#holds.delete(epoch)
        void this.settle()
      }
    }
  }

  newest(place: ExpertPlace): ExpertVersion {
    return this.#history.newest(place)
  }

  /** The experts that are not what the model was loaded with, as they are now. */
  changed(): (ExpertPlace & ExpertVersion)[] {
    return this.#history.changed().map(({ place, chain }) => ({ ...place, ...chain.at(-1)! }))
  }

  /**
   * Those of `changed` that a manifest may name: of the others a request uses what only an archive has, which nothing could find again once the
   * manifest names its successor.
   */
  persistable(): (ExpertPlace & ExpertVersion)[] {
    const epochs = this.#needed()
    const known = this.#history.changed().filter(({ chain }) => neededOf(chain, epochs).every(({ blob }) => blob))
    return known.map(({ place, chain }) => ({ ...place, ...chain.at(-1)! }))
  }

  /**
   * Gives experts the versions that `make` makes; resolves when later requests use them. One change after another. What `make` throws,
   * RESOURCE_MEMORY_EXHAUSTED and the errors of reading blobs, JOURNAL_WRITE_FAILED; then nothing has changed.
   */
  change(make: () => Promise<NewVersion[]>): Promise<ChangeRecord> {
    return this.#exclusively(async () => {
      const made = await make()
      const epoch = this.#epoch + 1
      const before = made.map((place) => ({ place, chain: this.#history.chain(place) }))
      const after = made.map(({ layer, expert, blob }, i) => {
        const { chain } = before[i]!
        return { place: { layer, expert }, chain: [...chain, { epoch, version: chain.at(-1)!.version + 1, blob }] }
      })
      const experts = after.map(({ place, chain }): ChangedExpert => {
        const [previous, now] = chain.slice(-2) as [ExpertVersion, ExpertVersion]
        return {
          ...place,
          version: now.version,
          blob: now.blob!,
          previous: { version: previous.version, blob: previous.blob }
        }
      })
      try {
        await this.#place(after, [...this.#needed(), epoch])
        try {
          await this.#setup.log?.record({ epoch, experts })
        } catch (error) {
          await this.#place(before, this.#needed())
          throw error
        }
      } catch (error) {
        for (const { blob } of made) await this.#remove(blob.path)
        throw error
      }
      for (const { place, chain } of after) this.#history.set(place, chain)
      this.#epoch = epoch
      void this.settle()
      return { epoch, experts }
    })
  }

  /** Goes on with the changes of an earlier load of the same model. The errors of reading blobs. */
  adopt(records: readonly ChangeRecord[]): Promise<void> {
    return this.#exclusively(async () => {
      const last = records.at(-1)
      if (!last) return
      this.#history.replay(records)
      this.#epoch = last.epoch
      await this.#give(this.#history.changed())
    })
  }

  /** Gives up what no request needs any more. What cannot be placed now is tried again the next time. */
  settle(): Promise<void> {
    return this.#exclusively(async () => {
      const open = this.#history.changed().filter(({ chain }) => chain.length > 1)
      if (open.length === 0) return
      const epochs = this.#needed()
      await this.#give(open.filter(({ chain }) => neededOf(chain, epochs).length < chain.length))
    }).catch(() => {})
  }

  /** Runs `write`, which puts what is newest into a manifest, and gives it the files that the manifest names from then on. */
  persist<Result>(write: () => Promise<{ files: ReadonlySet<string>; result: Result }>): Promise<Result> {
    return this.#exclusively(async () => {
      const before = this.#persisted
      const { files, result } = await write()
      this.#persisted = files
      const used = this.#history.paths()
      for (const path of before) if (!files.has(path) && !used.has(path)) await this.#remove(path)
      return result
    })
  }

  /** A manifest that was loaded names these files. */
  keep(files: Iterable<string>): void {
    this.#persisted = new Set([...this.#persisted, ...files])
  }

  /**
   * Goes on with the changed experts of another load of the same model, which was closed with `keep`, where the journal has not brought them. The
   * errors of reading blobs, JOURNAL_WRITE_FAILED.
   */
  async takeOver(before: ExpertVersions): Promise<void> {
    this.#folder ??= before.#folder
    this.keep(before.#persisted)
    if (this.#epoch > 0) return
    const records = before.#history.records()
    await this.adopt(records)
    for (const record of records) await this.#setup.log?.record(record)
  }

  /** The model is gone. `keep`: its versions are wanted again. */
  async close(keep: boolean): Promise<void> {
    await this.#last
    if (keep || !(await this.#canForget())) return
    for (const path of this.#history.paths()) await this.#remove(path)
    if (this.#setup.temporary && this.#folder) await rm(this.#folder, { recursive: true, force: true }).catch(() => {})
  }

  /** Whether it is durable that no request needs what is here. */
  async #canForget(): Promise<boolean> {
    try {
      await this.#setup.log?.flush()
      return true
    } catch {
      return false
    }
  }

  #needed(): number[] {
    return [...this.#holds.keys(), ...(this.#setup.log?.epochs() ?? []), this.#epoch]
  }

  #place(list: readonly { place: ExpertPlace; chain: Chain }[], epochs: readonly number[]): Promise<void> {
    const placed = list.map(({ place, chain }): PlacedVersions => {
      const versions = neededOf(chain, epochs).map(({ epoch, blob }) => ({ epoch, ...blob }))
      return { ...place, versions }
    })
    return this.#setup.native.placeVersions(placed)
  }

  /** Places what is needed of some experts, and forgets the rest. */
  async #give(list: readonly { place: ExpertPlace; chain: Chain }[]): Promise<void> {
    if (list.length === 0) return
    const epochs = this.#needed()
    await this.#place(list, epochs)
    // A process that is killed must not leave requests that have not ended, by its journal, without their files.
    await this.#setup.log?.flush()
    const before = this.#history.paths()
    for (const { place, chain } of list) this.#history.set(place, neededOf(chain, epochs))
    const used = this.#history.paths()
    for (const path of before) if (!used.has(path)) await this.#remove(path)
  }

  /** Removes a file of this model's own that no manifest names. */
  async #remove(path: string): Promise<void> {
    if (dirname(path) !== this.folder || this.#persisted.has(path)) return
    await rm(path, { force: true }).catch(() => {})
  }

  #exclusively<Result>(work: () => Promise<Result>): Promise<Result> {
    const next = this.#last.then(work)
    this.#last = next.catch(() => {})
    return next
  }
}
