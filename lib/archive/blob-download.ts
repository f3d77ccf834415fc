/** One blob from the archive: taken up again where a connection broke, from the beginning where the file changed or the bytes are wrong. */
import type { Hash } from 'node:crypto'
import { createHash } from 'node:crypto'
import type { AttemptOptions } from '../download/attempts.js'
import { attempts } from '../download/attempts.js'
import { describeUrl, refused } from '../download/failures.js'
import type { RangeAnswer, RangeClient } from '../download/range-request.js'
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import { native } from '../native.js'

/** Where a blob lies and what it must be. */
export interface BlobReference {
  /** Path in the checkpoint. */
  file: string
  offset: number
  bytes: number
  crc32c: number
  /** Lower-case hexadecimal. */
  sha256: string
  /** Size of the whole file, where the manifest says. */
  fileBytes?: number | undefined
}

/** Takes a blob's bytes; a restart writes from position 0 again. */
export interface BlobSink {
  write(piece: Buffer, position: number): Promise<void>
}

export interface DownloadOptions extends AttemptOptions {
  client: RangeClient
  url: URL
  blob: BlobReference
  sink: BlobSink
  /** An earlier copy was damaged: past the caches on the way. */
  fresh: boolean
  signal: AbortSignal
  /** What was received does not count: the file changed, or its bytes are wrong. */
  onRestart(reason: string): void
}

export interface DownloadReport {
  attempts: number
  /** Times that a broken transfer went on where it had stopped. */
  resumed: number
  restarted: number
  /** Bytes that came over the network. */
  received: number
}

/** A damaged or changing file is fetched from its beginning this often. */
const mostRestarts = 2

/**
 * Downloads a blob into the sink. NETWORK_PARTITION {target, retryCount, attempts} after the last attempt, ARCHIVE_REFUSED,
 * EXPERT_CORRUPTED {file, offset, expected, actual}, CANCELLED, and what the sink throws.
 */
export async function downloadBlob(options: DownloadOptions): Promise<DownloadReport> {
  const { retry, seed, call, method, signal, onRetry } = options
  const transfer = new Transfer(options)
  for (;;) {
    await attempts(() => transfer.attempt(), { retry, seed, call, method, signal, onRetry })
    const fault = transfer.check()
    if (!fault) return transfer.report
    if (transfer.report.restarted >= mostRestarts) throw fault
    transfer.restart(fault.message)
  }
}

class Transfer {
  readonly report: DownloadReport = { attempts: 0, resumed: 0, restarted: 0, received: 0 }
  readonly #options: DownloadOptions
  #received = 0
  #crc = 0
  #hash: Hash = createHash('sha256')
  #validator: string | undefined
  #fresh: boolean

  constructor(options: DownloadOptions) {
    this.#options = options
    this.#fresh = options.fresh
  }

  /** Receives what is missing. */
  async attempt(): Promise<void> {
    const { blob, sink, url } = this.#options
    this.report.attempts++
    let answer = await this.#open()
    while (this.#received > 0 && answer.validator !== this.#validator) {
      answer.discard()
      if (this.report.restarted >= mostRestarts) throw refused(url, 'the file changes while it is read')
      this.restart('the file changed')
      answer = await this.#open()
    }
    const { fileBytes } = answer
    if (blob.fileBytes !== undefined && fileBytes !== undefined && fileBytes !== blob.fileBytes) {
      answer.discard()
      throw refused(url, `the file has ${fileBytes} bytes, the manifest says ${blob.fileBytes}`)
    }
    if (this.#received > 0) this.report.resumed++
    this.#validator = answer.validator
    for await (const piece of answer.pieces) {
      await sink.write(piece, this.#received)
      this.#crc = native().crc32c(piece, this.#crc)
      this.#hash.update(piece)
      this.#received += piece.length
      this.report.received += piece.length
    }
  }

  /** What is wrong with the bytes, once all are there. */
  check(): EngineError | undefined {
    const { blob, url } = this.#options
    const sha256 = this.#hash.digest('hex')
    if (this.#crc === blob.crc32c && sha256 === blob.sha256) return undefined
    const { file, offset } = blob
    const sums =
      this.#crc === blob.crc32c
        ? { expected: blob.sha256, actual: sha256 }
        : { expected: blob.crc32c, actual: this.#crc }
    const text = `${describeUrl(url)}: the blob at ${offset} has the checksum ${sums.actual}, the manifest says ${sums.expected}`
    return createError('EXPERT_CORRUPTED', text, { file, offset, ...sums, target: describeUrl(url) })
  }

  restart(reason: string): void {
    this.report.restarted++
    this.#received = 0
    this.#crc = 0
    this.#hash = createHash('sha256')
    this.#validator = undefined
    this.#fresh = true
    this.#options.onRestart(reason)
  }

  #open(): Promise<RangeAnswer> {
    const { client, url, blob, signal } = this.#options
    const offset = blob.offset + this.#received
    const bytes = blob.bytes - this.#received
    const validator = this.#received > 0 ? this.#validator : undefined
    return client.open({ url, offset, bytes, validator, fresh: this.#fresh, signal })
  }
}
