/** Every rule of the circuit breaker, on a clock of the test's. */
import t from 'tap'
import { createError, createTimeoutError } from '../../lib/errors/index.js'
import {
  type BreakerChange,
  CircuitBreaker,
  CircuitBreakerOpenError,
  type CircuitBreakerOptions,
  profiles
} from '../../lib/resilience/index.js'
import { FakeClock } from '../fixtures/clock.js'

function setUp(options: Partial<CircuitBreakerOptions> = {}) {
  const clock = new FakeClock()
  const changes: BreakerChange[] = []
  const onStateChange = (change: BreakerChange) => changes.push(change)
  const breaker = new CircuitBreaker({ name: 'archive', ...profiles.network.breaker, ...options, onStateChange, clock })
  return {
    clock,
    breaker,
    changes,
    reasons: () => changes.map(({ reason }) => reason),
    succeed: () => breaker.execute(async () => 'well'),
    fail: () => breaker.execute(() => Promise.reject(createError('NETWORK_PARTITION', 'no answer'))),
    /** A call that ends when the test says. */
    begin() {
      let end: { well: () => void; badly: (error?: unknown) => void } | undefined
      const call = breaker.execute(
        () =>
          new Promise<string>((resolve, reject) => {
            end = {
              well: () => resolve('well'),
              badly: (error = createError('NETWORK_PARTITION', 'late')) => reject(error)
            }
          })
      )
      call.catch(() => undefined)
      return { call, ...end! }
    }
  }
}
const failed = { code: 'NETWORK_PARTITION' }
const open = { code: 'CIRCUIT_BREAKER_OPEN' }

t.test('the network: five failures in a row open it, sixty seconds later one success closes it', async (t) => {
  const { breaker, changes, clock, succeed, fail } = setUp()
  for (let i = 0; i < 4; i++) await t.rejects(fail(), failed)
  t.equal(await succeed(), 'well')
  for (let i = 0; i < 5; i++) {
    t.equal(breaker.state, 'CLOSED')
    // The window is off: an hour between two failures is in a row still.
    clock.skip(3_600_000)
    await t.rejects(fail(), failed)
  }
  t.equal(breaker.state, 'OPEN')
  clock.skip(20_000)
  const error: CircuitBreakerOpenError = await succeed().then(
    () => t.fail('let through'),
    (error) => error
  )
  t.ok(error instanceof CircuitBreakerOpenError)
  t.match(error, {
    ...open,
    name: 'CircuitBreakerOpenError',
    message: 'archive has failed 5 times in a row; the next trial is in 40000 ms',
    jsonRpcCode: -32000,
    retryable: true,
    retryAfterMs: 40_000,
    state: 'OPEN',
    circuit: 'archive',
    details: { circuit: 'archive', failureCount: 5, failureThreshold: 5, cooldownSeconds: 60, state: 'OPEN' }
  })
  t.equal(error.details.retryAfterSeconds, 40)
  clock.skip(39_999)
  await t.rejects(succeed(), { ...open, details: { retryAfterSeconds: 1 } })
  clock.skip(1)
  t.equal(await succeed(), 'well')
  t.equal(breaker.state, 'CLOSED')
  await t.rejects(fail(), failed)
  t.equal(breaker.state, 'CLOSED', 'the count begins anew')
  t.match(changes, [
    { name: 'archive', previous: 'CLOSED', next: 'OPEN', reason: 'FAILURE_THRESHOLD_EXCEEDED', failureCount: 5 },
    { previous: 'OPEN', next: 'HALF_OPEN', reason: 'RECOVERY_TIMEOUT_ELAPSED' },
    { previous: 'HALF_OPEN', next: 'CLOSED', reason: 'SUCCESS_THRESHOLD_REACHED', failureCount: 0 }
  ])
  t.ok(changes.every(({ at }) => Math.abs(at - Date.now()) < 60_000))
})

t.test('rpc: ten seconds, two successes, and a count that a quiet minute resets', async (t) => {
  const { breaker, clock, succeed, fail, reasons } = setUp(profiles.rpc.breaker)
  for (let i = 0; i < 4; i++) await t.rejects(fail(), failed)
  clock.skip(60_001)
  await t.rejects(fail(), failed)
  t.equal(breaker.state, 'CLOSED')
  t.equal(breaker.snapshot().failureCount, 1)
  for (let i = 0; i < 4; i++) {
    clock.skip(60_000)
    await t.rejects(fail(), failed)
  }
  t.equal(breaker.state, 'OPEN')
  clock.skip(10_000)
  await succeed()
  t.equal(breaker.state, 'HALF_OPEN')
  await succeed()
  t.equal(breaker.state, 'CLOSED')
  t.same(reasons(), ['FAILURE_THRESHOLD_EXCEEDED', 'RECOVERY_TIMEOUT_ELAPSED', 'SUCCESS_THRESHOLD_REACHED'])
})

