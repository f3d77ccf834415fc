/** Admission on a clock of the test's: what runs, what waits, and every refusal with its reason. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import type { EngineError } from '../../lib/errors/index.js'
import { seededRandom } from '../../lib/resilience/backoff.js'
import {
  type AdmissionAsk,
  AdmissionControl,
  type AdmissionLimits,
  type AdmissionNeeds,
  Deadline,
  type Ticket
} from '../../lib/resilience/index.js'
import { FakeClock, settle } from '../fixtures/clock.js'

function setUp(limits: Partial<AdmissionLimits> = {}, needs: Partial<AdmissionNeeds> = {}) {
  const clock = new FakeClock()
  const preset = { concurrency: 1, queueDepth: 64, queueWaitMs: 10_000, memoryReserveBytes: 0, perClient: {} }
  const own = { memory: () => 1e9, rate: () => undefined, clock, ...needs }
  const control = new AdmissionControl({ ...preset, ...limits }, own)
  const never = Deadline.after(undefined, { clock })
  const ask = (client: string, fields: Partial<AdmissionAsk> = {}): AdmissionAsk => ({
    client,
    priority: 5,
    promptTokens: 40,
    maxTokens: 60,
    kvBytes: 1000,
    deadline: never,
    ...fields
  })
  /** A ticket, or the error. */
  const admit = (client: string, fields: Partial<AdmissionAsk> = {}) =>
    control.admit(ask(client, fields)).then(
      (ticket) => ({ ticket, error: undefined }),
      (error: EngineError) => ({ ticket: undefined, error })
    )
  const run = async (client: string, fields: Partial<AdmissionAsk> = {}): Promise<Ticket> =>
    control.admit(ask(client, fields))
  return { clock, control, ask, admit, run }
}

t.test('as many run as may; the others wait, and hear where', async (t) => {
  const { clock, control, ask, run } = setUp({ concurrency: 2 })
  const [first, second] = [await run('a'), await run('a')]
  t.equal(first.queuedMs, 0)
  const asks = [ask('a'), ask('b'), ask('a')]
  const waiting = asks.map((each) => control.admit(each))
  t.same(
    asks.map((each) => control.position(each)),
    [1, 3, 2],
    'one turn pays for two of them'
  )
  t.equal(control.position(ask('a')), 0)
  const figures = {
    running: 2,
    queued: 3,
    tokensInFlight: 200,
    kvBytes: 2000,
    kvBytesFilled: 0,
    admitted: 2,
    clients: 2
  }
  t.match(control.stats(), figures)
  first.used(30)
  t.equal(control.stats().kvBytesFilled, 300)
  await clock.advance(1500)
  first.release()
  first.release()
  t.equal((await waiting[0]!).queuedMs, 1500)
  t.same(control.stats().running, 2, 'a ticket is released once')
  second.release()
  await waiting[2]
  ;(await waiting[0]!).release()
  t.match(await waiting[1], { queuedMs: 1500 })
  t.equal(clock.sleeping, 0, 'nobody watches the time of what runs')
})

t.test('a full queue: at once, with the work ahead as the time to come back', async (t) => {
  const rates = [100, 1e9, 0.001, undefined]
  for (const [index, retryAfterSeconds] of [3, 1, 60, 30].entries()) {
    const { control, admit, run } = setUp({ queueDepth: 2 }, { rate: () => rates[index] })
    const ticket = await run('a')
    ticket.used(20)
    const waiting = [admit('a', { deadline: Deadline.after(undefined) }), admit('a')]
    const { error } = await admit('a')
    t.match(error, {
      code: 'SERVICE_UNAVAILABLE',
      httpStatus: 503,
      retryable: true,
      details: { reason: 'queue_full', current: 2, limit: 2, retryAfterSeconds }
    })
    t.same(error?.details.resourceInfo, { required: 1, available: 0, current: 2, limit: 2, unit: 'requests' })
    t.match(control.precheck('a'), { code: 'SERVICE_UNAVAILABLE', details: { reason: 'queue_full' } })
    t.same(control.stats().refused, { queue_full: 2 })
    ticket.release()
    ;(await waiting[0])?.ticket?.release()
    t.ok((await waiting[1])?.ticket)
  }
})

t.test('without a queue', async (t) => {
  const { control, admit, run } = setUp({ queueDepth: 0, tokensInFlight: 150, concurrency: 2 })
  const ticket = await run('a')
  t.match((await admit('b')).error, { details: { reason: 'tokens', current: 100, limit: 150 } })
  const small = { promptTokens: 1, maxTokens: 1 }
  await run('b', small)
  t.match((await admit('b', small)).error, { details: { reason: 'concurrency', current: 2, limit: 2 } })
  t.match(control.precheck('b'), { details: { reason: 'concurrency' } })
  ticket.release()
  t.equal(control.precheck('b'), undefined)
})

