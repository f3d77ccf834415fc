/** The schedules of both profiles, what is tried again, and what a call that keeps failing becomes. */
import t from 'tap'
import { createError, createTimeoutError, EngineError, engineCodes, TimeoutError } from '../../lib/errors/index.js'
import { retryDelay, seededRandom } from '../../lib/resilience/backoff.js'
import { profiles, RetryAbortedError, type RetryOptions, retryWithBackoff } from '../../lib/resilience/index.js'
import { FakeClock, settle } from '../fixtures/clock.js'

/** The delays between the attempts of a call that fails every time, and when the last attempt began. */
async function schedule(options: RetryOptions): Promise<{ delays: number[]; total: number; attempts: number }> {
  const clock = new FakeClock()
  const delays: number[] = []
  let attempts = 0
  let total = 0
  const failing = retryWithBackoff(
    () => {
      attempts++
      total = clock.now()
      throw createTimeoutError('CALL_TIMEOUT', 'late', { method: 'x', timeout: 1, duration: 2 })
    },
    { ...options, clock, onRetry: ({ delayMs }) => delays.push(delayMs) }
  ).catch(() => undefined)
  await clock.advance(1e6)
  await failing
  return { delays, total, attempts }
}

t.test("mlx's table: 100, 200, 400 ms, a quarter more or less", async (t) => {
  const { retry } = profiles.rpc
  t.equal((await schedule(retry)).attempts, 3, 'in all')
  // Three retries, as in the table: its first attempt is counted apart.
  const four = { ...retry, maxAttempts: 4 }
  t.same(await schedule({ ...four, random: seededRandom(1) }), { delays: [122, 246, 328], total: 696, attempts: 4 })
  t.same(await schedule({ ...four, random: () => 0 }), { delays: [75, 150, 300], total: 525, attempts: 4 })
  t.same(await schedule({ ...four, random: () => 0.5 }), { delays: [100, 200, 400], total: 700, attempts: 4 })
  t.same(await schedule({ ...four, random: () => 1 - 2 ** -32 }), { delays: [125, 250, 500], total: 875, attempts: 4 })
  t.same((await schedule({ ...four, jitter: 0 })).delays, [100, 200, 400])
  const capped = await schedule({ ...retry, maxAttempts: 9, jitter: 0 })
  t.same(capped.delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000])
})

t.test('the network: 1, 2, 4, 8, 16 seconds, and up to a second more, evenly', async (t) => {
  const { retry } = profiles.network
  const five = await schedule({ ...retry, random: () => 0 })
  t.same(five, { delays: [1000, 2000, 4000, 8000], total: 15_000, attempts: 5 })
  t.equal(
    retryDelay(retry, 5, () => 0),
    16_000,
    'what a sixth attempt would wait'
  )
  const random = seededRandom(3)
  const jitters: number[] = []
  for (let call = 0; call < 2000; call++)
    for (let failure = 1; failure <= 5; failure++)
      jitters.push(retryDelay(retry, failure, random) - 1000 * 2 ** (failure - 1))
  t.ok(jitters.every((jitter) => Number.isInteger(jitter) && jitter >= 0 && jitter <= 1000))
  t.same([Math.min(...jitters), Math.max(...jitters)], [0, 1000])
  const mean = jitters.reduce((sum, jitter) => sum + jitter, 0) / jitters.length
  t.ok(Math.abs(mean - 500) < 15, `evenly: ${mean}`)
  const drawn = (seed: number, call: number) => Array.from({ length: 5 }, seededRandom(seed, call))
  t.same(drawn(7, 1), drawn(7, 1))
  t.notSame(drawn(7, 1), drawn(7, 2))
  t.notSame(drawn(7, 1), drawn(8, 1))
  const own = { ...retry, maxAttempts: 5, jitter: 0, delaysMs: [1, 2] }
  t.same((await schedule(own)).delays, [1, 2, 2, 2], 'of delays that are given the last one repeats')
})

const quick = { maxAttempts: 3, initialDelayMs: 1, maxDelayMs: 2, backoffMultiplier: 2, jitter: 0, method: 'download' }
const failure = (details = {}) => createError('NETWORK_PARTITION', 'no answer', { target: 'x', ...details })

t.test('until it succeeds', async (t) => {
  const events: unknown[] = []
  const result = await retryWithBackoff(
    (attempt) => {
      if (attempt < 3) throw failure()
      return attempt
    },
    { ...quick, onRetry: (event) => events.push(event) }
  )
  t.equal(result, 3)
  t.match(events, [
    { attempt: 1, maxAttempts: 3, delayMs: 1, error: { code: 'NETWORK_PARTITION' } },
    { attempt: 2, maxAttempts: 3, delayMs: 2 }
  ])
})

