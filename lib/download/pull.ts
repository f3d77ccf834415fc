/** A file from a web server, whole or not at all: gone on with where it broke off, and checked. */
import { createHash, randomInt } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { basename, dirname, resolve } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { z } from 'zod'
import { checkRoom } from '../disk-room.js'
import { createError, errnoOf, isEngineError, readFailed } from '../errors/index.js'
import { makeFolder } from '../folders.js'
import type { RetryEvent } from '../resilience/retry.js'
import { retryTold } from '../resilience/retry-told.js'
import { callback, validated } from '../schemas.js'
import type { EngineEvent } from '../telemetry/event-catalog.js'
import type { Logger } from '../telemetry/logger.js'
import { isLogger } from '../telemetry/logger.js'
import { Telemetry } from '../telemetry/telemetry.js'
import { refusal } from '../validation.js'
import { attempts } from './attempts.js'
import { cancelled, describeUrl, refused } from './failures.js'
import type { TransferRetry, TransferTimeouts } from './options.js'
import { headersSchema, retrySchema, timeoutFields, webAddress } from './options.js'
import type { Whole } from './partial.js'
import { PartialFile } from './partial.js'
import type { RangeAnswer } from './range-request.js'
import { RangeClient } from './range-request.js'

export interface PullRequest {
  /** Where the file is; a query (a signature) is sent and never noted. */
  url: string
  /** The path that it gets. */
  to: string
  /** What its bytes must have, in hexadecimal. */
  sha256?: string
  /** What its size must be. Default: what the server says. */
  bytes?: number
  /** Sent to that host alone, `authorization` for example. Never logged. */
  headers?: Record<string, string>
  /** Take the place of a file of that name. Default false. */
  replace?: boolean
}

export interface PullProgress {
  bytesDone: number
  bytesTotal: number
}

export interface PullOptions {
  signal?: AbortSignal
  onProgress?: (progress: PullProgress) => void
  /** Told of download_retry and download_restarted. */
  onEvent?: (event: EngineEvent) => void
  logger?: Logger
  /** Waits of one request; the whole answer may take as long as bytes come. */
  timeouts?: Partial<Omit<TransferTimeouts, 'totalMs'>>
  /** Default: 5 attempts, 1, 2, 4, 8, 16 s after each failure, and up to 1 s more; they count from the first again once bytes came. */
  retry?: Partial<TransferRetry>
  /** Of the jitter. Default: another one each time. */
  seed?: number
}

export interface PullResult {
  path: string
  bytes: number
  /** Lower-case hexadecimal. */
  sha256: string
  /** Times that it went on with bytes which were there, those of an earlier call too. */
  resumed: number
  /** Times that what was there did not count. */
  restarted: number
  /** Requests; 0 where the file was there already. */
  attempts: number
}

const requestSchema = z.strictObject({
  url: webAddress,
  to: z
    .string()
    .min(1)
    .refine((path) => !path.includes('\0'))
    .describe('the path of a file'),
  sha256: z
    .string()
    .regex(/^[0-9a-fA-F]{64}$/)
    .transform((text) => text.toLowerCase())
    .optional()
    .describe('64 hexadecimal digits'),
  bytes: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER).optional().describe('a number of bytes'),
  headers: headersSchema.default({}),
  replace: z.boolean().default(false).describe('true or false')
})

const optionsSchema = z.strictObject({
  signal: z.instanceof(AbortSignal).optional().describe('an AbortSignal'),
  onProgress: callback<(progress: PullProgress) => void>().describe('a function'),
  onEvent: callback<(event: EngineEvent) => void>().describe('a function'),
  logger: z.custom<Logger>(isLogger).optional().describe('an object with the methods debug, info, warn and error'),
  timeouts: z.strictObject(timeoutFields).prefault({}).describe('{connectMs, firstByteMs, betweenBytesMs}'),
  retry: retrySchema,
  seed: z
    .number()
    .int()
    .min(0)
    .max(2 ** 32 - 1)
    .optional()
    .describe('an integer from 0 to 4294967295')
})

type Request = z.output<typeof requestSchema>
type Options = z.output<typeof optionsSchema>

const method = 'pullFile'
/** A damaged or changing file is fetched from its beginning this often. */
const mostRestarts = 2
/** Bytes that make an attempt one that got further: fewer would let a server that breaks off at once be asked for ever. */
const furtherBytes = 64 * 1024
/** A disk that is filled to its last byte fails whoever else writes: share of what is missing that has to be free beside it. */
const spareShare = 0.05

/**
 * Downloads a file to `to`. What has come is kept beside it (`<to>.part`) where it fails or is aborted, and the same call goes on with it;
 * bytes that are not those of `sha256` are deleted and fetched again, twice. Before the first byte it looks whether the disk has room.
 * VALIDATION_ERROR, where another file has the name too; NETWORK_PARTITION {target, retryCount, attempts}, ARCHIVE_REFUSED {target, reason},
 * AUTH_TOKEN_EXPIRED {target, status}, MODEL_CORRUPTED {path, target, expectedSha256, actualSha256}, RESOURCE_DISK_EXHAUSTED {required,
 * available}, RESOURCE_FILES_EXHAUSTED, FILE_WRITE_FAILED (errno EBUSY where another call writes it), FILE_READ_FAILED, CANCELLED.
 */
