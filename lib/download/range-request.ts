/** One range of a file by HTTP (RFC 9110, section 14): checked, with a time limit on every wait. */
import type { ClientRequest, IncomingMessage } from 'node:http'
import { Agent as HttpAgent, request as httpRequest } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import { performance } from 'node:perf_hooks'
import { isEngineError } from '../errors/index.js'
import { cancelled, refused, statusFailure, unreachable } from './failures.js'
import type { TransferTimeouts } from './options.js'

export interface RangeRequest {
  url: URL
  offset: number
  /** Infinity: all from `offset` to the end of the file. */
  bytes: number
  /** Bytes that the whole file may have, where its end is asked for. Default 64 MiB. */
  most?: number
  /** The validator of an earlier answer: another version of the file is answered as a whole (If-Range). */
  validator?: string | undefined
  /** Past the caches on the way, which may hold a damaged copy. */
  fresh?: boolean
  signal?: AbortSignal | undefined
}

export interface RangeAnswer {
  /** What names this version of the file: a strong ETag, else its date of modification. */
  validator: string | undefined
  /** Size of the whole file, where the server tells. */
  fileBytes: number | undefined
  /** The server sent the file from its beginning (status 200); `pieces` skips to the range all the same. */
  whole: boolean
  /** The range's bytes. Throws NETWORK_PARTITION where it ends early or stalls, CANCELLED. Leaving the loop closes the connection. */
  pieces: AsyncGenerator<Buffer, void, void>
  /** Closes the connection: for an answer whose pieces are not read. */
  discard(): void
}

/** A server that ignores ranges is put up with as long as no more than this is thrown away for a blob. */
const mostSkipped = 64 * 2 ** 20
const mostWhole = 64 * 2 ** 20
const mostRedirects = 5

export class RangeClient {
  readonly #timeouts: TransferTimeouts
  readonly #headers: Record<string, string>
  readonly #home: string
  readonly #method: string
  readonly #agents = { 'http:': new HttpAgent({ keepAlive: true }), 'https:': new HttpsAgent({ keepAlive: true }) }

  /** `headers` go to the host of `home` only; `method` is what errors say was being done. */
  constructor(home: URL, headers: Record<string, string>, timeouts: TransferTimeouts, method: string) {
    this.#home = home.origin
    this.#headers = headers
    this.#timeouts = timeouts
    this.#method = method
  }

  /**
   * Asks for a range, following redirects. NETWORK_PARTITION {target, reason, status?, retryAfterSeconds?}, ARCHIVE_REFUSED {target,
   * reason, status?}, CANCELLED.
   */
  async open(request: RangeRequest): Promise<RangeAnswer> {
    const { offset, bytes, signal } = request
    let { url } = request
    for (let redirects = 0; ; redirects++) {
      const response = await this.#send(url, request)
      const status = response.statusCode ?? 0
      const location = response.headers.location
      if ([301, 302, 303, 307, 308].includes(status) && location !== undefined) {
        response.destroy()
        if (redirects >= mostRedirects) throw refused(url, `more than ${mostRedirects} redirects`)
        if (!URL.canParse(location, url.href)) throw refused(url, 'a redirect to no address')
        url = new URL(location, url)
        if (!(url.protocol in this.#agents)) throw refused(url, `a redirect to the protocol ${url.protocol}`)
        continue
      }
      try {
        if (bytes !== Number.POSITIVE_INFINITY) return this.#range(url, response, offset, bytes, signal)
        return this.#rest(url, response, offset, request.most ?? mostWhole, signal)
      } catch (error) {
        response.destroy()
        throw error
      }
    }
  }

  /** Closes idle connections. */
  close(): void {
    for (const agent of Object.values(this.#agents)) agent.destroy()
  }

  #range(
    url: URL,
    response: IncomingMessage,
    offset: number,
    bytes: number,
    signal: AbortSignal | undefined
  ): RangeAnswer {
    const { validator, length, status } = readHead(url, response)
    const whole = status === 200
    let fileBytes = length
    if (whole) {
      if (offset > mostSkipped) throw refused(url, `the server ignores ranges, and this one begins at ${offset}`)
      if (length !== undefined && length < offset + bytes) {
        throw refused(url, `the file has ${length} bytes, the range ends at ${offset + bytes}`)
      }
    } else {
      const { first, last, total, text } = readRange(response)
      if (total !== undefined && total < offset + bytes)
        throw refused(url, `the file has ${total} bytes, the range ends at ${offset + bytes}`)
      if (first !== offset || last !== offset + bytes - 1 || (length !== undefined && length !== bytes)) {
        throw unreachable(url, `another range than was asked for: ${text}, ${length} bytes`)
      }
      fileBytes = total
    }
    const pieces = this.#pieces(url, response, whole ? offset : 0, bytes, signal)
    return { validator, fileBytes, whole, pieces, discard: () => response.destroy() }
  }

  #rest(
    url: URL,
    response: IncomingMessage,
    offset: number,
    most: number,
    signal: AbortSignal | undefined
  ): RangeAnswer {
    const { validator, length, status } = readHead(url, response)
    const whole = status === 200
    let fileBytes = length
    if (!whole) {
      const { first, last, total, text } = readRange(response)
      if (first !== offset || total === undefined || last !== total - 1) {
        throw unreachable(url, `another range than was asked for: ${text}, not from ${offset} to the end`)
      }
      fileBytes = total
    }
    if (fileBytes === undefined) throw refused(url, 'an answer without its length')
    if (fileBytes > most) throw refused(url, `the file has ${fileBytes} bytes, of ${most} allowed`)
    const pieces = this.#pieces(url, response, whole ? offset : 0, Math.max(0, fileBytes - offset), signal)
    return { validator, fileBytes, whole, pieces, discard: () => response.destroy() }
  }

  async *#pieces(
    url: URL,
    response: IncomingMessage,
    skip: number,
    bytes: number,
    signal: AbortSignal | undefined
  ): AsyncGenerator<Buffer, void, void> {
    const { betweenBytesMs, totalMs } = this.#timeouts
    const end = performance.now() + totalMs
    const source = response[Symbol.asyncIterator]() as AsyncIterator<Buffer>
    let received = 0
    try {
      while (received < skip + bytes) {
        const left = Math.max(1, end - performance.now())
        const late = left < betweenBytesMs ? `not finished after ${totalMs} ms` : `no byte for ${betweenBytesMs} ms`
        const timer = setTimeout(() => response.destroy(unreachable(url, late)), Math.min(betweenBytesMs, left))
        const next = await source.next().finally(() => clearTimeout(timer))
        if (next.done) throw unreachable(url, `the answer ended after ${received} of ${skip + bytes} bytes`)
        const from = Math.max(0, skip - received)
        const to = Math.min(next.value.length, skip + bytes - received)
        received += next.value.length
        if (to > from) yield next.value.subarray(from, to)
      }
      // The end of the message frees the connection for the next request.
      if (response.complete) await source.next()
    } catch (error) {
      throw this.#explain(url, error, signal, `the connection broke after ${received} of ${skip + bytes} bytes`)
    } finally {
      response.destroy()
    }
  }

  /** Sends the request; the head of the answer. */
  async #send(url: URL, request: RangeRequest): Promise<IncomingMessage> {
    for (;;) {
      const { response, reused, error } = await this.#trySend(url, request)
      if (response) return response
      // A kept connection that the server had closed meanwhile says nothing about the server.
      if (reused && !isEngineError(error) && !request.signal?.aborted) continue
      throw this.#explain(url, error, request.signal, 'no connection')
    }
  }

