/** The archive of a checkpoint: blobs on a web server or object store, each fetched once and then kept in the cold folder. */
import { randomInt } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import { attempts } from '../download/attempts.js'
import { cancelled, describeUrl } from '../download/failures.js'
import { RangeClient } from '../download/range-request.js'
import { createError, isEngineError } from '../errors/index.js'
import type { BreakerChange, BreakerState } from '../resilience/breaker.js'
import { CircuitBreaker } from '../resilience/breaker.js'
import { profiles } from '../resilience/profiles.js'
import type { RetryEvent } from '../resilience/retry.js'
import type { BlobReference, DownloadReport } from './blob-download.js'
import { downloadBlob } from './blob-download.js'
import { ColdFolder, type OpenColdFolder } from './cold-folder.js'
import type { LocatedArchive } from './options.js'

/** What happens, for logs and counters. */
export type ArchiveEvent =
  | ({ type: 'archive.fetched'; file: string; offset: number; bytes: number; milliseconds: number } & DownloadReport)
  | ({ type: 'archive.retry'; target: string; delaysMs: readonly number[] } & RetryEvent)
  | { type: 'archive.restarted'; target: string; reason: string }
  | { type: 'archive.failed'; file: string; offset: number; error: unknown }
  | { type: 'archive.evicted'; key: string; bytes: number }
  | ({ type: 'archive.circuit' } & BreakerChange)

export interface ArchiveStatus {
  target: string
  circuit: BreakerState
  /** Blobs being fetched, and waiting for a free request. */
  fetching: number
  waiting: number
  coldBytes: number
  coldLimit: number
  coldBlobs: number
}

export interface FetchOptions {
  signal?: AbortSignal | undefined
  /** Behind everything that somebody waits for. */
  background?: boolean
  /** The copy in the cold folder is damaged: another one is to be fetched. */
  again?: boolean
}

/** What errors say was being done. */
const method = 'archive'

/** A download, and those who wait for it. */
interface Transfer {
  blob: BlobReference
  controller: AbortController
  done: Promise<void>
  waiters: number
  background: boolean
  /** Lets it begin; undefined once it has. */
  begin: (() => void) | undefined
}

export class Archive {
  readonly #url: URL
  readonly #options: LocatedArchive
  readonly #cold: ColdFolder
  readonly #leaveFolder: () => void
  readonly #client: RangeClient
  readonly #breaker: CircuitBreaker
  readonly #seed: number
  readonly #onEvent: (event: ArchiveEvent) => void
  /** Hears of blobs that leave the cold folder, by their checksum, before their file goes. */
  onEvict: ((sha256: string, path: string) => void) | undefined
  readonly #transfers = new Map<string, Transfer>()
  #queue: Transfer[] = []
  #running = 0
  #calls = 0
  #closed = false

