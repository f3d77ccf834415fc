/** A wait between two attempts, as an event tells of it. */
import { messageOf } from '../errors/index.js'
import type { RetryEvent } from './retry.js'

/**
 * What the events retry_backoff and download_retry say: the message, and the fields that llama-orch's RETRY_BACKOFF has, in seconds. `delaysMs`: the
 * waits of the schedule, without jitter.
 */
export function retryTold(
  { attempt, maxAttempts, delayMs, error }: RetryEvent,
  delaysMs: readonly number[]
): { message: string; fields: Readonly<Record<string, unknown>> } {
  const nextRetrySeconds = delayMs / 1000
  return {
    message: `${messageOf(error)}; attempt ${attempt + 1} of ${maxAttempts} in ${nextRetrySeconds.toFixed(1)} s`,
    fields: {
      attempt,
      maxAttempts,
      nextRetrySeconds,
      backoffStrategy: 'exponential_with_jitter',
      schedule: delaysMs.map((ms) => ms / 1000)
    }
  }
}