  #trySend(url: URL, request: RangeRequest): Promise<{ response?: IncomingMessage; reused: boolean; error?: unknown }> {
    const { offset, bytes, validator, fresh, signal } = request
    const { connectMs, firstByteMs } = this.#timeouts
    const headers: Record<string, string> = url.origin === this.#home ? { ...this.#headers } : {}
    if (bytes !== Number.POSITIVE_INFINITY) headers.range = `bytes=${offset}-${offset + bytes - 1}`
    else if (offset > 0) headers.range = `bytes=${offset}-`
    headers['accept-encoding'] = 'identity'
    if (validator !== undefined) headers['if-range'] = validator
    if (fresh) headers['cache-control'] = 'no-cache'
    return new Promise((resolve) => {
      const secure = url.protocol === 'https:'
      const agent = this.#agents[secure ? 'https:' : 'http:']
      const options = { agent, headers, ...(signal && { signal }) }
      const sent: ClientRequest = secure ? httpsRequest(url, options) : httpRequest(url, options)
      let timer: NodeJS.Timeout
      const wait = (ms: number, what: string): void => {
        clearTimeout(timer)
        timer = setTimeout(() => sent.destroy(unreachable(url, `${what} within ${ms} ms`)), ms)
      }
      sent.on('socket', (socket) => {
        if (!socket.connecting) return wait(firstByteMs, 'no answer')
        wait(connectMs, 'no connection')
        socket.once(secure ? 'secureConnect' : 'connect', () => wait(firstByteMs, 'no answer'))
      })
      sent.on('response', (response) => {
        clearTimeout(timer)
        resolve({ response, reused: sent.reusedSocket })
      })
      sent.on('error', (error) => {
        clearTimeout(timer)
        resolve({ reused: sent.reusedSocket, error })
      })
      // Without either of them where the server wants to change the protocol (status 101).
      sent.on('close', () => {
        clearTimeout(timer)
        resolve({ reused: false, error: unreachable(url, 'the connection was closed before an answer') })
      })
      sent.end()
    })
  }

  #explain(url: URL, error: unknown, signal: AbortSignal | undefined, reason: string): unknown {
    if (signal?.aborted) return cancelled(url, this.#method, signal.reason)
    if (isEngineError(error)) return error
    const { code } = error as NodeJS.ErrnoException
    return unreachable(url, code ? `${reason} (${code})` : reason, code ? { systemCode: code } : {}, error)
  }
}

/** The range that an answer of status 206 says it is; without its total where the server does not tell. */
function readRange({ headers }: IncomingMessage): {
  first: number
  last: number
  total: number | undefined
  text: string
} {
  const text = headers['content-range'] ?? 'none named'
  const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(text) ?? []
  const known = total !== undefined && total !== '*'
  return { first: Number(first), last: Number(last), total: known ? Number(total) : undefined, text }
}

/** What the head of an answer says, of status 200 or 206. */
function readHead(
  url: URL,
  { headers, statusCode: status = 0 }: IncomingMessage
): { validator: string | undefined; length: number | undefined; status: number } {
  if (status !== 200 && status !== 206) throw statusFailure(url, status, headers['retry-after'])
  const coding = headers['content-encoding']
  if (coding !== undefined && coding !== 'identity') throw refused(url, `an answer in the coding ${coding}`)
  const { etag } = headers
  const length = headers['content-length']
  return {
    // A weak ETag names no bytes.
    validator: etag?.startsWith('"') ? etag : headers['last-modified'],
    length: length === undefined ? undefined : Number(length),
    status
  }
}
