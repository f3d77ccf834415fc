/** The network's schedule of retries, and what a call that keeps failing becomes. */
import t from 'tap'
import { createError, type EngineError } from '../../lib/errors/index.js'
import { networkProfile, retryDelay } from '../../lib/resilience/backoff.js'
import { retryWithBackoff } from '../../lib/resilience/retry.js'

t.test('1, 2, 4, 8, 16 seconds, and up to a second more that the seed decides', async (t) => {
  const delays = (seed: number, call: number) => [1, 2, 3, 4, 5].map((n) => retryDelay(networkProfile, n, seed, call))
  t.equal(networkProfile.attempts, 5)
  t.same(delays(7, 1), delays(7, 1))
  t.notSame(delays(7, 1), delays(7, 2))
  t.notSame(delays(7, 1), delays(8, 1))
  const jitters: number[] = []
  for (let call = 0; call < 2000; call++) {
    delays(3, call).forEach((delay, n) => {
      jitters.push(delay - 1000 * 2 ** n)
    })
  }
  t.ok(jitters.every((jitter) => Number.isInteger(jitter) && jitter >= 0 && jitter <= 1000))
  t.same([Math.min(...jitters), Math.max(...jitters)], [0, 1000])
  const mean = jitters.reduce((sum, jitter) => sum + jitter, 0) / jitters.length
  t.ok(Math.abs(mean - 500) < 15, `evenly: ${mean}`)
  t.equal(retryDelay({ attempts: 9, delaysMs: [1, 2], jitterMs: 0 }, 8, 0, 0), 2, 'the last one repeats')
})

const profile = { attempts: 3, delaysMs: [1, 2], jitterMs: 0 }
const options = { profile, seed: 1, call: 1, method: 'download' }
const failure = (details = {}) => createError('NETWORK_PARTITION', 'no answer', { target: 'x', ...details })

t.test('until it succeeds', async (t) => {
  const events: unknown[] = []
  const result = await retryWithBackoff(
    async (attempt) => {
      if (attempt < 3) throw failure()
      return attempt
    },
    { ...options, onRetry: (event) => events.push(event) }
  )
  t.equal(result, 3)
  t.match(events, [
    { attempt: 1, maxAttempts: 3, delayMs: 1, error: { code: 'NETWORK_PARTITION' } },
    { attempt: 2, maxAttempts: 3, delayMs: 2 }
  ])
})

t.test('the last error keeps its code and says how often it was tried', async (t) => {
  const cause = new RangeError('why')
  const error: EngineError = await retryWithBackoff(
    () => Promise.reject(createError('NETWORK_PARTITION', 'no answer', { target: 'x', retryCount: 0 }, { cause })),
    options
  ).catch((error) => error)
  const details = { target: 'x', method: 'download', attempts: 3, retryCount: 2, retryAfterSeconds: 1 }
  t.match(error, { code: 'NETWORK_PARTITION', message: 'no answer (after 3 attempts)', details })
  t.equal(error.cause, cause)
})

t.test('what is not worth another attempt', async (t) => {
  for (const error of [createError('ARCHIVE_REFUSED', 'no'), new TypeError('not ours')]) {
    let calls = 0
    const refused = retryWithBackoff(() => {
      calls++
      return Promise.reject(error)
    }, options)
    t.equal(await refused.catch((error) => error), error)
    t.equal(calls, 1)
  }
  const own = { ...options, retryable: () => false }
  await t.rejects(
    retryWithBackoff(() => Promise.reject(failure()), own),
    { code: 'NETWORK_PARTITION', message: 'no answer' }
  )
})

t.test('aborting ends the wait at once', async (t) => {
  const controller = new AbortController()
  const long = { attempts: 5, delaysMs: [600_000], jitterMs: 0 }
  const waiting = retryWithBackoff(() => Promise.reject(failure()), {
    ...options,
    profile: long,
    signal: controller.signal,
    onRetry: () => setImmediate(() => controller.abort('enough'))
  })
  await t.rejects(waiting, { code: 'CANCELLED', cause: 'enough', details: { attempts: 1 } })
  await t.rejects(
    retryWithBackoff(async () => 1, { ...options, signal: controller.signal }),
    { code: 'CANCELLED', details: { attempts: 0 } }
  )
})