t.test('attempts and delays count from the first again after one that got further', async (t) => {
  const delays: number[] = []
  let [calls, further] = [0, 0]
  const failing = retryWithBackoff(
    () => {
      calls++
      further = calls === 2 || calls === 3 ? 1 : 0
      throw failure()
    },
    { ...quick, maxDelayMs: 8, gotFurther: () => further > 0, onRetry: ({ delayMs }) => delays.push(delayMs) }
  )
  await t.rejects(failing, { code: 'NETWORK_PARTITION', details: { attempts: 3 } })
  t.equal(calls, 5)
  t.same(delays, [1, 1, 1, 2])
})

t.test('the last error keeps its code and class, and says how often it was tried', async (t) => {
  const cause = new RangeError('why')
  const error: EngineError = await retryWithBackoff(
    () => Promise.reject(createError('NETWORK_PARTITION', 'no answer', { target: 'x', retryCount: 0 }, { cause })),
    quick
  ).catch((error) => error)
  const details = { target: 'x', method: 'download', attempts: 3, retryCount: 2, retryAfterSeconds: 1 }
  t.match(error, { code: 'NETWORK_PARTITION', message: 'no answer (after 3 attempts)', details })
  t.equal(error.cause, cause)
  const times = { method: 'tokenize', timeout: 10, duration: 12 }
  const late: EngineError = await retryWithBackoff(
    () => Promise.reject(createTimeoutError('CALL_TIMEOUT', 'late', times)),
    { ...quick, maxAttempts: 1, method: undefined }
  ).catch((error) => error)
  t.ok(late instanceof TimeoutError)
  t.match(late, { ...times, message: 'late (after 1 attempt)', details: { ...times, attempts: 1 } })
  t.match(late.cause, { message: 'late' })
  const foreign = Object.assign(new Error('gone'), { code: 'ECONNRESET' })
  const thrown = await retryWithBackoff(() => Promise.reject(foreign), quick).catch((error) => error)
  t.equal(thrown, foreign, 'what is not ours is thrown as it is')
})

t.test('a server that says when is asked then, within a minute', async (t) => {
  for (const [seconds, delayMs] of [
    [7, 7000],
    [3600, 60_000],
    [0, 100]
  ]) {
    const busy = createError('ENGINE_FROZEN', 'not now', { retryAfterSeconds: seconds! })
    const delays: number[] = []
    const clock = new FakeClock()
    const options = { ...quick, initialDelayMs: 100, maxDelayMs: 100, clock, maxAttempts: 2 }
    const failing = retryWithBackoff(() => Promise.reject(busy), {
      ...options,
      onRetry: ({ delayMs }) => delays.push(delayMs)
    })
    failing.catch(() => undefined)
    await clock.advance(60_000)
    t.same(delays, [delayMs])
    await t.rejects(failing, { code: 'ENGINE_FROZEN', details: { attempts: 2, retryAfterSeconds: seconds } })
  }
})

/** How often a call that fails so is made. */
async function calls(error: unknown, options: Partial<RetryOptions> = {}): Promise<number> {
  let count = 0
  const failing = (): Promise<never> => {
    count++
    return Promise.reject(error)
  }
  await retryWithBackoff(failing, { ...quick, ...options, initialDelayMs: 0, maxDelayMs: 0 }).catch(() => undefined)
  return count
}
const foreign = (fields: object, cause?: unknown) => Object.assign(new Error('x', { cause }), fields)

t.test("mlx's sixteen rows, for errors that have such a name or number alone", async (t) => {
  const rows: Record<string, number | undefined> = {
    ParseError: 1,
    InvalidRequest: 1,
    MethodNotFound: 1,
    InvalidParams: 1,
    InternalError: 3,
    ServerError: 3,
    ModelLoadError: undefined,
    GenerationError: undefined,
    TokenizerError: 1,
    GuidanceError: 1,
    ModelNotLoaded: 1,
    RuntimeError: 3,
    TransportError: 3,
    Timeout: 3,
    Cancelled: 1,
    UnknownError: undefined
  }
  t.same(Object.keys(rows), Object.keys(engineCodes))
  for (const [name, number] of Object.entries(engineCodes)) {
    for (const code of [name, number]) {
      t.equal(await calls(foreign({ code }, failure())), rows[name] ?? 3, `${code} because of what passes`)
      t.equal(await calls(foreign({ code }, new TypeError('a fault'))), rows[name] ?? 1, `${code} because of a fault`)
    }
  }
  t.equal(await calls(foreign({ code: -32050 })), 3, "a server's own number")
  t.equal(await calls(foreign({ code: -1 })), 1)
})

