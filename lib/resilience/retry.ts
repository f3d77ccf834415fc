/** Calls again what failed for a reason that may pass. */
import { setTimeout as sleep } from 'node:timers/promises'
import { createError, EngineError, isEngineError } from '../errors/index.js'
import type { RetryProfile } from './backoff.js'
import { retryDelay } from './backoff.js'

export interface RetryEvent {
  /** The attempt that failed, from 1. */
  attempt: number
  maxAttempts: number
  delayMs: number
  error: unknown
}

export interface RetryOptions {
  profile: RetryProfile
  /** Of the jitter. */
  seed: number
  /** Number of the call, part of what the jitter comes from. */
  call: number
  /** What is being done, for the error. */
  method: string
  /** Which failures to try again. Default: those that the catalogue calls retryable. */
  retryable?: (error: EngineError) => boolean
  signal?: AbortSignal | undefined
  onRetry?: ((event: RetryEvent) => void) | undefined
}

/** Longest wait that a server's Retry-After can ask for, in milliseconds. */
const longestWait = 60_000

/**
 * The result of `attempt`, called until it succeeds, fails with an error that is not retryable, or has failed `attempts` times. The
 * last error keeps its code and gains details.attempts, retryCount and method. Aborting rejects at once with CANCELLED.
 */
export async function retryWithBackoff<T>(attempt: (number: number) => Promise<T>, options: RetryOptions): Promise<T> {
  const { profile, seed, call, method, signal, onRetry } = options
  const retryable = options.retryable ?? ((error) => error.retryable)
  for (let number = 1; ; number++) {
    if (signal?.aborted) throw aborted(method, signal, number - 1)
    try {
      return await attempt(number)
    } catch (error) {
      if (signal?.aborted) throw aborted(method, signal, number)
      if (!isEngineError(error) || !retryable(error)) throw error
      if (number >= profile.attempts) throw exhausted(error, method, number, profile, seed, call)
      const asked = (error.details.retryAfterSeconds ?? 0) * 1000
      const delayMs = Math.max(retryDelay(profile, number, seed, call), Math.min(asked, longestWait))
      onRetry?.({ attempt: number, maxAttempts: profile.attempts, delayMs, error })
      // The only rejection there is: the signal's. The loop's head tells it.
      await sleep(delayMs, undefined, signal ? { signal } : {}).catch(() => undefined)
    }
  }
}

function exhausted(
  error: EngineError,
  method: string,
  attempts: number,
  profile: RetryProfile,
  seed: number,
  call: number
): EngineError {
  const retryAfterSeconds = Math.ceil(retryDelay(profile, attempts, seed, call) / 1000)
  const message = `${error.message} (after ${attempts} attempts)`
  const details = { retryAfterSeconds, ...error.details, method, attempts, retryCount: attempts - 1 }
  return new EngineError(error.code, message, details, { cause: error.cause ?? error })
}

function aborted(method: string, signal: AbortSignal, attempts: number): EngineError {
  return createError('CANCELLED', `${method}: the caller aborted`, { method, attempts }, { cause: signal.reason })
}