  private constructor(
    options: LocatedArchive,
    { folder, leave }: OpenColdFolder,
    seed: number | undefined,
    onEvent: (event: ArchiveEvent) => void
  ) {
    this.#url = new URL(options.url)
    this.#options = options
    this.#cold = folder
    this.#leaveFolder = leave
    // Without a seed engines that lost the same server would all come back in the same moment.
    this.#seed = seed ?? randomInt(2 ** 32)
    this.#onEvent = onEvent
    this.#client = new RangeClient(this.#url, options.headers, options.timeouts, method)
    this.#breaker = new CircuitBreaker({
      ...profiles.network.breaker,
      name: describeUrl(this.#url),
      failureThreshold: options.breaker.failureThreshold,
      recoveryTimeoutMs: options.breaker.cooldownMs,
      countsAsFailure: (error) => isEngineError(error) && error.code === 'NETWORK_PARTITION',
      onStateChange: (change) => onEvent({ type: 'archive.circuit', ...change })
    })
  }

  /**
   * Opens the cold folder; asks the server nothing. `seed` is that of the retries' jitter. COLD_FOLDER_LOCKED, FILE_WRITE_FAILED,
   * FILE_READ_FAILED.
   */
  static async open(
    options: LocatedArchive,
    { seed, onEvent }: { seed?: number; onEvent: (event: ArchiveEvent) => void }
  ): Promise<Archive> {
    let archive: Archive | undefined
    const cold = await ColdFolder.open(options.coldFolder, options.coldBytes, (key, bytes, path) => {
      archive?.onEvict?.(key, path)
      onEvent({ type: 'archive.evicted', key, bytes })
    })
    archive = new Archive(options, cold, seed, onEvent)
    return archive
  }

  status(): ArchiveStatus {
    return {
      target: describeUrl(this.#url),
      circuit: this.#breaker.state,
      fetching: this.#running,
      waiting: this.#queue.length,
      coldBytes: this.#cold.bytes,
      coldLimit: this.#cold.limit,
      coldBlobs: this.#cold.blobs
    }
  }

  /** The folder that keeps what came. */
  get coldFolder(): Pick<ColdFolder, 'path' | 'makeRoom'> {
    return this.#cold
  }

  /** Its circuit, to be gone on with in another process. */
  get circuit(): Pick<CircuitBreaker, 'snapshot' | 'restore'> {
    return this.#breaker
  }

  /** A turn to hold blobs of the cold folder while others are fetched; of all archives that share it. */
  takeTurn(): { came: Promise<void>; end: () => void } {
    return this.#cold.takeTurn()
  }

  /** Whether the blob is in the cold folder. */
  isCold(blob: BlobReference): boolean {
    return this.#cold.has(blob.sha256, blob.bytes)
  }

  /**
   * The path of the blob's file in the cold folder, fetched where it is missing, and kept until `release`. NETWORK_PARTITION {target,
   * retryCount}, CIRCUIT_BREAKER_OPEN, ARCHIVE_REFUSED, EXPERT_CORRUPTED, FILE_WRITE_FAILED, RESOURCE_BUDGET_TOO_SMALL, CANCELLED.
   */
  async fetch(blob: BlobReference, options: FetchOptions = {}): Promise<string> {
    const { signal, background = false, again = false } = options
    for (let refetch = again; ; refetch = false) {
      const path = refetch ? undefined : this.#cold.hold(blob.sha256, blob.bytes)
      if (path !== undefined) return path
      if (this.#closed) throw createError('CANCELLED', `${describeUrl(this.#url)}: the archive is closed`)
      let transfer = this.#transfers.get(blob.sha256)
      if (!transfer) transfer = this.#enqueue(blob, background, refetch)
      // Somebody waits for it now.
      if (!background) transfer.background = false
      await this.#join(transfer, signal)
    }
  }

  /** Keeps a blob that is in the cold folder there until `release`; false where it is not. */
  hold(blob: BlobReference): boolean {
    return this.#cold.hold(blob.sha256, blob.bytes) !== undefined
  }

  /** The reader of a fetched or held blob has ended. */
  release(blob: BlobReference): void {
    this.#cold.release(blob.sha256)
  }

  /** Removes a blob from the cold folder: it is in the archive only. FILE_WRITE_FAILED. */
  async forget(blob: BlobReference): Promise<void> {
    await this.#cold.remove(blob.sha256)
  }

  /** A small file of the checkpoint (its manifest), of at most `most` bytes; it is not kept. Errors as `fetch`. */
  async readFile(file: string, most: number, signal?: AbortSignal): Promise<Buffer> {
    const url = this.#urlOf(file)
    const read = async (): Promise<Buffer> => {
      const bytes = Number.POSITIVE_INFINITY
      const answer = await this.#client.open({ url, offset: 0, bytes, most, fresh: true, signal })
      const pieces: Buffer[] = []
      for await (const piece of answer.pieces) pieces.push(piece)
      return Buffer.concat(pieces)
    }
    return this.#breaker.execute(() =>
      attempts(read, {
        retry: this.#options.retry,
        seed: this.#seed,
        call: ++this.#calls,
        method,
        signal,
        onRetry: (event) => this.#tellRetry(url, event)
      })
    )
  }

  /** Ends what is under way (CANCELLED) and waits for it. */
  async close(): Promise<void> {
    this.#closed = true
    const transfers = [...this.#transfers.values()]
    for (const { controller } of transfers) controller.abort()
    await Promise.allSettled(transfers.map(({ done }) => done))
    this.#client.close()
    this.#leaveFolder()
  }

  #tellRetry(url: URL, event: RetryEvent): void {
    const { delaysMs } = this.#options.retry
    this.#onEvent({ type: 'archive.retry', target: describeUrl(url), delaysMs, ...event })
  }

  #urlOf(file: string): URL {
    const url = new URL(this.#url)
    const parts = file.split('/').map(encodeURIComponent)
    url.pathname = `${url.pathname.replace(/\/$/, '')}/${parts.join('/')}`
    return url
  }

  #enqueue(blob: BlobReference, background: boolean, fresh: boolean): Transfer {
    const controller = new AbortController()
    let begin: (() => void) | undefined
    const turn = new Promise<void>((resolve) => {
      begin = resolve
    })
    const transfer: Transfer = { blob, controller, done: Promise.resolve(), waiters: 0, background, begin }
    transfer.done = this.#run(transfer, turn, fresh)
    // Whoever waits hears of it; when nobody does any more, nobody needs to.
    transfer.done.catch(() => undefined)
    this.#transfers.set(blob.sha256, transfer)
    this.#queue.push(transfer)
    // Where one has left before its turn, it is to end at once.
    controller.signal.addEventListener('abort', () => transfer.begin?.(), { once: true })
    this.#next()
    return transfer
  }

  /** Begins what waits while requests are free: what somebody waits for first, in the order it came. */
  #next(): void {
    while (this.#running < this.#options.requests && this.#queue.length > 0) {
      const wanted = this.#queue.findIndex(({ background }) => !background)
      const [transfer] = this.#queue.splice(Math.max(0, wanted), 1)
      this.#running++
      transfer!.begin?.()
    }
  }

  async #run(transfer: Transfer, turn: Promise<void>, fresh: boolean): Promise<void> {
    const { blob, controller } = transfer
    const { signal } = controller
    await turn
    transfer.begin = undefined
    const position = this.#queue.indexOf(transfer)
    const started = position < 0
    if (!started) this.#queue.splice(position, 1)
    const began = performance.now()
    try {
      // Blobs of one step come together: one that was refused beside a trial would end the trial with its step, and the circuit stay as it is.
      while (this.#breaker.trial && !signal.aborted) await this.#breaker.trial
      if (signal.aborted) throw cancelled(this.#urlOf(blob.file), method, signal.reason)
      const report = await this.#breaker.execute(() => this.#download(blob, signal, fresh))
      const { file, offset, bytes } = blob
      this.#onEvent({
        type: 'archive.fetched',
        file,
        offset,
        bytes,
        milliseconds: performance.now() - began,
        ...report
      })
    } catch (error) {
      if (!isEngineError(error) || error.code !== 'CANCELLED') {
        this.#onEvent({ type: 'archive.failed', file: blob.file, offset: blob.offset, error })
      }
      throw error
    } finally {
      if (this.#transfers.get(blob.sha256) === transfer) this.#transfers.delete(blob.sha256)
      if (started) this.#running--
      this.#next()
    }
  }

  #download(blob: BlobReference, signal: AbortSignal, fresh: boolean): Promise<DownloadReport> {
    const url = this.#urlOf(blob.file)
    const target = describeUrl(url)
    return this.#cold.receive(blob.sha256, blob.bytes, (sink) =>
      downloadBlob({
        client: this.#client,
        url,
        blob,
        sink,
        retry: this.#options.retry,
        seed: this.#seed,
        call: ++this.#calls,
        method,
        fresh,
        signal,
        onRetry: (event) => this.#tellRetry(url, event),
        onRestart: (reason) => this.#onEvent({ type: 'archive.restarted', target, reason })
      })
    )
  }

  /** Waits for a transfer; the last one who leaves ends it. */
  async #join(transfer: Transfer, signal: AbortSignal | undefined): Promise<void> {
    const { blob, controller, done } = transfer
    transfer.waiters++
    let leave: (() => void) | undefined
    const left = new Promise<never>((_, reject) => {
      leave = () => reject(cancelled(this.#urlOf(blob.file), method, signal?.reason))
    })
    left.catch(() => undefined)
    signal?.addEventListener('abort', leave!, { once: true })
    if (signal?.aborted) leave!()
    try {
      await Promise.race([done, left])
    } finally {
      signal?.removeEventListener('abort', leave!)
      if (--transfer.waiters === 0) {
        // A later fetch begins anew and does not join what is ending.
        if (this.#transfers.get(blob.sha256) === transfer) this.#transfers.delete(blob.sha256)
        controller.abort()
      }
    }
  }
}