export async function pullFile(request: PullRequest, options: PullOptions = {}): Promise<PullResult> {
  const checked = validated(requestSchema, request, method)
  const settings = validated(optionsSchema, options, method)
  const to = resolve(checked.to)
  const url = new URL(checked.url)
  if (settings.signal?.aborted) throw cancelled(url, method, settings.signal.reason)
  const there = await alreadyThere(to, checked)
  if (there) return there
  await makeFolder(dirname(to))
  const telemetry = new Telemetry({ logger: settings.logger, onEvent: settings.onEvent, openTelemetry: false })
  telemetry.open()
  const wanted = { url: describeUrl(url), sha256: checked.sha256 ?? null, bytes: checked.bytes }
  const part = await PartialFile.open(to, wanted, settings.signal)
  const pull = new Pull(to, url, checked, settings, part, telemetry)
  try {
    return await pull.run()
  } finally {
    await pull.close()
  }
}

/** The result where the very file is in its place; VALIDATION_ERROR where another one is that is not to be replaced. */
async function alreadyThere(to: string, { sha256, replace }: Request): Promise<PullResult | undefined> {
  const info = await stat(to).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw readFailed(to, error)
  })
  if (!info) return undefined
  if (!info.isFile()) throw refusal(method, 'to', `${to}, which is no file`, 'the path of a file')
  if (sha256 !== undefined && (await sumOf(to)) === sha256) {
    return { path: to, bytes: info.size, sha256, resumed: 0, restarted: 0, attempts: 0 }
  }
  if (replace) return undefined
  const which = sha256 === undefined ? 'which is there' : 'which has other bytes'
  throw refusal(method, 'to', `${to}, ${which}`, 'a path that is free, or replace: true (--replace)')
}

async function sumOf(path: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path), hash).catch((error: unknown) => {
    throw readFailed(path, error)
  })
  return hash.digest('hex')
}

/** One download under way. */
class Pull {
  readonly #to: string
  readonly #url: URL
  readonly #request: Request
  readonly #options: Options
  readonly #part: PartialFile
  readonly #telemetry: Telemetry
  readonly #client: RangeClient
  readonly #report = { resumed: 0, restarted: 0, attempts: 0 }
  /** Times that the file was another one, or damaged. */
  #wrong = 0
  /** Bytes that the attempt under way has to go beyond. */
  #from = 0
  /** What was fetched is wrong: past the caches on the way. */
  #fresh = false

  constructor(to: string, url: URL, request: Request, options: Options, part: PartialFile, telemetry: Telemetry) {
    this.#to = to
    this.#url = url
    this.#request = request
    this.#options = options
    this.#part = part
    this.#telemetry = telemetry
    const timeouts = { ...options.timeouts, totalMs: Number.POSITIVE_INFINITY }
    this.#client = new RangeClient(url, request.headers, timeouts, method)
  }

