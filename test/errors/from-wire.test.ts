/** Errors over a wire and back, and the tables that say what foreign names and statuses mean. */
import t from 'tap'
import type { ErrorCode } from '../../lib/errors/index.js'
import {
  CircuitBreakerOpenError,
  catalog,
  createError,
  createTimeoutError,
  EngineError,
  engineCodeRetry,
  engineCodes,
  errorFromWire,
  httpClasses,
  TimeoutError
} from '../../lib/errors/index.js'
import { seedNames } from '../../lib/errors/seed-names.js'
import { isRetryable } from '../../lib/resilience/index.js'
import { eventCatalog } from '../../lib/telemetry/event-catalog.js'

const sent = (error: EngineError): unknown => JSON.parse(JSON.stringify(error))

t.test('every code comes back as it went', async (t) => {
  for (const code of Object.keys(catalog) as ErrorCode[]) {
    const details = {
      requestId: 'r1',
      model: 'm',
      resourceInfo: { required: 3, available: 1, current: null, limit: 2, unit: 'bytes' as const },
      alternatives: [{ change: 'memory', value: 4, required: 4 }],
      suggestedAction: 'Do this.',
      expectedSha256: 'aa',
      tried: [1, 2]
    }
    const error = new EngineError(code, 'what happened', details, { cause: new RangeError('why') })
    const back = errorFromWire(sent(error))
    t.match(back, { code, message: 'what happened', timestamp: error.timestamp, cause: 'why' })
    t.same(back.details, error.details, code)
    t.same(sent(back), { ...(sent(error) as object), retryable: back.retryable })
    if (error.entry.retry !== 'inherit') t.equal(back.retryable, error.retryable)
  }
})

t.test('classes keep their fields', async (t) => {
  const times = { method: 'tokenize', timeout: 10, duration: 12.5, requestId: 'r' }
  const late = errorFromWire(sent(createTimeoutError('CALL_TIMEOUT', 'late', times)))
  t.ok(late instanceof TimeoutError)
  t.match(late, { ...times, name: 'TimeoutError' })
  const circuit = { circuit: 'x', state: 'HALF_OPEN', retryAfterMs: 1500 } as const
  const open = errorFromWire(sent(new CircuitBreakerOpenError('open', circuit)))
  t.ok(open instanceof CircuitBreakerOpenError)
  t.match(open, { ...circuit, details: { retryAfterSeconds: 2 } })
  t.equal(errorFromWire(sent(createError('CANCELLED', 'x'))).name, 'AbortError')
  const bare = errorFromWire({ code: 'CALL_TIMEOUT', message: 'late' })
  t.match(bare, { code: 'CALL_TIMEOUT', name: 'EngineError' })
  t.notOk(bare instanceof TimeoutError, 'without its fields it has not the class')
})

t.test('an error inside of a JSON-RPC error, or of an HTTP body', async (t) => {
  const wire = sent(createError('MODEL_NOT_LOADED', 'model a is not loaded', { model: 'a' }))
  const expected = { code: 'MODEL_NOT_LOADED', message: 'model a is not loaded', details: { model: 'a' } }
  t.match(errorFromWire({ code: -32005, message: 'outer', data: wire }), expected)
  t.match(errorFromWire({ jsonrpc: '2.0', id: 1, error: { code: -32005, message: 'outer', data: wire } }), expected)
  t.match(errorFromWire({ error: wire }), expected)
})

t.test('details with thousands of levels keep the first ones, and can be written', async (t) => {
  const nested = (levels: number) => JSON.parse(`${'{"a_b":['.repeat(levels)}1${']}'.repeat(levels)}`)
  for (const levels of [10, 2000]) {
    const wire = { code: 'CANCELLED', message: 'x', details: nested(levels) }
    const own = [errorFromWire(wire), createError('CANCELLED', 'x', nested(levels))]
    for (const error of own) t.equal(JSON.stringify(error).includes('[1]'), levels === 10)
  }
})

t.test('what is not ours is UNKNOWN_ERROR, and its cause decides whether it is tried again', async (t) => {
  const reset = errorFromWire({ code: -32007, message: 'pipe broke' }, 'worker')
  t.match(reset, {
    code: 'UNKNOWN_ERROR',
    engineCode: 'UnknownError',
    jsonRpcCode: -32010,
    message: 'pipe broke',
    retryable: true,
    details: { source: 'worker', foreignCode: -32007, foreignEngineCode: 'TransportError' }
  })
  t.ok(isRetryable(reset))
  const inside = errorFromWire({ jsonrpc: '2.0', id: 1, error: { code: -32008, message: 'late' } })
  t.match(inside, { code: 'UNKNOWN_ERROR', message: 'late', retryable: true })
  t.equal((sent(reset) as { cause: string }).cause, 'pipe broke')
  t.equal(errorFromWire({ code: 'InvalidParams', message: 'x' }).retryable, false)
  const circle: Record<string, unknown> = { message: 'x' }
  circle.error = circle
  for (const odd of [circle, { code: 'NO_SUCH_CODE' }, { code: 'toString' }, [], null, undefined, 7, 'a text', {}]) {
    t.match(errorFromWire(odd), { code: 'UNKNOWN_ERROR', retryable: false, details: { source: 'wire' } })
  }
  t.match(errorFromWire({ code: 'CANCELLED', message: 3, details: 'x', timestamp: 5 }), {
    code: 'CANCELLED',
    message: 'CANCELLED'
  })
})

t.test("mlx's table and the catalogue do not contradict each other", async (t) => {
  t.same(Object.keys(engineCodeRetry), Object.keys(engineCodes))
  for (const [code, { engineCode, retry }] of Object.entries(catalog)) {
    if (engineCodeRetry[engineCode] === 'never') t.equal(retry, 'never', `${code}: ${engineCode}`)
  }
})

t.test('every status of the catalogue has a class', async (t) => {
  const statuses = [...new Set(Object.values(catalog).map(({ httpStatus }) => String(httpStatus)))]
  t.same(statuses.sort(), Object.keys(httpClasses).sort())
})

t.test('what became of other names exists', async (t) => {
  t.ok(seedNames.length > 30)
  for (const { document, name, codes, event, note } of seedNames) {
    const what = `${document}: ${name}`
    for (const code of codes) t.ok(Object.hasOwn(catalog, code), `${what}: ${code}`)
    if (event !== undefined) t.ok(Object.hasOwn(eventCatalog, event), `${what}: ${event}`)
    t.ok(codes.length > 0 || event !== undefined || note !== undefined, `${what} became something`)
  }
  const names = seedNames.map(({ document, name }) => `${document}: ${name}`)
  t.equal(new Set(names).size, names.length, 'each once')
})