t.test('a wait that is too long, and what it was for', async (t) => {
  let bytes = 1e6
  const { clock, control, admit, run } = setUp(
    { concurrency: 2, tokensInFlight: 250, memoryReserveBytes: 500 },
    { memory: () => bytes }
  )
  const ticket = await run('a')
  const tokens = admit('b', { maxTokens: 200 })
  await clock.advance(10_000)
  t.match((await tokens).error, {
    code: 'SERVICE_UNAVAILABLE',
    details: {
      reason: 'tokens',
      current: 100,
      limit: 250,
      resourceInfo: { required: 240, available: 150, unit: 'tokens' }
    }
  })
  bytes = 2000
  const memory = admit('b')
  await clock.advance(9999)
  t.equal(control.stats().queued, 1)
  await clock.advance(1)
  t.match((await memory).error, {
    details: {
      reason: 'memory',
      resourceInfo: { required: 1000, available: 500, current: 1000, limit: 1500, unit: 'bytes' }
    }
  })
  bytes = 1e6
  await run('b', { maxTokens: 1 })
  const slot = admit('b')
  await clock.advance(10_000)
  t.match((await slot).error, { details: { reason: 'queue_wait', current: 0, limit: 64 } })
  bytes = 500
  ticket.release()
  t.equal(clock.sleeping, 0)
})

t.test(
  'what nothing will make room for is refused at once; one alone may have more tokens than are for all',
  async (t) => {
    let bytes = 1000
    const { control, admit, run } = setUp({ tokensInFlight: 10, concurrency: 3 }, { memory: () => bytes })
    t.match((await admit('a', { kvBytes: 1001 })).error, { details: { reason: 'memory', retryAfterSeconds: 30 } })
    bytes = 0
    ;(await admit('a', { kvBytes: 0 })).ticket!.release()
    bytes = 1000
    const ticket = await run('a')
    const next = [admit('b', { kvBytes: 900 }), admit('b', { kvBytes: 1 })]
    bytes = 500
    ticket.release()
    t.match((await next[0])?.error, { details: { reason: 'memory' } }, 'when the last one has ended')
    t.ok((await next[1])?.ticket, 'and what is behind it goes on')
    t.match(control.stats(), { running: 1, queued: 0, kvBytes: 1 })
  }
)

t.test('what would end after its deadline is refused before it waits', async (t) => {
  const { clock, control, admit, run } = setUp({}, { rate: () => 100 })
  const alone = await run('a', { deadline: Deadline.after(10, { clock }) })
  // 100 tokens ahead and 100 of its own, at 100 a second.
  t.match((await admit('a', { deadline: Deadline.after(1999, { clock }) })).error, {
    code: 'SERVICE_UNAVAILABLE',
    details: { reason: 'deadline', retryAfterSeconds: 1 }
  })
  alone.used(90)
  const enough = admit('a', { deadline: Deadline.after(1100, { clock }) })
  t.equal(control.stats().queued, 1)
  alone.release()
  t.ok((await enough).ticket)
})

t.test('its own deadline, or its caller, ends a wait', async (t) => {
  const { clock, control, admit, run } = setUp()
  await run('a')
  const caller = new AbortController()
  const late = admit('a', { deadline: Deadline.after(50, { method: 'chat', clock }) })
  const aborted = admit('a', { deadline: Deadline.after(100, { clock, signal: caller.signal }) })
  await clock.advance(50)
  t.match((await late).error, { code: 'CALL_TIMEOUT', method: 'chat' })
  caller.abort('gone')
  t.match((await aborted).error, { code: 'CANCELLED', cause: 'gone' })
  const over = Deadline.after(1, { clock })
  await clock.advance(1)
  t.match((await admit('a', { deadline: over })).error, { code: 'CALL_TIMEOUT' })
  t.match(control.stats(), { running: 1, queued: 0, refused: {} })
  t.equal(clock.sleeping, 0)
})

t.test("a client's requests a minute", async (t) => {
  const { clock, control, run } = setUp({ concurrency: 100, perClient: { requestsPerMinute: 6 } })
  for (let i = 0; i < 6; i++) {
    t.equal(control.precheck('a'), undefined)
    await run('a')
  }
  const expected = {
    code: 'RATE_LIMITED',
    httpStatus: 429,
    retryable: true,
    details: { reason: 'client_rate', client: 'a', current: 6, limit: 6, windowSeconds: 60, retryAfterSeconds: 10 }
  }
  t.match(control.precheck('a'), expected)
  await t.rejects(run('a'), expected)
  await run('b')
  clock.skip(10_000)
  await run('a')
  await t.rejects(run('a'), expected)
})

