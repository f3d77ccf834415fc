/**
 * The experts of one loaded model that only its archive has. A step that wants some fails before it changes anything and names them; a
 * session fetches them into the cold folder, tells the model where they lie, and the same step is run again: no bit of it changes.
 */
import type { Manifest, ManifestShard } from '../checkpoint/manifest.js'
import type { EngineError } from '../errors/index.js'
import { createError, isEngineError } from '../errors/index.js'
import type { NativeModel } from '../native.js'
import type { Archive, FetchOptions } from './archive.js'
import type { BlobReference } from './blob-download.js'

/** The same blob is fetched this often for one step; then what is fetched does not stay long enough to be used. */
const mostFetches = 3

interface Missing {
  layer: number
  expert: number
  blob: BlobReference
}

/** The failure of a step that fetching can mend. */
function isArchived(error: unknown): error is EngineError {
  if (!isEngineError(error) || error.details.archived !== 1) return false
  return error.code === 'EXPERT_UNAVAILABLE' || error.code === 'EXPERT_CORRUPTED'
}

export class ExpertArchive {
  readonly #archive: Archive
  readonly #native: NativeModel
  readonly #blobs = new Map<string, BlobReference>()
  /** The end of the last session: two that hold blobs and wait for room would wait for each other. */
  #turn: Promise<void> = Promise.resolve()

  constructor(archive: Archive, native: NativeModel, manifest: Manifest, absent: readonly ManifestShard[]) {
    this.#archive = archive
    this.#native = native
    const paths = new Set(absent.map(({ path }) => path))
    for (const { layer, experts } of manifest.layers) {
      for (const { expert, shard, offset, bytes, crc32c, sha256 } of experts) {
        const { path: file, bytes: fileBytes } = manifest.shards[shard]!
        if (!paths.has(file)) continue
        const crc = Number.parseInt(crc32c, 16)
        this.#blobs.set(`${layer}/${expert}`, { file, offset, bytes, crc32c: crc, sha256, fileBytes })
      }
    }
  }

  /** Whether the step is to be run again once a session has brought what it failed for. */
  mends(error: unknown): boolean {
    return isArchived(error)
  }

  session(): ArchiveSession {
    return new ArchiveSession(
      this.#archive,
      this.#native,
      (failure) => this.#missing(failure),
      () => this.#takeTurn()
    )
  }

  /** Runs a step as often as the archive has to be asked for it. Throws what the step and ArchiveSession.bring do. */
  async run<T>(step: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const session = this.session()
    try {
      for (;;) {
        try {
          return await step()
        } catch (error) {
          await session.bring(error, signal)
        }
      }
    } finally {
      session.end()
    }
  }

  /** Ends every fetch (CANCELLED) and waits for it. */
  close(): Promise<void> {
    return this.#archive.close()
  }

  #missing({ details }: EngineError): Missing[] {
    const layer = Number(details.layer)
    const ids = typeof details.experts === 'string' ? details.experts.split(',') : [details.expert]
    return ids.map(Number).flatMap((expert) => {
      const blob = this.#blobs.get(`${layer}/${expert}`)
      return blob ? [{ layer, expert, blob }] : []
    })
  }

  /** Waits for the sessions before; gives what ends this one's turn. */
  #takeTurn(): { came: Promise<void>; end: () => void } {
    const came = this.#turn
    let end: () => void = () => undefined
    const ended = new Promise<void>((resolve) => {
      end = resolve
    })
    this.#turn = came.then(() => ended)
    return { came, end }
  }
}

/** What one step needs from the archive; its blobs stay in the cold folder until `end`. */
export class ArchiveSession {
  readonly #archive: Archive
  readonly #native: NativeModel
  readonly #missing: (failure: EngineError) => Missing[]
  readonly #takeTurn: () => { came: Promise<void>; end: () => void }
  readonly #fetches = new Map<string, number>()
  #held: BlobReference[] = []
  #turn: { came: Promise<void>; end: () => void } | undefined

  constructor(
    archive: Archive,
    native: NativeModel,
    missing: (failure: EngineError) => Missing[],
    takeTurn: () => { came: Promise<void>; end: () => void }
  ) {
    this.#archive = archive
    this.#native = native
    this.#missing = missing
    this.#takeTurn = takeTurn
  }

  /**
   * Fetches what a step failed for, all of it at once. Throws the failure where fetching cannot mend it, RESOURCE_BUDGET_TOO_SMALL where
   * the cold folder (with the memory) does not hold what the step needs, and what Archive.fetch throws.
   */
  async bring(failure: unknown, signal: AbortSignal): Promise<void> {
    if (!isArchived(failure)) throw failure
    const missing = this.#missing(failure)
    if (missing.length === 0) throw failure
    this.#turn ??= this.#takeTurn()
    await unlessAborted(this.#turn.came, signal)
    this.#makeRoom(missing.reduce((sum, { blob }) => sum + blob.bytes, 0))
    // The first one that fails ends the others: the step cannot be run without it.
    const all = new AbortController()
    const options = { signal: AbortSignal.any([signal, all.signal]) }
    const corrupted = failure.code === 'EXPERT_CORRUPTED'
    const fetched = missing.map(async (one) => {
      try {
        await this.#fetch(one, corrupted, failure, options)
      } catch (error) {
        all.abort()
        throw error
      }
    })
    const ends = await Promise.allSettled(fetched)
    const errors = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as unknown] : []))
    const own = (error: unknown) => !isEngineError(error) || error.code !== 'CANCELLED'
    if (errors.length > 0) throw errors.find(own) ?? errors[0]
  }

  /** The step has been run, or never will be. */
  end(): void {
    for (const blob of this.#held.splice(0)) this.#archive.release(blob)
    this.#turn?.end()
    this.#turn = undefined
  }

  async #fetch({ layer, expert, blob }: Missing, corrupted: boolean, failure: EngineError, options: FetchOptions) {
    const before = this.#fetches.get(blob.sha256) ?? 0
    if (before >= mostFetches) throw corrupted ? failure : this.#tooSmall(blob.bytes, 'of one step')
    this.#fetches.set(blob.sha256, before + 1)
    // What this step has brought already and still cannot read is no longer what the cold folder takes it for.
    const path = await this.#archive.fetch(blob, { ...options, again: corrupted || before > 0 })
    this.#held.push(blob)
    this.#native.bringExpert(layer, expert, path)
  }

  /** `required`: bytes that are missing now. */
  #tooSmall(required: number, which: string): EngineError {
    const { coldLimit: limit, coldBytes: current } = this.#archive.status()
    const text = `the cold folder may have ${limit} bytes: too few for the experts ${which}`
    const resourceInfo = { required, available: limit, current, limit, unit: 'bytes' as const }
    return createError('RESOURCE_BUDGET_TOO_SMALL', text, { resourceInfo })
  }

  /** Earlier layers' blobs are in memory by now, or are fetched again. */
  #makeRoom(bytes: number): void {
    const { coldLimit: limit } = this.#archive.status()
    if (bytes > limit) throw this.#tooSmall(bytes, 'of one layer')
    let held = this.#held.reduce((sum, blob) => sum + blob.bytes, 0)
    while (held + bytes > limit) {
      const [oldest] = this.#held.splice(0, 1)
      held -= oldest!.bytes
      this.#archive.release(oldest!)
    }
  }
}

/** CANCELLED once the signal aborts. */
function unlessAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const leave = () => reject(createError('CANCELLED', 'waiting for the archive was given up', { method: 'archive' }))
    if (signal.aborted) return leave()
    signal.addEventListener('abort', leave, { once: true })
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', leave))
  })
}
