/** Calls again what failed for a reason that may pass. */
import type { EngineError } from '../errors/index.js'
import { errorOf, isEngineError, RetryAbortedError } from '../errors/index.js'
import type { Backoff } from './backoff.js'
import { retryDelay, systemRandom } from './backoff.js'
import type { Clock } from './clock.js'
import { orAborted, systemClock } from './clock.js'
import { isRetryable } from './failures.js'
import { checkRetry } from './options.js'

/** Told before the wait. */
export interface RetryEvent {
  /** The attempt that failed, from 1. */
  attempt: number
  maxAttempts: number
  delayMs: number
  error: unknown
}

export interface RetryOptions extends Backoff {
  /** Attempts in all, the first one counted. */
  maxAttempts: number
  /**
   * Failures to try again, by code, engineCode or errno, case ignored. Default: what the catalogue says of its own errors, what their
   * engineCode says of others, and socket errors that pass. The caller's faults (HTTP 4xx but 429) are never tried again.
   */
  retryableErrors?: readonly string[] | undefined
  signal?: AbortSignal | undefined
  onRetry?: ((event: RetryEvent) => void) | undefined
  /** Asked after a failure: the attempt got further than those before, so attempts and delays count from the first again. */
  gotFurther?: (() => boolean) | undefined
  /** What is being done, for errors. */
  method?: string | undefined
  /** Numbers from 0 up to 1 for the jitter. Default: the system's. */
  random?: (() => number) | undefined
  clock?: Clock | undefined
}

/** Longest wait that a Retry-After can ask for, in milliseconds. */
const longestAsked = 60_000

/**
 * The result of `fn`, called until it succeeds, fails for a reason that does not pass, or has failed `maxAttempts` times. The last error keeps
 * its code and class and gains details.attempts, retryCount and method; one that is not of this library is thrown as it is. Aborting rejects
 * at once, with RetryAbortedError {attempts, cause}. VALIDATION_ERROR for bad options.
 */
export async function retryWithBackoff<T>(fn: (attempt: number) => T | Promise<T>, options: RetryOptions): Promise<T> {
  checkRetry(options)
  const {
    maxAttempts,
    retryableErrors,
    signal,
    onRetry,
    gotFurther,
    random = systemRandom,
    clock = systemClock
  } = options
  for (let attempt = 1; ; attempt++) {
    if (signal?.aborted) throw aborted(options, attempt - 1)
    try {
      return await orAborted(called(fn, attempt), signal)
    } catch (error) {
      if (signal?.aborted) throw aborted(options, attempt)
      if (!isRetryable(error, retryableErrors)) throw error
      if (gotFurther?.()) attempt = 1
      const backoffMs = retryDelay(options, attempt, random)
      if (attempt >= maxAttempts) throw isEngineError(error) ? exhausted(error, options, attempt, backoffMs) : error
      const delayMs = Math.max(backoffMs, askedMs(error))
      onRetry?.({ attempt, maxAttempts, delayMs, error })
      // The only rejection there is: the signal's. The loop's head tells it.
      await clock.sleep(delayMs, signal).catch(() => undefined)
    }
  }
}

/** What throws at once fails as what rejects later does. */
export async function called<T>(fn: (attempt: number) => T | Promise<T>, attempt: number): Promise<T> {
  return fn(attempt)
}

/** Milliseconds that the one who refused asks to wait. */
const askedMs = (error: unknown): number =>
  isEngineError(error) ? Math.min((error.details.retryAfterSeconds ?? 0) * 1000, longestAsked) : 0

const methodOf = ({ method }: RetryOptions, error?: EngineError): string => {
  const own = error?.details.method
  return method ?? (typeof own === 'string' ? own : 'call')
}

function exhausted(error: EngineError, options: RetryOptions, attempts: number, backoffMs: number): EngineError {
  const message = `${error.message} (after ${attempts} ${attempts === 1 ? 'attempt' : 'attempts'})`
  const method = methodOf(options, error)
  const retryAfterSeconds = Math.ceil(backoffMs / 1000)
  const details = { retryAfterSeconds, ...error.details, method, attempts, retryCount: attempts - 1 }
  return errorOf(error.code, message, details, { cause: error.cause ?? error })
}

function aborted(options: RetryOptions, attempts: number): RetryAbortedError {
  const method = methodOf(options)
  const text = `${method}: the caller aborted`
  return new RetryAbortedError(text, { method, attempts }, { cause: options.signal?.reason })
}
