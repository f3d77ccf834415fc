/** Breaker, retries and a deadline around one call. */
import type { CircuitBreaker } from './breaker.js'
import { orAborted } from './clock.js'
import type { Deadline } from './deadline.js'
import type { RetryOptions } from './retry.js'
import { called, retryWithBackoff } from './retry.js'

export interface ResilienceOptions {
  breaker?: CircuitBreaker | undefined
  retry?: RetryOptions | undefined
  /** Of all attempts and waits together. */
  deadline?: Deadline | undefined
}

/**
 * The result of `fn`: tried again inside the breaker, so that a call with all its retries counts once. Errors: those of `retryWithBackoff`,
 * CircuitBreakerOpenError, and at the deadline at once `deadline.error()`; hand `deadline.signal` to what `fn` calls, so that it ends too.
 */
export async function withResilience<T>(
  fn: (attempt: number) => T | Promise<T>,
  { breaker, retry, deadline }: ResilienceOptions
): Promise<T> {
  // A call that comes too late says nothing about what is behind.
  deadline?.check()
  const attempts = async (): Promise<T> => {
    try {
      if (!retry) return await orAborted(called(fn, 1), deadline?.signal)
      const signals = [retry.signal, deadline?.signal].filter((signal) => signal !== undefined)
      return await retryWithBackoff(fn, { ...retry, ...(signals.length > 0 && { signal: AbortSignal.any(signals) }) })
    } catch (error) {
      throw deadline?.signal.aborted ? deadline.error() : error
    }
  }
  return breaker ? breaker.execute(attempts) : attempts()
}
