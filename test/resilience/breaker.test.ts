/** The circuit breaker on a clock of the test's. */
import t from 'tap'
import { createError } from '../../lib/errors/index.js'
import { type BreakerChange, CircuitBreaker, networkBreaker } from '../../lib/resilience/breaker.js'

function setUp(options: Partial<ConstructorParameters<typeof CircuitBreaker>[0]> = {}) {
  let now = 0
  const changes: BreakerChange[] = []
  const onStateChange = (change: BreakerChange) => changes.push(change)
  const breaker = new CircuitBreaker({ name: 'archive', ...networkBreaker, ...options, onStateChange, now: () => now })
  return {
    breaker,
    changes,
    pass: (ms: number) => {
      now += ms
    },
    succeed: () => breaker.execute(async () => 'well'),
    fail: () => breaker.execute(() => Promise.reject(createError('NETWORK_PARTITION', 'no answer'))),
    refuse: () => breaker.execute(() => Promise.reject(createError('ARCHIVE_REFUSED', 'no')))
  }
}
const failed = { code: 'NETWORK_PARTITION' }
const open = { code: 'CIRCUIT_BREAKER_OPEN' }

t.test('five failures in a row open it, sixty seconds later one success closes it', async (t) => {
  const { breaker, changes, pass, succeed, fail } = setUp()
  for (let i = 0; i < 4; i++) await t.rejects(fail(), failed)
  t.equal(await succeed(), 'well')
  for (let i = 0; i < 5; i++) {
    t.equal(breaker.state, 'CLOSED')
    await t.rejects(fail(), failed)
  }
  t.equal(breaker.state, 'OPEN')
  pass(20_000)
  await t.rejects(succeed(), {
    ...open,
    retryable: true,
    details: {
      circuit: 'archive',
      failureCount: 5,
      failureThreshold: 5,
      cooldownSeconds: 60,
      state: 'OPEN',
      retryAfterSeconds: 40
    }
  })
  pass(40_000)
  t.equal(await succeed(), 'well')
  t.equal(breaker.state, 'CLOSED')
  await t.rejects(fail(), failed)
  t.equal(breaker.state, 'CLOSED', 'the count begins anew')
  t.match(changes, [
    { name: 'archive', previous: 'CLOSED', next: 'OPEN', reason: 'FAILURE_THRESHOLD_EXCEEDED', failureCount: 5 },
    { previous: 'OPEN', next: 'HALF_OPEN', reason: 'COOLDOWN_ELAPSED' },
    { previous: 'HALF_OPEN', next: 'CLOSED', reason: 'SUCCESS_THRESHOLD_REACHED', failureCount: 0 }
  ])
})

t.test('half-open lets one call through, whose failure opens it again', async (t) => {
  const { breaker, changes, pass, succeed, fail } = setUp({ failureThreshold: 1 })
  await t.rejects(fail(), failed)
  pass(60_000)
  let end: (() => void) | undefined
  const trial = breaker.execute(
    () =>
      new Promise((_, reject) => {
        end = () => reject(createError('NETWORK_PARTITION', 'still'))
      })
  )
  await t.rejects(succeed(), { ...open, details: { state: 'HALF_OPEN' } })
  end?.()
  await t.rejects(trial, failed)
  t.equal(breaker.state, 'OPEN')
  t.equal(changes.at(-1)?.reason, 'FAILURE_IN_HALF_OPEN')
  pass(59_999)
  await t.rejects(succeed(), open)
  pass(1)
  t.equal(await succeed(), 'well')
})

t.test('a refusal neither counts nor closes', async (t) => {
  const { breaker, pass, refuse, fail } = setUp({ failureThreshold: 2 })
  await t.rejects(fail(), failed)
  for (let i = 0; i < 5; i++) await t.rejects(refuse(), { code: 'ARCHIVE_REFUSED' })
  t.equal(breaker.state, 'CLOSED')
  await t.rejects(fail(), failed)
  pass(60_000)
  await t.rejects(refuse(), { code: 'ARCHIVE_REFUSED' })
  t.equal(breaker.state, 'HALF_OPEN')
})

t.test('two successes where two are asked for', async (t) => {
  const { breaker, pass, succeed, fail } = setUp({ failureThreshold: 1, successThreshold: 2 })
  await t.rejects(fail(), failed)
  pass(60_000)
  await succeed()
  t.equal(breaker.state, 'HALF_OPEN')
  await succeed()
  t.equal(breaker.state, 'CLOSED')
})

t.test('calls from before it opened say nothing about now, however they end', async (t) => {
  const { breaker, pass, fail, succeed } = setUp({ failureThreshold: 1, successThreshold: 2 })
  let failLate: (error: Error) => void = () => {}
  const old = breaker.execute(() => new Promise((_, reject) => (failLate = reject)))
  await t.rejects(fail(), failed)
  pass(60_000)
  await succeed()
  t.equal(breaker.state, 'HALF_OPEN')
  failLate(createError('NETWORK_PARTITION', 'late'))
  await t.rejects(old, failed)
  t.equal(breaker.state, 'HALF_OPEN')
  await succeed()
  t.equal(breaker.state, 'CLOSED')
})

t.test('whoever would rather wait than be refused hears of the end of a trial', async (t) => {
  const { breaker, pass, succeed, fail } = setUp({ failureThreshold: 1 })
  t.equal(breaker.trial, undefined)
  await t.rejects(fail(), failed)
  t.equal(breaker.trial, undefined, 'open: refused at once')
  pass(60_000)
  let end = (_: string) => {}
  const trial = breaker.execute(() => new Promise<string>((resolve) => (end = resolve)))
  await t.rejects(succeed(), open)
  const waited = breaker.trial!.then(succeed)
  end('well')
  t.same(await Promise.all([trial, waited]), ['well', 'well'])
  t.match([breaker.state, breaker.trial], ['CLOSED', undefined])
})
