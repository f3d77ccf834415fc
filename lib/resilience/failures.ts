/** What a failure says about another attempt, and about what is behind a circuit. */
import type { EngineCode } from '../errors/index.js'
import { engineCodeOf, engineCodeRetry, isEngineError } from '../errors/index.js'

/** A cause has causes, but not for ever. */
const mostCauses = 8

/** Socket and name-server failures that pass, by Node's names and those of its fetch. */
const transientErrnos: ReadonlySet<string> = new Set([
  'ECONNRESET',
  'ECONNREFUSED',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENETDOWN',
  'EAI_AGAIN',
  'UND_ERR_SOCKET',
  'UND_ERR_CONNECT_TIMEOUT'
])

/** Failures that the caller has to answer for, by the names of other libraries' classes. */
const callersNames: ReadonlySet<string> = new Set(['ValidationError', 'InvalidParamsError', 'ParseError', 'AbortError'])

/** Failures of what is behind, not of one request. */
const countedCodes: ReadonlySet<EngineCode> = new Set([
  'InternalError',
  'ServerError',
  'RuntimeError',
  'TransportError',
  'Timeout',
  'UnknownError'
])

/** An error and its causes. */
function chain(error: unknown): unknown[] {
  const all: unknown[] = []
  for (let at = error; typeof at === 'object' && at !== null && all.length < mostCauses; ) {
    all.push(at)
    at = (at as { cause?: unknown }).cause
  }
  return all
}

const textOf = (error: unknown, key: string): string | undefined => {
  const value = (error as Record<string, unknown> | null | undefined)?.[key]
  return typeof value === 'string' ? value : undefined
}

/** The HTTP status of an error: the catalogue's, or what a client for HTTP noted on its own. */
function statusOf(error: unknown): number | undefined {
  if (isEngineError(error)) return error.httpStatus
  const { status, statusCode } = (error ?? {}) as { status?: unknown; statusCode?: unknown }
  return [status, statusCode].find((value) => typeof value === 'number')
}

const nameOf = (error: unknown): EngineCode | undefined =>
  isEngineError(error) ? error.engineCode : engineCodeOf(error)

/** All that `retryableErrors` can name an error by. */
function namesOf(error: unknown): Set<string> {
  const names = chain(error).flatMap((at) => [
    textOf(at, 'code'),
    nameOf(at),
    isEngineError(at) ? textOf(at.details, 'errno') : undefined
  ])
  return new Set(names.flatMap((name) => (name === undefined ? [] : [name.toLowerCase()])))
}

/**
 * Whether another attempt may help. With `names` (codes, engineCodes or errnos, case ignored) where one of them names the error or a cause of
 * it; without, as the catalogue says, and for foreign errors as their engineCode or errno does. The caller's faults (4xx but 429) never.
 */
export function isRetryable(error: unknown, names?: readonly string[]): boolean {
  const status = statusOf(error)
  if (status !== undefined && status >= 400 && status < 500 && status !== 429) return false
  if (names) {
    const own = namesOf(error)
    return names.some((name) => own.has(name.toLowerCase()))
  }
  for (const at of chain(error)) {
    if (isEngineError(at)) return at.retryable
    const name = engineCodeOf(at)
    if (name !== undefined && engineCodeRetry[name] !== 'inherit') return engineCodeRetry[name] === 'backoff'
    if (transientErrnos.has(textOf(at, 'code') ?? '')) return true
  }
  return false
}

/** Whether a circuit counts a failure: what is behind is at fault, not the caller, and it did not merely say that it is busy. */
export function countsAsFailure(error: unknown): boolean {
  if (callersNames.has(textOf(error, 'name') ?? '')) return false
  const status = statusOf(error)
  if (status !== undefined && (status < 500 || status === 503)) return false
  const name = nameOf(error)
  return name === undefined || countedCodes.has(name)
}
