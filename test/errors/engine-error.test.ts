import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import t from 'tap'
import * as esm from 'tiered-moe'
import { createError, createTimeoutError } from '../../lib/errors/index.js'
import { createNativeError } from '../../lib/errors/native-error.js'

const cjs: typeof esm = createRequire(resolve('package.json'))('tiered-moe')

t.test('an error has all columns of the catalogue', async (t) => {
  const cause = new RangeError('why')
  const error = createError('MODEL_NOT_LOADED', 'model a is not loaded', { model: 'a', loaded: [] }, { cause })
  t.match(error, {
    name: 'EngineError',
    message: 'model a is not loaded',
    code: 'MODEL_NOT_LOADED',
    category: 'configuration',
    severity: 'recoverable',
    scope: 'request',
    retryable: false,
    logLevel: 'warn',
    engineCode: 'ModelNotLoaded',
    httpStatus: 404,
    exitCode: 1,
    jsonRpcCode: -32005,
    details: { model: 'a', suggestedAction: esm.catalog.MODEL_NOT_LOADED.suggestedAction }
  })
  t.equal(error.cause, cause)
  t.match(error.stack, /engine-error\.test/)
  t.equal(createError('RESOURCE_MEMORY_EXHAUSTED', 'x').retryable, true)
  t.equal(createError('CANCELLED', 'x').name, 'AbortError')
  t.equal(createError('CANCELLED', 'x').engineCode, 'Cancelled')
})

t.test('instanceof holds over the ESM and the CommonJS copy, and over this one', async (t) => {
  t.not(esm.EngineError, cjs.EngineError, 'two copies')
  const foreign = createError('CANCELLED', 'x')
  const late = createTimeoutError('INFERENCE_TIMEOUT', 'x', {
    method: 'generate',
    timeout: 1500,
    duration: 1600,
    requestId: 'r'
  })
  for (const { EngineError, EngineClientError, TimeoutError, isEngineError } of [esm, cjs]) {
    t.ok(foreign instanceof EngineError && foreign instanceof EngineClientError && isEngineError(foreign))
    t.notOk(foreign instanceof TimeoutError)
    t.ok(late instanceof TimeoutError && late instanceof EngineError)
    t.notOk(new Error('x') instanceof EngineError)
    t.notOk((null as unknown) instanceof EngineError || isEngineError(undefined) || isEngineError('x'))
    class Derived extends EngineError {}
    t.notOk(foreign instanceof Derived, 'a derived class has its own instances only')
    t.ok(new Derived('CANCELLED', 'x') instanceof Derived)
  }
})

t.test('a timeout tells what was allowed and what passed', async (t) => {
  const error = createTimeoutError('MODEL_LOAD_TIMEOUT', 'late', { method: 'loadModel', timeout: 1500, duration: 1600 })
  t.match(error, { name: 'TimeoutError', method: 'loadModel', timeout: 1500, duration: 1600, exitCode: 124 })
  t.match(error.details, { timeoutSeconds: 1.5, elapsedSeconds: 1.6 })
})

t.test('the wire form is snake_case, and never fails', async (t) => {
  const cyclic: Record<string, unknown> = {
    innerKey: new Float32Array([1, 2]),
    big: 2n,
    bigOnes: BigInt64Array.of(3n),
    call: () => 1,
    ['__proto__']: { isLost: false }
  }
  cyclic.itSelf = cyclic
  const error = createError(
    'CANCELLED',
    'x',
    { requestId: 'r1', model: 'm', usage: { promptTokens: 3 }, cyclic },
    { cause: 'why' }
  )
  const wire = JSON.parse(JSON.stringify(error))
  t.match(wire, {
    code: 'CANCELLED',
    engine_code: 'Cancelled',
    message: 'x',
    model: 'm',
    request_id: 'r1',
    cause: 'why',
    retryable: false,
    details: { request_id: 'r1', usage: { prompt_tokens: 3 }, cyclic: { inner_key: [1, 2], big: '2', big_ones: ['3'] } }
  })
  t.same(Object.getOwnPropertyDescriptor(wire.details.cyclic, '__proto__')?.value, { is_lost: false })
  t.match(wire.timestamp, /^\d{4}-\d\d-\d\dT/)
  t.type(wire.details.suggested_action, 'string')
})

t.test('a native status becomes the error of its code', async (t) => {
  const memory = createNativeError('RESOURCE_MEMORY_EXHAUSTED', 'x', { required: 10, available: 4 })
  t.same(memory.details.resourceInfo, { required: 10, available: 4, current: null, limit: null, unit: 'bytes' })
  t.same(memory.details.alternatives, [], 'what the addon knows: nothing that would fit')
  for (const code of ['RESOURCE_BUDGET_TOO_SMALL', 'GPU_VRAM_EXHAUSTED'] as const) {
    t.same(createNativeError(code, 'x', { required: 10, available: 4 }).details.alternatives, [])
  }
  const known = { alternatives: [{ change: 'memory', value: 4, required: 4 }] }
  t.match(createError('RESOURCE_MEMORY_EXHAUSTED', 'x', known).details, known)
  t.notOk('alternatives' in createError('CANCELLED', 'x').details)
  t.equal(createNativeError('TENSOR_MISSING', 'x', { tensor: 'a' }).details.tensor, 'a')
  for (const code of ['NO_SUCH_CODE', 'toString', 'INFERENCE_TIMEOUT', 'OK']) {
    t.match(createNativeError(code, 'x', {}), { code: 'RUNTIME_INVARIANT_VIOLATED', details: { nativeCode: code } })
  }
})
