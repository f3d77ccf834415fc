/** How requests to a web server fail, as typed errors. Addresses are told without their query and password: those may be secrets. */
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'

/** An address for messages. */
export const describeUrl = (url: URL): string => `${url.origin}${url.pathname}`

/** The server did not answer, or not to the end: it may another time. */
export function unreachable(
  url: URL,
  reason: string,
  details: Record<string, unknown> = {},
  cause?: unknown
): EngineError {
  const target = describeUrl(url)
  return createError(
    'NETWORK_PARTITION',
    `${target}: ${reason}`,
    { target, retryCount: 0, reason, ...details },
    { cause }
  )
}

/** The server answered that it will not give the bytes. */
export function refused(url: URL, reason: string, details: Record<string, unknown> = {}): EngineError {
  const target = describeUrl(url)
  return createError('ARCHIVE_REFUSED', `${target}: ${reason}`, { target, reason, ...details })
}

export function cancelled(url: URL, method: string, cause: unknown): EngineError {
  return createError('CANCELLED', `${describeUrl(url)}: the caller aborted`, { method }, { cause })
}

/** The error of an answer's status, which is neither 200 nor 206. `retryAfter` is the header. */
export function statusFailure(url: URL, status: number, retryAfter: string | undefined): EngineError {
  const details: Record<string, unknown> = { status }
  if (status === 401 || status === 403)
    return refused(url, `status ${status}: the server does not let it be read`, details)
  if (status === 404 || status === 410) return refused(url, `status ${status}: the server does not have it`, details)
  if (status === 416) return refused(url, 'status 416: the file ends before the range', details)
  if (status < 500 && status !== 408 && status !== 425 && status !== 429)
    return refused(url, `status ${status}`, details)
  const seconds = retryAfterSeconds(retryAfter)
  if (seconds !== undefined) details.retryAfterSeconds = seconds
  return unreachable(url, `status ${status}`, details)
}

/** Seconds of a Retry-After header, which is a number of seconds or a date (RFC 9110, 10.2.3). */
function retryAfterSeconds(header: string | undefined): number | undefined {
  if (header === undefined) return undefined
  if (/^\d{1,9}$/.test(header)) return Number(header)
  const date = Date.parse(header)
  return Number.isNaN(date) ? undefined : Math.max(0, Math.ceil((date - Date.now()) / 1000))
}