t.test('half-open lets one call through, whose failure opens it again, after successes too', async (t) => {
  const { breaker, clock, succeed, fail, begin, reasons } = setUp({ failureThreshold: 1, halfOpenSuccessThreshold: 3 })
  await t.rejects(fail(), failed)
  clock.skip(60_000)
  const trial = begin()
  await t.rejects(succeed(), { ...open, state: 'HALF_OPEN', retryAfterMs: 1000 })
  trial.well()
  await trial.call
  await succeed()
  await t.rejects(fail(), failed)
  t.equal(breaker.state, 'OPEN')
  t.equal(reasons().at(-1), 'FAILURE_IN_HALF_OPEN')
  clock.skip(59_999)
  await t.rejects(succeed(), open)
  clock.skip(1)
  await succeed()
  await succeed()
  t.equal(breaker.state, 'HALF_OPEN', 'successes of the first trial do not count in the second')
  await succeed()
  t.equal(breaker.state, 'CLOSED')
})

t.test('as many at a time as half-open has places', async (t) => {
  const { breaker, clock, succeed, fail, begin } = setUp({
    failureThreshold: 1,
    halfOpenMaxCalls: 2,
    halfOpenSuccessThreshold: 2
  })
  await t.rejects(fail(), failed)
  clock.skip(60_000)
  const [first, second] = [begin(), begin()]
  await t.rejects(succeed(), { ...open, state: 'HALF_OPEN' })
  first.badly()
  await t.rejects(first.call, failed)
  t.equal(breaker.state, 'OPEN')
  clock.skip(60_000)
  const [third, fourth] = [begin(), begin()]
  second.well()
  await second.call
  t.equal(breaker.state, 'HALF_OPEN', 'a trial of the last time says nothing, and frees no place')
  await t.rejects(succeed(), { ...open, state: 'HALF_OPEN' })
  third.well()
  fourth.well()
  await Promise.all([third.call, fourth.call])
  t.equal(breaker.state, 'CLOSED')
})

t.test('what neither counts nor closes, and what counts', async (t) => {
  const foreign = (fields: object) => Object.assign(new Error('x'), fields)
  const never = [
    createError('VALIDATION_ERROR', 'x'),
    createError('MODEL_NOT_LOADED', 'x'),
    createError('CANCELLED', 'x'),
    createError('RESOURCE_MEMORY_EXHAUSTED', 'x'),
    createError('RUNTIME_NAN_DETECTED', 'x'),
    foreign({ code: -32600 }),
    foreign({ code: -32601 }),
    foreign({ code: -32602 }),
    foreign({ code: 'InvalidParams' }),
    foreign({ name: 'ValidationError' }),
    foreign({ name: 'InvalidParamsError' }),
    foreign({ name: 'ParseError' }),
    new DOMException('x', 'AbortError'),
    foreign({ status: 429 }),
    foreign({ statusCode: 503 })
  ]
  const counted = [
    createError('RUNTIME_INVARIANT_VIOLATED', 'x'),
    createError('NETWORK_PARTITION', 'x'),
    createError('FILE_READ_FAILED', 'x'),
    createError('EXPERT_CORRUPTED', 'x'),
    createTimeoutError('CALL_TIMEOUT', 'x', { method: 'x', timeout: 1, duration: 1 }),
    foreign({ code: -32603 }),
    foreign({ code: -32000 }),
    foreign({ code: -32099 }),
    foreign({ code: 'RuntimeError' }),
    foreign({ code: 'ECONNRESET' }),
    foreign({ status: 500 }),
    new TypeError('x'),
    'a text',
    undefined
  ]
  for (const [errors, state] of [
    [never, 'CLOSED'],
    [counted, 'OPEN']
  ] as const) {
    for (const error of errors) {
      const { breaker, clock, fail } = setUp({ failureThreshold: 2 })
      await t.rejects(fail(), failed)
      await breaker.execute(() => Promise.reject(error)).catch(() => undefined)
      t.equal(breaker.state, state, String((error as Error)?.message))
      if (state === 'OPEN') continue
      await t.rejects(fail(), failed)
      t.equal(breaker.state, 'OPEN', 'nor was it a success')
      clock.skip(60_000)
      await breaker.execute(() => Promise.reject(error)).catch(() => undefined)
      t.equal(breaker.state, 'HALF_OPEN', 'nor is it as a trial')
      t.equal(breaker.trial, undefined, 'whose place is free again')
    }
  }
  const own = setUp({ failureThreshold: 1, countsAsFailure: (error) => error === 1 })
  await t.rejects(own.fail(), failed)
  t.equal(own.breaker.state, 'CLOSED')
  await own.breaker.execute(() => Promise.reject(1)).catch(() => undefined)
  t.equal(own.breaker.state, 'OPEN')
})

