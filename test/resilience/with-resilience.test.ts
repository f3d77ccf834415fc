/** Breaker outside retry, and a deadline around both. */
import t from 'tap'
import { createError } from '../../lib/errors/index.js'
import { CircuitBreaker, Deadline, profiles, withResilience } from '../../lib/resilience/index.js'
import { FakeClock, settle } from '../fixtures/clock.js'

const down = () => Promise.reject(createError('NETWORK_PARTITION', 'no answer', { target: 'x' }))

t.test('one call with all its retries counts once', async (t) => {
  const clock = new FakeClock()
  const breaker = new CircuitBreaker({ name: 'x', ...profiles.network.breaker, failureThreshold: 2, clock })
  const retry = { ...profiles.network.retry, clock }
  let attempts = 0
  const call = async () => {
    const result = withResilience(
      () => {
        attempts++
        return down()
      },
      { breaker, retry }
    ).catch((error) => error)
    await clock.advance(60_000)
    return result
  }
  t.match(await call(), { code: 'NETWORK_PARTITION', details: { attempts: 5 } })
  t.match([attempts, breaker.state, breaker.snapshot().failureCount], [5, 'CLOSED', 1])
  await call()
  t.match([attempts, breaker.state], [10, 'OPEN'])
  t.match(await call(), { code: 'CIRCUIT_BREAKER_OPEN', state: 'OPEN' })
  t.equal(attempts, 10, 'an open circuit makes no attempt, and is not retried')
})

t.test('the deadline is that of all attempts, in a wait and in an attempt that hears nothing', async (t) => {
  for (const fn of [down, () => new Promise<never>(() => {})]) {
    for (const retry of [profiles.network.retry, undefined]) {
      const clock = new FakeClock()
      const breaker = new CircuitBreaker({ name: 'x', ...profiles.network.breaker, failureThreshold: 1, clock })
      using deadline = Deadline.after(500, { method: 'lookUp', clock })
      const call = withResilience(fn, { breaker, retry: retry && { ...retry, clock }, deadline }).catch(
        (error) => error
      )
      await clock.advance(500)
      const code = fn === down && !retry ? 'NETWORK_PARTITION' : 'CALL_TIMEOUT'
      t.match(await call, { code })
      t.equal(breaker.state, 'OPEN', 'a call that took too long counts')
      t.equal(clock.sleeping, 0)
    }
  }
})

t.test('too late is told before anything is called, and counts for nothing', async (t) => {
  const clock = new FakeClock()
  const breaker = new CircuitBreaker({ name: 'x', ...profiles.network.breaker, failureThreshold: 1, clock })
  using deadline = Deadline.after(1, { clock })
  await clock.advance(1)
  const never = () => t.fail('called')
  await t.rejects(withResilience(never, { breaker, deadline }), { code: 'CALL_TIMEOUT' })
  t.equal(breaker.state, 'CLOSED')
})

t.test("an abort is the caller's: of the retry's signal, and of the deadline's", async (t) => {
  for (const own of [true, false]) {
    const clock = new FakeClock()
    const caller = new AbortController()
    const breaker = new CircuitBreaker({ name: 'x', ...profiles.network.breaker, failureThreshold: 1, clock })
    using deadline = Deadline.after(1e6, { clock, ...(!own && { signal: caller.signal }) })
    const retry = { ...profiles.network.retry, clock, ...(own && { signal: caller.signal }) }
    const call = withResilience(down, { breaker, retry, deadline }).catch((error) => error)
    await settle()
    caller.abort('enough')
    t.match(await call, { code: 'CANCELLED', cause: 'enough', name: own ? 'RetryAbortedError' : 'AbortError' })
    t.equal(breaker.state, 'CLOSED')
  }
  t.equal(await withResilience(() => 'well', {}), 'well')
})
