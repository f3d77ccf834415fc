/** How long to wait before the next attempt. Pure: randomness is handed in. */
import { randomInt } from 'node:crypto'

export interface Backoff {
  initialDelayMs: number
  /** No delay grows beyond it; jitter comes on top. */
  maxDelayMs: number
  backoffMultiplier: number
  /** A share of the delay, up to which it is made longer or shorter (0.25: ± 25 %), or whole milliseconds from 0 to `addMs` on top of it. */
  jitter: number | { addMs: number }
  /** Milliseconds after the first, second, … failure instead of the growing ones; the last one repeats. */
  delaysMs?: readonly number[] | undefined
}

/** Milliseconds after failure number `failure` (from 1), without jitter. */
export function baseDelay(
  { initialDelayMs, maxDelayMs, backoffMultiplier, delaysMs }: Backoff,
  failure: number
): number {
  if (delaysMs && delaysMs.length > 0) return delaysMs[Math.min(failure, delaysMs.length) - 1]!
  return Math.min(maxDelayMs, initialDelayMs * backoffMultiplier ** (failure - 1))
}

/** The waits after the first, second, … of all attempts, in milliseconds, without jitter. */
export const baseDelays = (backoff: Backoff & { maxAttempts: number }): number[] =>
  Array.from({ length: backoff.maxAttempts }, (_, failures) => baseDelay(backoff, failures + 1))

/** Whole milliseconds to wait after failure number `failure` (from 1); `random` gives a number from 0 up to 1. */
export function retryDelay(backoff: Backoff, failure: number, random: () => number): number {
  const base = baseDelay(backoff, failure)
  const { jitter } = backoff
  if (typeof jitter === 'object') return base + Math.floor(random() * (Math.floor(jitter.addMs) + 1))
  return Math.round(base * (1 + jitter * (2 * random() - 1)))
}

/** A 32-bit mix of integers: equal inputs give equal numbers, neighbours unrelated ones. */
function mix(...words: number[]): number {
  let hash = 0x9e3779b9
  for (const word of words) {
    hash = Math.imul(hash ^ word, 0x85ebca6b)
    hash ^= hash >>> 13
    hash = Math.imul(hash, 0xc2b2ae35)
    hash ^= hash >>> 16
  }
  return hash >>> 0
}

/** Numbers from 0 up to 1 that repeat with the seed and the number of the call. */
export function seededRandom(seed: number, call = 0): () => number {
  let drawn = 0
  return () => mix(seed, call, ++drawn) / 2 ** 32
}

/** Without a seed: processes that lost the same server must not all come back in the same moment. */
export const systemRandom = (): number => randomInt(2 ** 32) / 2 ** 32