  async run(): Promise<PullResult> {
    for (;;) {
      await this.#receive()
      const sha256 = this.#part.sha256()
      const expected = this.#request.sha256
      if (expected === undefined || sha256 === expected) return this.#finish(sha256)
      if (this.#wrong >= mostRestarts) await this.#giveUp(expected, sha256)
      await this.#fetchAgain(`its SHA-256 is ${sha256}, not ${expected}`)
    }
  }

  /** Leaves what has come; nothing after the end. */
  async close(): Promise<void> {
    this.#client.close()
    await this.#part.close()
    await this.#telemetry.flush()
  }

  async #receive(): Promise<void> {
    const { retry, seed = randomInt(2 ** 32), signal } = this.#options
    try {
      await attempts(() => this.#attempt(), {
        retry,
        seed,
        call: this.#report.restarted,
        method,
        signal,
        onRetry: (event) => this.#tellRetry(event),
        gotFurther: () => this.#part.received - this.#from >= furtherBytes
      })
    } catch (error) {
      throw expired(error) ?? error
    }
  }

  /** Receives what is missing. */
  async #attempt(): Promise<void> {
    const part = this.#part
    const hasSum = this.#request.sha256 !== undefined
    if (hasSum && part.complete) return
    // What comes once more is nothing further: a server that always breaks off would be asked for ever.
    this.#from = Math.max(this.#from, part.received)
    if (!hasSum && part.received > 0 && part.whole?.validator === null) {
      await this.#restart('nothing says whether it is still the same file')
    }
    const answer = await this.#open()
    if (!answer) return
    const whole: Whole = {
      url: describeUrl(this.#url),
      bytes: answer.fileBytes ?? 0,
      validator: answer.validator ?? null,
      sha256: this.#request.sha256 ?? null
    }
    try {
      const { bytes = whole.bytes } = this.#request
      if (bytes !== whole.bytes) throw refused(this.#url, `the file has ${whole.bytes} bytes, expected were ${bytes}`)
      await checkRoom(dirname(this.#to), Math.ceil((bytes - part.received) * (1 + spareShare)))
      if (part.received === 0) await part.begin(whole)
      else this.#report.resumed++
      this.#options.onProgress?.({ bytesDone: part.received, bytesTotal: bytes })
      for await (const piece of answer.pieces) {
        await part.append(piece)
        this.#options.onProgress?.({ bytesDone: part.received, bytesTotal: bytes })
      }
    } catch (error) {
      answer.discard()
      throw error
    }
  }

  /** The answer for what is missing, for all of it where the file is another one now; undefined where nothing is missing. */
  async #open(): Promise<RangeAnswer | undefined> {
    for (;;) {
      const part = this.#part
      const { whole, complete } = part
      // Where all is there its last byte: the answer says whether the file is still the same.
      const answer = await this.#ask(Math.max(0, part.received - (complete ? 1 : 0)), whole?.validator)
      if (!whole || part.received === 0) return answer
      const same = (whole.validator ?? answer.validator) === answer.validator && answer.fileBytes === whole.bytes
      if (same && !complete) return answer
      answer.discard()
      if (same) return undefined
      await this.#changed()
    }
  }

  /** Asks for all from `offset` on. */
  async #ask(offset: number, validator: string | null | undefined): Promise<RangeAnswer> {
    this.#report.attempts++
    const { signal } = this.#options
    const bytes = Number.POSITIVE_INFINITY
    const request = { url: this.#url, offset, bytes, most: Number.MAX_SAFE_INTEGER, fresh: this.#fresh, signal }
    try {
      return await this.#client.open({ ...request, ...(validator && offset > 0 && { validator }) })
    } catch (error) {
      // A file that ends before what is there of it is another one.
      if (offset === 0 || !isEngineError(error) || error.details.status !== 416) throw error
      await this.#changed()
      return this.#ask(0, undefined)
    }
  }

  async #changed(): Promise<void> {
    if (this.#wrong >= mostRestarts) throw refused(this.#url, 'the file changes while it is read')
    await this.#fetchAgain('the file changed')
  }

  async #fetchAgain(reason: string): Promise<void> {
    this.#wrong++
    this.#fresh = true
    this.#from = 0
    await this.#restart(reason)
  }

  async #restart(reason: string): Promise<void> {
    this.#report.restarted++
    const target = describeUrl(this.#url)
    this.#telemetry.event('download_restarted', `${target} is fetched from its beginning: ${reason}`, {
      target,
      reason
    })
    await this.#part.restart()
  }

  async #finish(sha256: string): Promise<PullResult> {
    const bytes = this.#part.received
    // Somebody may have put a file there meanwhile.
    if (!this.#request.replace && (await alreadyThere(this.#to, this.#request))) await this.#part.remove()
    else await this.#part.finish()
    return { path: this.#to, bytes, sha256, ...this.#report }
  }

  async #giveUp(expectedSha256: string, actualSha256: string): Promise<never> {
    await this.#part.remove()
    const target = describeUrl(this.#url)
    const text = `${target}: the file has the SHA-256 ${actualSha256}, expected was ${expectedSha256}`
    throw createError('MODEL_CORRUPTED', text, {
      file: this.#to,
      target,
      expectedSha256,
      actualSha256,
      suggestedAction:
        'Check the sum that was expected, and the server: each copy of the file was wrong. Nothing of it is left.'
    })
  }

  #tellRetry(event: RetryEvent): void {
    const { message, fields } = retryTold(event, this.#options.retry.delaysMs)
    const bytesDone = this.#part.received
    this.#telemetry.event('download_retry', message, { target: describeUrl(this.#url), ...fields, bytesDone })
  }
}

/** AUTH_TOKEN_EXPIRED where the server wants other credentials than it got. */
function expired(error: unknown): unknown {
  if (!isEngineError(error) || error.code !== 'ARCHIVE_REFUSED') return undefined
  const { status, target } = error.details
  if (status !== 401 && status !== 403) return undefined
  const text = `${target}: status ${status}, the credentials or the signature of the address do not count (any more)`
  return createError('AUTH_TOKEN_EXPIRED', text, { target, status }, { cause: error })
}

/** The name that a file gets which nobody names: the last part of its address. VALIDATION_ERROR where that is none. */
export function fileNameOf(url: string): string {
  const address = new URL(validated(requestSchema.pick({ url: true }), { url }, method).url)
  let name = ''
  try {
    name = basename(decodeURIComponent(address.pathname))
  } catch {
    // What is no text is no name.
  }
  if (name === '' || name === '.' || name === '..' || /\p{Cc}/u.test(name)) {
    throw refusal(method, 'url', `${describeUrl(address)}, which ends without a name`, 'with --to, or with a file name')
  }
  return name
}
