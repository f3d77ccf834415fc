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

/** The same blob is fetched this often for one step; then somebody else removes what is fetched before it can be used. */
const mostFetches = 3

interface Missing {
  layer: number
  expert: number
  blob: BlobReference
}

/** Of a failed step: what it lacks, and all that it has asked for of what the archive has. */
interface Wanted {
  missing: Missing[]
  used: BlobReference[]
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
  /** Bytes of archived experts that a step of one token can need at most. */
  readonly #tokenBytes: number
  /** Experts whose last fetch failed for good, as 'layer/expert'. */
  readonly #unavailable = new Set<string>()

  constructor(archive: Archive, native: NativeModel, manifest: Manifest, absent: readonly ManifestShard[]) {
    this.#archive = archive
    this.#native = native
    const paths = new Set(absent.map(({ path }) => path))
    let tokenBytes = 0
    const owners = new Map<string, [layer: number, expert: number][]>()
    for (const { layer, blobBytes, experts } of manifest.layers) {
      const archived = experts.filter(({ shard }) => paths.has(manifest.shards[shard]!.path)).length
      tokenBytes += Math.min(archived, native.routing.k) * blobBytes
      for (const { expert, shard, offset, bytes, crc32c, sha256 } of experts) {
        const { path: file, bytes: fileBytes } = manifest.shards[shard]!
        if (!paths.has(file)) continue
        const crc = Number.parseInt(crc32c, 16)
        this.#blobs.set(`${layer}/${expert}`, { file, offset, bytes, crc32c: crc, sha256, fileBytes })
        owners.set(sha256, [...(owners.get(sha256) ?? []), [layer, expert]])
      }
    }
    this.#tokenBytes = tokenBytes
    // A step that wants them is then told before it begins the layer, and not by a read that fails.
    archive.onEvict = (sha256, path) => {
      for (const [layer, expert] of owners.get(sha256) ?? []) native.loseExpert(layer, expert, path)
    }
  }

  /** The folder that keeps what came. */
  get coldFolder(): Archive['coldFolder'] {
    return this.#archive.coldFolder
  }

  get circuit(): Archive['circuit'] {
    return this.#archive.circuit
  }

  /** Whether the step is to be run again once a session has brought what it failed for. */
  mends(error: unknown): boolean {
    return isArchived(error)
  }

  /** Whether the expert could not be had when it was asked for last. The next step that wants it asks again. */
  isUnavailable(layer: number, expert: number): boolean {
    return this.#unavailable.has(`${layer}/${expert}`)
  }

  session(): ArchiveSession {
    return new ArchiveSession(
      this.#archive,
      this.#native,
      this.#tokenBytes,
      (failure) => this.#wanted(failure),
      (layer, expert, came) => this.#unavailable[came ? 'delete' : 'add'](`${layer}/${expert}`)
    )
  }

