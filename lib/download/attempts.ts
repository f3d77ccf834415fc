/** Attempts of one transfer, on the schedule for networks. */

import { createError, RetryAbortedError } from '../errors/index.js'
import { seededRandom } from '../resilience/backoff.js'
import { profiles } from '../resilience/profiles.js'
import type { RetryEvent } from '../resilience/retry.js'
import { retryWithBackoff } from '../resilience/retry.js'
import type { TransferRetry } from './options.js'

export interface AttemptOptions {
  retry: TransferRetry
  /** Of the jitter, with the number of the transfer. */
  seed: number
  call: number
  /** What is being done, for errors. */
  method: string
  signal?: AbortSignal | undefined
  onRetry(event: RetryEvent): void
  /** Whether the attempt that failed got further, so that its failure is the first one again. */
  gotFurther?: () => boolean
}

/**
 * The result of `attempt`, as `retryWithBackoff` has it. After an abort the attempt under way has ended too: it writes into what its caller
 * then closes.
 */
export async function attempts<T>(attempt: () => Promise<T>, options: AttemptOptions): Promise<T> {
  const { retry, seed, call, method, signal, onRetry, gotFurther } = options
  let running: Promise<T> | undefined
  const begin = (): Promise<T> => {
    running = attempt()
    return running
  }
  try {
    return await retryWithBackoff(begin, {
      ...profiles.network.retry,
      maxAttempts: retry.attempts,
      delaysMs: retry.delaysMs,
      jitter: { addMs: retry.jitterMs },
      retryableErrors: ['NETWORK_PARTITION'],
      random: seededRandom(seed, call),
      method,
      signal,
      onRetry,
      gotFurther
    })
  } catch (error) {
    await running?.catch(() => undefined)
    // To a caller it is an abort like any other.
    if (error instanceof RetryAbortedError) {
      throw createError('CANCELLED', error.message, error.details, { cause: error.cause })
    }
    throw error
  }
}
