import t from 'tap'
import { catalog, createEngine, type Engine, isEngineError } from 'tiered-moe'

/** What a caller may pass by mistake or by malice; made anew for each call. */
const hostile: Record<string, () => unknown> = {
  undefined: () => undefined,
  null: () => null,
  true: () => true,
  zero: () => 0,
  minus: () => -1,
  fraction: () => 0.5,
  NaN: () => Number.NaN,
  infinity: () => Number.POSITIVE_INFINITY,
  huge: () => 1e300,
  'above int32': () => 2 ** 31,
  'above 2^53': () => 2 ** 60,
  bigint: () => 10n,
  symbol: () => Symbol('s'),
  'empty text': () => '',
  'text with NUL': () => 'a\0b',
  'lone surrogate': () => '\ud800',
  'long text': () => 'x'.repeat(200_000),
  function: () => () => 1,
  'empty array': () => [],
  'array of holes': () => new Array(5),
  'array of NaN': () => [Number.NaN],
  'array of objects': () => [{}, null, undefined],
  'cyclic array': () => {
    const array: unknown[] = []
    array.push(array)
    return array
  },
  object: () => ({}),
  'no prototype': () => Object.create(null),
  date: () => new Date(Number.NaN),
  map: () => new Map(),
  error: () => new Error('x'),
  promise: () => Promise.resolve(1),
  buffer: () => new ArrayBuffer(8),
  floats: () => new Float64Array([1, Number.NaN]),
  'negative ids': () => Int32Array.of(-5, 1 << 30),
  'large ids': () => Uint32Array.of(0xffffffff),
  'detached ids': () => {
    const ids = new Int32Array(4)
    structuredClone(ids.buffer, { transfer: [ids.buffer] })
    return ids
  },
  'revoked proxy': () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    return proxy
  },
  'throwing proxy': () =>
    new Proxy(
      {},
      {
        get: () => {
          throw new Error('get')
        },
        ownKeys: () => {
          throw new Error('ownKeys')
        }
      }
    ),
  'changing array': () => {
    let reads = 0
    return new Proxy([1, 2, 3], { get: (target, key) => (++reads > 12 && key === '1' ? -7 : Reflect.get(target, key)) })
  }
}

const model = 'tiny-shakespeare'

/** Ends in a typed error or, where the value happens to be good, in a result. */
async function outcome(call: () => unknown): Promise<string> {
  try {
    await call()
    return 'ok'
  } catch (error) {
    if (isEngineError(error) && error.code in catalog) return error.code
    throw error
  }
}

async function survey(
  t: Pick<typeof import('tap').t, 'fail' | 'pass'>,
  method: string,
  call: (value: unknown) => unknown,
  allowed: RegExp
): Promise<void> {
  const seen = new Map<string, number>()
  for (const [name, make] of Object.entries(hostile)) {
    const began = performance.now()
    const code = await outcome(() => call(make())).catch((error) => `${error}`)
    seen.set(code, (seen.get(code) ?? 0) + 1)
    if (!allowed.test(code)) t.fail(`${method} with ${name}: ${code}`)
    const took = performance.now() - began
    if (took > 1000) t.fail(`${method} with ${name} took ${took} ms`)
  }
  t.pass(`${method}: ${[...seen].map(([code, count]) => `${code} ${count}`).join(', ')}`)
}

type Loose = Record<string, (...args: unknown[]) => Promise<unknown>>

t.test('every method of the engine', async (t) => {
  const engine: Engine = await createEngine({ threads: 2 })
  const loose = engine as unknown as Loose
  await engine.loadModel({ prefixCache: false })
  await engine.generate({ model, promptTokens: new Int32Array(250), ignoreEos: true })
  const expected = (await engine.generate({ model, prompt: 'ROMEO:', temperature: 0, maxTokens: 20 })).text
  const before = engine.counters()
  const generate = (request: object) => loose.generate!({ model, prompt: 'a', maxTokens: 1, ...request })
  const usual = /^(ok|VALIDATION_ERROR|MODEL_NOT_LOADED)$/
  await survey(t, 'createEngine', (value) => createEngine(value as never).then((other) => other.dispose()), usual)
  for (const key of ['backend', 'threads', 'isa', 'maxBatchTokens', 'maxContextTokens', 'onTransition']) {
    const call = (value: unknown) => createEngine({ [key]: value }).then((other) => other.dispose())
    await survey(t, `createEngine ${key}`, call, usual)
  }
  const load = (value: unknown, options?: unknown) => loose.loadModel!(value, options)
  const loading =
    /^(ok|VALIDATION_ERROR|MODEL_(NOT_FOUND|ALREADY_LOADED|FILE_INVALID)|FILE_READ_FAILED|RESOURCE_MEMORY_EXHAUSTED)$/
  await survey(t, 'loadModel', load, loading)
  for (const key of ['model', 'id', 'kvType', 'contextLength']) {
    const call = async (value: unknown) => {
      const { id } = (await load({ id: 'new', [key]: value })) as { id: string }
      await engine.unloadModel(id)
    }
    await survey(t, `loadModel ${key}`, call, loading)
  }
  await survey(t, 'loadModel call', (value) => load({}, value), loading)
  for (const key of ['signal', 'timeoutMs', 'onProgress'])
    await survey(t, `loadModel ${key}`, (v) => load({}, { [key]: v }), loading)
  for (const method of ['unloadModel', 'tokenize', 'detokenize', 'generate', 'forward', 'createGenerator']) {
    await survey(t, method, (value) => loose[method]!(value), /^(VALIDATION_ERROR|MODEL_NOT_LOADED)$/)
    await survey(
      t,
      `${method} model`,
      (value) => loose[method]!({ model: value }),
      /^(VALIDATION_ERROR|MODEL_NOT_LOADED)$/
    )
  }
  await survey(t, 'tokenize text', (text) => loose.tokenize!({ model, text }), usual)
  await survey(t, 'detokenize tokens', (tokens) => loose.detokenize!({ model, tokens }), usual)
  for (const key of ['tokens', 'logits']) {
    await survey(t, `forward ${key}`, (value) => loose.forward!({ model, tokens: [1], [key]: value }), usual)
  }
  const options =
    'maxTokens temperature topK topP minP repetitionPenalty repetitionWindow seed stop ignoreEos logprobs topLogprobs logits parseSpecial requestId'
  for (const key of options.split(' ')) await survey(t, `generate ${key}`, (value) => generate({ [key]: value }), usual)
  for (const key of ['prompt', 'promptTokens', 'messages']) {
    const call = (value: unknown) => generate({ prompt: undefined, [key]: value })
    await survey(t, `generate ${key}`, call, /^(ok|VALIDATION_ERROR|CONTEXT_LENGTH_EXCEEDED|CHAT_TEMPLATE_INVALID)$/)
  }
  await survey(t, 'generate call', (value) => loose.generate!({ model, prompt: 'a', maxTokens: 1 }, value), usual)
  for (const key of ['signal', 'timeoutMs']) {
    const call = (value: unknown) => loose.generate!({ model, prompt: 'a', maxTokens: 1 }, { [key]: value })
    await survey(t, `generate ${key}`, call, /^(ok|VALIDATION_ERROR|INFERENCE_TIMEOUT)$/)
  }
  t.equal((await engine.generate({ model, prompt: 'ROMEO:', temperature: 0, maxTokens: 20 })).text, expected)
  t.same(engine.counters(), before)
  await engine.dispose()
})
