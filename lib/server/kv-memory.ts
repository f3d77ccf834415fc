/** How many bytes there are for the KV caches of all admitted requests together. */
import type { Clock } from '../resilience/index.js'
import { systemClock } from '../resilience/index.js'

/** Milliseconds: what is known of the free memory may be so old. */
const memoryAge = 100

/**
 * `available`: bytes that this process may still take, as the system says; `filled`: those that KV caches hold already. Both are of one moment:
 * what is admitted after it has to fit too.
 */
export function kvMemory(available: () => number, filled: () => number, clock: Clock = systemClock): () => number {
  let bytes = 0
  let at = Number.NEGATIVE_INFINITY
  return () => {
    const now = clock.now()
    if (now - at > memoryAge) {
      bytes = available() + filled()
      at = now
    }
    return bytes
  }
}