t.test('calls from before it opened say nothing about now, however they end', async (t) => {
  const { breaker, clock, fail, succeed, begin } = setUp({ failureThreshold: 2, halfOpenSuccessThreshold: 2 })
  const [late, good, later] = [begin(), begin(), begin()]
  await t.rejects(fail(), failed)
  await t.rejects(fail(), failed)
  clock.skip(60_000)
  await succeed()
  late.badly()
  await t.rejects(late.call, failed)
  good.well()
  await good.call
  t.equal(breaker.state, 'HALF_OPEN')
  await succeed()
  t.equal(breaker.state, 'CLOSED')
  await t.rejects(fail(), failed)
  later.badly()
  await t.rejects(later.call, failed)
  t.equal(breaker.state, 'CLOSED', 'nor when it has closed again')
})

t.test('what throws at once, and a listener that throws', async (t) => {
  const clock = new FakeClock()
  const breaker = new CircuitBreaker({
    name: 'x',
    ...profiles.network.breaker,
    failureThreshold: 1,
    clock,
    onStateChange() {
      throw new RangeError('of the listener')
    }
  })
  const thrown = new TypeError('at once')
  await t.rejects(
    breaker.execute(() => {
      throw thrown
    }),
    thrown
  )
  t.equal(breaker.state, 'OPEN')
  clock.skip(60_000)
  t.equal(await breaker.execute(() => 'plain'), 'plain')
  t.equal(breaker.state, 'CLOSED')
})

t.test('a snapshot keeps what is left of its time', async (t) => {
  const old = setUp({ failureThreshold: 3 })
  for (let i = 0; i < 3; i++) await t.rejects(old.fail(), failed)
  old.clock.skip(45_000)
  const snapshot = JSON.parse(JSON.stringify(old.breaker.snapshot()))
  t.same(snapshot, { state: 'OPEN', failureCount: 3, successCount: 0, retryAfterMs: 15_000, sinceFailureMs: 45_000 })
  const { breaker, clock, changes, succeed, fail, begin } = setUp({ failureThreshold: 3, failureWindowMs: 50_000 })
  clock.skip(1000)
  const before = begin()
  breaker.restore(snapshot)
  t.match(changes, [{ previous: 'CLOSED', next: 'OPEN', reason: 'RESTORED', failureCount: 3 }])
  await t.rejects(succeed(), { ...open, retryAfterMs: 15_000 })
  before.well()
  await before.call
  t.equal(breaker.state, 'OPEN', 'what was under way says nothing')
  clock.skip(15_000)
  await succeed()
  t.equal(breaker.state, 'CLOSED')
  breaker.restore({ ...snapshot, state: 'CLOSED', failureCount: 2, retryAfterMs: 0, sinceFailureMs: 10_000 })
  t.equal(changes.length, 3, 'no change of state, no event')
  await t.rejects(fail(), failed)
  t.equal(breaker.state, 'OPEN', 'failures of before count')
})

t.test('whoever would rather wait than be refused hears of the end of a trial', async (t) => {
  const { breaker, clock, succeed, fail, begin } = setUp({ failureThreshold: 1 })
  t.equal(breaker.trial, undefined)
  await t.rejects(fail(), failed)
  t.equal(breaker.trial, undefined, 'open: refused at once')
  clock.skip(60_000)
  const trial = begin()
  await t.rejects(succeed(), open)
  const waited = breaker.trial!.then(succeed)
  trial.well()
  t.same(await Promise.all([trial.call, waited]), ['well', 'well'])
  t.match([breaker.state, breaker.trial], ['CLOSED', undefined])
})

t.test('options that make no sense', async (t) => {
  for (const [path, options] of [
    ['failureThreshold', { failureThreshold: 0 }],
    ['recoveryTimeoutMs', { recoveryTimeoutMs: Number.POSITIVE_INFINITY }],
    ['halfOpenMaxCalls', { halfOpenMaxCalls: 1.5 }],
    ['halfOpenSuccessThreshold', { halfOpenSuccessThreshold: 0 }],
    ['failureWindowMs', { failureWindowMs: -1 }],
    ['cooldownMs', { cooldownMs: 1 }]
  ] as const) {
    const bad = { name: 'x', ...profiles.network.breaker, ...options }
    t.throws(() => new CircuitBreaker(bad), { code: 'VALIDATION_ERROR', details: { path } }, path)
  }
})