t.test('what is worth another attempt', async (t) => {
  t.equal(await calls(createError('ARCHIVE_REFUSED', 'no')), 1)
  t.equal(await calls(new TypeError('not ours')), 1)
  t.equal(await calls('a text'), 1)
  t.equal(await calls(undefined), 1)
  t.equal(await calls(foreign({ code: 'ECONNREFUSED' })), 3)
  t.equal(await calls(new TypeError('fetch failed', { cause: foreign({ code: 'UND_ERR_SOCKET' }) })), 3)
  t.equal(await calls(foreign({ code: 'ENOENT' })), 1)
  const circle = new Error('x') as Error & { cause?: unknown }
  circle.cause = circle
  t.equal(await calls(circle), 1)
})

t.test(
  'a list names codes, engineCodes and errnos, in any case, but never what the caller has to answer for',
  async (t) => {
    const listed = (error: unknown, ...retryableErrors: string[]) => calls(error, { retryableErrors })
    const late = createTimeoutError('CALL_TIMEOUT', 'late', { method: 'x', timeout: 1, duration: 2 })
    t.equal(await listed(late, 'TIMEOUT'), 3)
    t.equal(await listed(late, 'call_timeout'), 3)
    t.equal(await listed(late, 'ECONNRESET', 'TransportError'), 1, 'the catalogue does not count beside a list')
    t.equal(await listed(failure(), 'transporterror'), 3)
    t.equal(await listed(createError('ARCHIVE_REFUSED', 'no'), 'ARCHIVE_REFUSED'), 3)
    t.equal(await listed(createError('FILE_READ_FAILED', 'x', { errno: 'EIO' }), 'EIO'), 3)
    t.equal(await listed(foreign({ code: 'econnreset' }), 'ECONNRESET'), 3)
    t.equal(await listed(foreign({ code: -32008 }), 'TIMEOUT'), 3)
    t.equal(await listed(createError('MODEL_NOT_LOADED', 'x', { model: 'a' }), 'MODEL_NOT_LOADED'), 1, '404')
    t.equal(await listed(createError('CANCELLED', 'x'), 'CANCELLED'), 1, '499')
    t.equal(await listed(foreign({ code: 'X', status: 403 }), 'X'), 1)
    t.equal(await listed(foreign({ code: 'X', statusCode: 429 }), 'X'), 3)
  }
)

t.test('aborting ends the wait, and the attempt, at once', async (t) => {
  const clock = new FakeClock()
  const waiting = new AbortController()
  const long = { ...quick, initialDelayMs: 600_000, maxDelayMs: 600_000, clock }
  const call = retryWithBackoff(() => Promise.reject(failure()), { ...long, signal: waiting.signal })
  call.catch(() => undefined)
  await settle()
  t.equal(clock.sleeping, 1)
  waiting.abort('enough')
  const error: RetryAbortedError = await call.catch((error) => error)
  t.ok(error instanceof RetryAbortedError && error instanceof EngineError)
  t.match(error, {
    name: 'RetryAbortedError',
    code: 'CANCELLED',
    engineCode: 'Cancelled',
    attempts: 1,
    cause: 'enough'
  })
  t.match(error.details, { method: 'download', attempts: 1 })
  t.equal(clock.sleeping, 0)
  await t.rejects(
    retryWithBackoff(async () => 1, { ...quick, signal: waiting.signal }),
    { name: 'RetryAbortedError', attempts: 0 }
  )
  const running = new AbortController()
  const deaf = retryWithBackoff(() => new Promise(() => {}), { ...quick, signal: running.signal })
  running.abort()
  await t.rejects(deaf, { name: 'RetryAbortedError', attempts: 1 })
})

t.test('options that make no sense', async (t) => {
  for (const [path, options] of [
    ['maxAttempts', { maxAttempts: 0 }],
    ['initialDelayMs', { initialDelayMs: -1 }],
    ['maxDelayMs', { maxDelayMs: Number.NaN }],
    ['backoffMultiplier', { backoffMultiplier: 0.5 }],
    ['jitter', { jitter: 2 }],
    ['delaysMs', { delaysMs: [] }],
    ['clock', { clock: { now: 1 } }],
    ['attempts', { attempts: 3 }]
  ] as const) {
    const bad = { ...quick, ...options } as unknown as RetryOptions
    await t.rejects(
      retryWithBackoff(async () => 1, bad),
      { code: 'VALIDATION_ERROR', details: { path } },
      path
    )
  }
})
