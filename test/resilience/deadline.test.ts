/** Deadlines inside deadlines, on a clock of the test's, and around real native work. */
import t from 'tap'
import { createEngine } from 'tiered-moe'
import { TimeoutError } from '../../lib/errors/index.js'
import { Deadline, systemClock } from '../../lib/resilience/index.js'
import { FakeClock } from '../fixtures/clock.js'

t.test('a deadline ends its signal, and says what was allowed and what passed', async (t) => {
  const clock = new FakeClock(1000)
  const deadline = Deadline.after(100, { method: 'tokenize', clock })
  t.equal(deadline.remainingMs(), 100)
  await clock.advance(99)
  t.equal(deadline.remainingMs(), 1)
  deadline.check()
  t.equal(deadline.signal.aborted, false)
  await clock.advance(1)
  t.equal(deadline.signal.aborted, true)
  t.equal(deadline.remainingMs(), 0)
  t.ok(deadline.error() instanceof TimeoutError)
  t.equal(deadline.signal.reason, deadline.error())
  const times = { method: 'tokenize', timeout: 100, duration: 100 }
  t.match(deadline.error(), {
    ...times,
    code: 'CALL_TIMEOUT',
    httpStatus: 504,
    exitCode: 124,
    retryable: true,
    message: 'tokenize: no end after 100 ms, of 100 ms allowed',
    details: times
  })
  t.throws(() => deadline.check(), { code: 'CALL_TIMEOUT' })
  t.equal(clock.sleeping, 0)
})

t.test('before its timer fires it has passed all the same', async (t) => {
  const clock = new FakeClock()
  using deadline = Deadline.after(10, { clock })
  clock.skip(11)
  t.throws(() => deadline.check(), { code: 'CALL_TIMEOUT', method: 'call', duration: 11 })
  t.match(deadline.signal.reason, { code: 'CALL_TIMEOUT', duration: 11 }, 'and what listens hears the same')
  t.equal(clock.sleeping, 0)
})

t.test('what is inside ends with what is around it, whose error it is', async (t) => {
  const clock = new FakeClock()
  using request = Deadline.after(30_000, { method: 'request', code: 'INFERENCE_TIMEOUT', clock })
  await clock.advance(10_000)
  const inference = Deadline.after(25_000, { parent: request, method: 'inference' })
  const step = inference.within(1000)
  t.same(
    [request, inference, step].map((deadline) => deadline.remainingMs()),
    [20_000, 20_000, 1000]
  )
  await clock.advance(1000)
  t.match(step.error(), { code: 'INFERENCE_TIMEOUT', method: 'inference', timeout: 1000, duration: 1000 })
  t.equal(inference.signal.aborted, false, 'what is around it goes on')
  await clock.advance(19_000)
  t.same(
    [request, inference].map((deadline) => deadline.signal.aborted),
    [true, true]
  )
  t.match(inference.error(), { method: 'request', timeout: 30_000, duration: 30_000 })
  t.equal(inference.within(5).remainingMs(), 0, 'nothing begins inside of what has ended')
  t.equal(clock.sleeping, 0)
})

t.test('without a time of its own it has that of its parent, or none', async (t) => {
  const clock = new FakeClock()
  const none = Deadline.after(undefined, { clock })
  t.equal(none.remainingMs(), Number.POSITIVE_INFINITY)
  t.equal(clock.sleeping, 0)
  using parent = Deadline.after(50, { method: 'outer', clock })
  using child = parent.within(undefined)
  t.equal(child.remainingMs(), 50)
  await clock.advance(50)
  t.match(child.error(), { method: 'outer', timeout: 50 })
})

t.test('an abort of the caller ends it, and all inside of it', async (t) => {
  const clock = new FakeClock()
  const caller = new AbortController()
  using outer = Deadline.after(100, { method: 'request', clock, signal: caller.signal })
  using inner = outer.within(10)
  caller.abort('enough')
  t.match(outer.error(), { code: 'CANCELLED', cause: 'enough', details: { method: 'request' } })
  t.equal(inner.error(), outer.error())
  t.equal(inner.remainingMs(), 0)
  t.equal(clock.sleeping, 0)
  const late = Deadline.after(100, { clock, signal: caller.signal })
  t.throws(() => late.check(), { code: 'CANCELLED' })
})

t.test('disposed it watches nothing any more', async (t) => {
  const clock = new FakeClock()
  const caller = new AbortController()
  const deadline = Deadline.after(100, { clock, signal: caller.signal })
  t.equal(clock.sleeping, 1)
  deadline[Symbol.dispose]()
  t.equal(clock.sleeping, 0)
  await clock.advance(1000)
  caller.abort()
  t.equal(deadline.signal.aborted, false)
})

t.test('the clock of the system', async (t) => {
  const began = systemClock.now()
  await systemClock.sleep(20)
  t.ok(systemClock.now() - began >= 20)
  const aborting = new AbortController()
  const never = systemClock.sleep(Number.POSITIVE_INFINITY, aborting.signal)
  aborting.abort('enough')
  t.equal(await never.catch((reason) => reason), 'enough')
  t.equal(await systemClock.sleep(1, aborting.signal).catch((reason) => reason), 'enough')
})

t.test('a deadline inside a deadline ends native work, and nothing stays behind', async (t) => {
  const engine = await createEngine({ threads: 1 })
  t.teardown(() => engine.dispose())
  const { id } = await engine.loadModel({})
  const long = 'Now is the winter of our discontent made glorious summer. '.repeat(8)
  // What a model keeps for its longest sequence is there after the first one.
  const whole = { model: id, prompt: long, ignoreEos: true, repetitionPenalty: 1.1 }
  await engine.generate(whole)
  const before = engine.counters()
  using outer = Deadline.after(60_000, { method: 'request' })
  using inner = Deadline.after(2, { parent: outer, method: 'inference', code: 'INFERENCE_TIMEOUT' })
  const error = await engine.generate(whole, { signal: inner.signal }).catch((error) => error)
  t.match(error, { code: 'CANCELLED', cause: { code: 'INFERENCE_TIMEOUT', method: 'inference', timeout: 2 } })
  t.equal(error.cause, inner.error())
  t.ok(error.cause.duration >= 2)
  t.same(engine.counters(), before)
  t.equal(outer.signal.aborted, false)
})