t.test("a client's tokens a minute: what it asks for is taken, what it does not use comes back", async (t) => {
  const { clock, run } = setUp({ concurrency: 100, perClient: { tokensPerMinute: 600 } })
  const tickets = await Promise.all(Array.from({ length: 6 }, () => run('a')))
  const over = (retryAfterSeconds: number) => ({
    code: 'RATE_LIMITED',
    details: { reason: 'client_tokens', limit: 600, retryAfterSeconds, resourceInfo: { required: 100, unit: 'tokens' } }
  })
  await t.rejects(run('a'), over(10))
  tickets[0]!.used(30)
  tickets[0]!.used(50)
  tickets[0]!.release()
  await t.rejects(run('a'), over(5))
  tickets[1]!.release()
  await t.rejects(run('a'), over(5), 'who does not say has used all')
  tickets[2]!.used(150)
  tickets[2]!.release()
  await t.rejects(run('a'), over(10), 'and who used more than it had asked for, that too')
  clock.skip(5000)
  clock.skip(5000)
  await run('a')
  clock.skip(60_000)
  await run('a', { maxTokens: 5000 })
  await t.rejects(run('a'), over(60), 'more than a minute has: once, and then it waits for it')
})

t.test("a client's requests at a time", async (t) => {
  const { clock, control, admit, run } = setUp({ concurrency: 3, perClient: { concurrency: 1, queueDepth: 1 } })
  const first = await run('a')
  const second = admit('a')
  t.match((await admit('a')).error, {
    code: 'RATE_LIMITED',
    details: { reason: 'client_concurrency', current: 2, limit: 2, windowSeconds: null, retryAfterSeconds: 30 }
  })
  await run('b')
  first.release()
  t.ok((await second).ticket, 'its own next one, when its first has ended')
  const third = admit('a')
  await clock.advance(10_000)
  t.match((await third).error, { code: 'RATE_LIMITED', details: { reason: 'client_concurrency' } })
  t.match(control.stats(), { running: 2, queued: 0, refused: { client_concurrency: 2 } })
})

t.test('nobody fills the queue alone: who has less waiting takes a place from who has most', async (t) => {
  const { control, admit, run } = setUp({ queueDepth: 4 })
  const running = await run('greedy')
  const greedy = Array.from({ length: 4 }, () => admit('greedy'))
  t.match(control.precheck('greedy'), { details: { reason: 'queue_full' } })
  t.equal(control.precheck('modest'), undefined)
  const modest = [admit('modest'), admit('modest')]
  t.match(
    [(await greedy[3])?.error, (await greedy[2])?.error],
    [{ details: { reason: 'queue_full' } }, { details: { reason: 'queue_full' } }]
  )
  t.match((await admit('modest')).error, { details: { reason: 'queue_full' } }, 'up to as much as it')
  t.match(control.stats(), { queued: 4 })
  running.release()
  for (const each of [greedy[0]!, greedy[1]!, ...modest]) (await each).ticket?.release()
  t.match(control.stats(), { running: 0, queued: 0, admitted: 5 })
})

t.test('draining takes nothing new, and lets what waits have its turn', async (t) => {
  const { control, admit, run } = setUp()
  const ticket = await run('a')
  const waiting = admit('a')
  control.drain()
  const expected = { code: 'SERVICE_UNAVAILABLE', details: { reason: 'draining', limit: 0, retryAfterSeconds: 30 } }
  t.match((await admit('a')).error, expected)
  t.match(control.precheck('b'), expected)
  ticket.release()
  t.ok((await waiting).ticket)
  t.equal(control.stats().draining, true)
})

t.test('clients that have nothing here any more are forgotten', async (t) => {
  const { clock, control, run } = setUp({ concurrency: 10, perClient: { requestsPerMinute: 60 } })
  for (let i = 0; i < 5000; i++) {
    const ticket = await run(`client ${i}`)
    clock.skip(100)
    ticket.release()
  }
  t.ok(control.stats().clients <= 257, String(control.stats().clients))
})