  /**
   * Runs a step of so many tokens as often as the archive has to be asked for it; undefined where it needs more than the cold folder holds, and
   * fewer tokens would do. Throws what the step and ArchiveSession.bring do.
   */
  async run<T>(step: () => Promise<T>, tokens: number, signal: AbortSignal): Promise<T | undefined> {
    const session = this.session()
    try {
      for (;;) {
        try {
          return await step()
        } catch (error) {
          if (!(await session.bring(error, tokens, signal))) return undefined
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

  #wanted({ details }: EngineError): Wanted {
    const layer = Number(details.layer)
    const numbers = (text: unknown): number[] => (typeof text === 'string' ? text.split(',').map(Number) : [])
    const ids = details.experts === undefined ? [Number(details.expert)] : numbers(details.experts)
    const missing = ids.flatMap((expert) => {
      const blob = this.#blobs.get(`${layer}/${expert}`)
      return blob ? [{ layer, expert, blob }] : []
    })
    const { experts: each } = this.#native.routing
    const used = numbers(details.wanted).flatMap(
      (entry) => this.#blobs.get(`${Math.floor(entry / each)}/${entry % each}`) ?? []
    )
    return { missing, used }
  }
}

/** What one step needs from the archive; its blobs stay in the cold folder until `end`. */
export class ArchiveSession {
  readonly #archive: Archive
  readonly #native: NativeModel
  readonly #tokenBytes: number
  readonly #wanted: (failure: EngineError) => Wanted
  /** Told of each expert that came, or that will not. */
  readonly #tell: (layer: number, expert: number, came: boolean) => void
  readonly #fetches = new Map<string, number>()
  /** By checksum: some experts may be equal. */
  readonly #held = new Map<string, BlobReference>()
  #turn: { came: Promise<void>; end: () => void } | undefined

  constructor(
    archive: Archive,
    native: NativeModel,
    tokenBytes: number,
    wanted: (failure: EngineError) => Wanted,
    tell: (layer: number, expert: number, came: boolean) => void
  ) {
    this.#archive = archive
    this.#native = native
    this.#tokenBytes = tokenBytes
    this.#wanted = wanted
    this.#tell = tell
  }

  /**
   * Fetches what a step of so many tokens failed for, all of it at once. False, and nothing is fetched, where the cold folder cannot hold that
   * beside what it holds for this step already: a step of fewer tokens needs less. Throws the failure where fetching cannot mend it,
   * RESOURCE_BUDGET_TOO_SMALL {resourceInfo} where the cold folder does not hold what one token can need, and what Archive.fetch throws.
   */
  async bring(failure: unknown, tokens: number, signal: AbortSignal): Promise<boolean> {
    if (!isArchived(failure)) throw failure
    const { missing, used } = this.#wanted(failure)
    if (missing.length === 0) throw failure
    if (this.#archive.status().coldLimit < this.#tokenBytes) throw this.#tooSmall(this.#tokenBytes)
    this.#turn ??= this.#archive.takeTurn()
    await unlessAborted(this.#turn.came, signal)
    // What is held stays until the step has been run: then it finds everything that it has asked for, however little memory there is.
    for (const blob of used) {
      if (!this.#held.has(blob.sha256) && this.#archive.hold(blob)) this.#held.set(blob.sha256, blob)
    }
    const needed = new Map([...this.#held, ...missing.map(({ blob }) => [blob.sha256, blob] as const)])
    const bytes = [...needed.values()].reduce((sum, blob) => sum + blob.bytes, 0)
    if (bytes > this.#archive.status().coldLimit) {
      if (tokens > 1) return false
      throw this.#tooSmall(bytes)
    }
    // The first one that fails ends the others: the step cannot be run without it.
    const all = new AbortController()
    const options = { signal: AbortSignal.any([signal, all.signal]) }
    const corrupted = failure.code === 'EXPERT_CORRUPTED'
    const own = (error: unknown) => !isEngineError(error) || error.code !== 'CANCELLED'
    const fetched = missing.map(async (one) => {
      try {
        await this.#fetch(one, corrupted, failure, options)
        this.#tell(one.layer, one.expert, true)
      } catch (error) {
        if (own(error)) this.#tell(one.layer, one.expert, false)
        all.abort()
        throw error
      }
    })
    const ends = await Promise.allSettled(fetched)
    const errors = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as unknown] : []))
    if (errors.length > 0) throw errors.find(own) ?? errors[0]
    return true
  }

  /** The step has been run, or never will be. */
  end(): void {
    for (const blob of this.#held.values()) this.#archive.release(blob)
    this.#held.clear()
    this.#turn?.end()
    this.#turn = undefined
  }

  async #fetch({ layer, expert, blob }: Missing, corrupted: boolean, failure: EngineError, options: FetchOptions) {
    const before = this.#fetches.get(blob.sha256) ?? 0
    if (before >= mostFetches) throw failure
    this.#fetches.set(blob.sha256, before + 1)
    // What this step has brought already and still cannot read is no longer what the cold folder takes it for.
    const path = await this.#archive.fetch(blob, { ...options, again: corrupted || before > 0 })
    if (this.#held.has(blob.sha256)) this.#archive.release(blob)
    else this.#held.set(blob.sha256, blob)
    this.#native.bringExpert(layer, expert, path)
  }

  #tooSmall(required: number): EngineError {
    const { coldLimit: limit, coldBytes: current } = this.#archive.status()
    const text = `the cold folder may have ${limit} bytes, the experts of one token in the archive have up to ${required}`
    const resourceInfo = { required, available: limit, current, limit, unit: 'bytes' as const }
    const suggestedAction = `Let the cold folder have ${required} bytes or more (archive.coldBytes), or use a TierSet without the archive's tiers.`
    return createError('RESOURCE_BUDGET_TOO_SMALL', text, { resourceInfo, suggestedAction })
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
