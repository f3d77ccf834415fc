/** The time that retries, breakers and deadlines go by: tests have one that stands still until they move it. */
import { performance } from 'node:perf_hooks'

export interface Clock {
  /** Milliseconds that only grow. */
  now(): number
  /**
   * Resolves after `ms` (Infinity: never), rejects with the signal's reason when that aborts first. `keepsAlive: false` is a wait that alone
   * keeps no process running.
   */
  sleep(ms: number, signal?: AbortSignal, options?: { keepsAlive?: boolean }): Promise<void>
}

/** The longest delay that a timer can have, in milliseconds. */
const longestTimer = 2 ** 31 - 1

export const systemClock: Clock = {
  now: () => performance.now(),
  sleep: (ms, signal, { keepsAlive = true } = {}) =>
    new Promise((resolve, reject) => {
      const end = performance.now() + ms
      let timer: NodeJS.Timeout | undefined
      const stop = (): void => {
        clearTimeout(timer)
        reject(signal?.reason)
      }
      const wait = (): void => {
        const left = end - performance.now()
        if (left > 0) {
          timer = setTimeout(wait, Math.min(left, longestTimer))
          if (!keepsAlive) timer.unref()
          return
        }
        signal?.removeEventListener('abort', stop)
        resolve()
      }
      if (signal?.aborted) return stop()
      signal?.addEventListener('abort', stop, { once: true })
      wait()
    })
}

/** `work`, or the rejection with the signal's reason when that aborts first. What `work` gives after that is nobody's. */
export async function orAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work
  let stop: () => void = () => {}
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
  })
  if (signal.aborted) stop()
  try {
    return await Promise.race([work, aborted])
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