t.test('ten times too much, from two clients of whom one asks nine times as often', async (t) => {
  const random = seededRandom(5)
  // 10 requests a second of 100 tokens each are what it can do.
  const { clock, control, ask } = setUp({ concurrency: 10, queueDepth: 20, queueWaitMs: 5000 }, { rate: () => 1000 })
  const ended = { greedy: 0, modest: 0 }
  const refused: string[] = []
  const times: number[] = []
  let most = 0
  let open = 0
  for (let ms = 0; ms < 60_000; ms += 10) {
    const client = random() < 0.9 ? 'greedy' : 'modest'
    const began = clock.now()
    open++
    const early = control.precheck(client)
    const answer = early ? Promise.reject(early) : control.admit(ask(client))
    answer
      .then(async (ticket) => {
        most = Math.max(most, control.stats().running)
        times.push(ticket.queuedMs)
        await clock.sleep(1000)
        ended[client]++
        ticket.release()
      })
      .catch((error: EngineError) => {
        refused.push(`${error.code}: ${error.details.reason}`)
        t.ok(error.details.retryAfterSeconds! >= 1)
        if (error.details.reason === 'queue_wait' && clock.now() - began > 5000) t.fail('waited for longer')
      })
      .finally(() => open--)
    await clock.advance(10)
  }
  await clock.advance(20_000)
  t.equal(most, 10)
  t.equal(open, 0, 'everyone has an answer')
  t.ok(ended.greedy + ended.modest > 0.95 * 600, 'nothing is lost by refusing')
  t.ok(ended.modest > 0.9 * 300, `half of it for either: ${ended.modest}`)
  t.ok(times.every((ms) => ms <= 5000))
  t.same([...new Set(refused)], ['SERVICE_UNAVAILABLE: queue_full'])
  t.match(control.stats(), { running: 0, queued: 0, tokensInFlight: 0, kvBytes: 0 })
  t.equal(clock.sleeping, 0)
})

t.test('limits and asks that make no sense', async (t) => {
  for (const [path, limits] of [
    ['concurrency', { concurrency: 0 }],
    ['queueDepth', { queueDepth: -1 }],
    ['tokensInFlight', { tokensInFlight: 0 }],
    ['perClient.requestsPerMinute', { perClient: { requestsPerMinute: -1 } }],
    ['maxActive', { maxActive: 1 }]
  ] as const) {
    t.throws(() => setUp(limits as Partial<AdmissionLimits>), { code: 'VALIDATION_ERROR', details: { path } }, path)
  }
  const { run } = setUp()
  for (const [path, fields] of [
    ['priority', { priority: 11 }],
    ['maxTokens', { maxTokens: Number.POSITIVE_INFINITY }],
    ['deadline', { deadline: {} as Deadline }]
  ] as const) {
    await t.rejects(run('a', fields), { code: 'VALIDATION_ERROR', details: { path } }, path)
  }
  await settle()
})

t.test('what runs makes nobody late for whom there is room', async (t) => {
  const { clock, run, admit } = setUp({ concurrency: 2 }, { rate: () => 100 })
  const long = await run('a', { maxTokens: 60_000 })
  const soon = () => ({ deadline: Deadline.after(5000, { clock }) })
  const { ticket } = await admit('b', soon())
  t.ok(ticket)
  const waiting = admit('b', soon())
  ticket?.release()
  t.ok((await waiting).ticket, 'nor for whom there is some in time')
  long.release()
})

t.test('each client may have limits of its own', async (t) => {
  const limitsOf = (client: string) => (client === 'a' ? { concurrency: 1, queueDepth: 0 } : {})
  const { admit } = setUp({ concurrency: 4, perClient: { concurrency: 1, queueDepth: 0 } }, { limitsOf })
  t.ok((await admit('a')).ticket)
  t.match((await admit('a')).error, { code: 'RATE_LIMITED', details: { reason: 'client_concurrency', limit: 1 } })
  t.ok((await admit('b')).ticket)
  t.ok((await admit('b')).ticket, 'those of all do not count then')
})

t.test('a request that has ended is forgotten, though there is always one that waits', async (t) => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const { control, ask } = setUp()
  const asks: WeakRef<AdmissionAsk>[] = []
  const admit = (): Promise<Ticket> => {
    const own = ask('a')
    asks.push(new WeakRef(own))
    return control.admit(own)
  }
  let running = await admit()
  let waiting = admit()
  for (let i = 0; i < 50; i++) {
    const following = admit()
    running.release()
    running = await waiting
    waiting = following
  }
  await settle()
  collect()
  t.equal(control.stats().queued, 1)
  const left = asks.filter((own) => own.deref() !== undefined).length
  t.ok(left < 10, `${left} of ${asks.length} are remembered`)
  running.release()
  ;(await waiting).release()
})
