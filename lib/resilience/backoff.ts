/** When to try again: a schedule of delays with jitter from a seed, so that a run repeats. Pure. */

export interface RetryProfile {
  /** Attempts in all, the first one counted. */
  attempts: number
  /** Milliseconds to wait after the first, second, … failure; the last one repeats. */
  delaysMs: readonly number[]
  /** A whole number of milliseconds from 0 to this is added to each delay. */
  jitterMs: number
}

/** Downloads and the archive. */
export const networkProfile: RetryProfile = {
  attempts: 5,
  delaysMs: [1000, 2000, 4000, 8000, 16000],
  jitterMs: 1000
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

/** Milliseconds to wait after failure number `failure` (from 1) of call number `call`. */
export function retryDelay(profile: RetryProfile, failure: number, seed: number, call: number): number {
  const { delaysMs, jitterMs } = profile
  const base = delaysMs[Math.min(failure, delaysMs.length) - 1] ?? 0
  return base + (mix(seed, call, failure) % (Math.floor(jitterMs) + 1))
}
