import { spawnSync } from 'node:child_process'
import t from 'tap'
import { createEngine, type Engine } from 'tiered-moe'

const model = 'tiny-shakespeare'
/** What a model keeps for its longest sequence is there after the first one; prompts are computed from their first token on. */
async function loadWarm(engine: Engine): Promise<void> {
  await engine.loadModel({ prefixCache: false })
  await engine.generate({ model, prompt: long, maxTokens: 256, ignoreEos: true, repetitionPenalty: 1.1 })
}

const long = 'Now is the winter of our discontent made glorious summer. '.repeat(8)

t.test('abort during prefill and during decoding: partial text, and everything is given back', async (t) => {
  const engine = await createEngine({ threads: 2 })
  await loadWarm(engine)
  const before = engine.counters()
  const whole = await engine.generate({ model, prompt: 'ROMEO:', temperature: 0, maxTokens: 100 })
  const abort = async (after: number) => {
    const controller = new AbortController()
    const generator = engine.createGenerator(
      { model, prompt: after === 0 ? long : 'ROMEO:', temperature: 0, maxTokens: 100 },
      { signal: controller.signal }
    )
    for (let i = 0; i < after; i++) await generator.next()
    let came = false
    const next = generator.next().finally(() => {
      came = true
    })
    while (after === 0 && !came && engine.counters().activeJobs === before.activeJobs) await new Promise(setImmediate)
    controller.abort()
    // A token that came before the abort is still handed over.
    return next.then(() => generator.next()).catch((error) => error)
  }
  for (const after of [0, 1, 7]) {
    let error = await abort(after)
    // The prompt takes a few milliseconds: an abort that came later than that is tried once more.
    for (let tries = 1; after === 0 && error.details?.tokens?.length > 0 && tries < 50; tries++) {
      t.match(error, { code: 'CANCELLED' })
      t.same(engine.counters(), before)
      error = await abort(after)
    }
    t.match(error, { code: 'CANCELLED', name: 'AbortError', engineCode: 'Cancelled' })
    const { text, tokens, usage } = error.details
    t.equal(usage.completionTokens, tokens.length)
    if (after > 0) {
      t.ok(tokens.length >= after)
      t.same(tokens, whole.tokens.slice(0, tokens.length))
      t.ok(whole.text.startsWith(text) && text.length > 0)
    } else t.same(tokens, [], 'it came while the prompt was computed')
    t.same(engine.counters(), before)
  }
  t.equal((await engine.generate({ model, prompt: 'ROMEO:', temperature: 0, maxTokens: 100 })).text, whole.text)
  await engine.dispose()
})

t.test('an abort leaves its batch-mates as they were', async (t) => {
  const engine = await createEngine({ threads: 2 })
  await engine.loadModel()
  const request = { model, prompt: 'To be, or not', maxTokens: 60, seed: 3, temperature: 1 }
  const alone = await engine.generate(request)
  const aborts = Array.from({ length: 6 }, (_, i) => {
    const controller = new AbortController()
    setTimeout(() => controller.abort(), 1 + i * 3)
    return engine
      .generate({ model, prompt: long, ignoreEos: true }, { signal: controller.signal })
      .catch((error) => error.code)
  })
  t.equal((await engine.generate(request)).text, alone.text)
  for (const code of await Promise.all(aborts)) t.ok(code === 'CANCELLED' || code.finishReason === 'length')
  await engine.dispose()
})

t.test('a deadline carries what there was', async (t) => {
  const engine = await createEngine({ threads: 1 })
  await engine.loadModel()
  const prompt = 'ROMEO:'
  const controlled = engine.createGenerator({ model, prompt, ignoreEos: true, requestId: 'q1' }, { timeoutMs: 1500 })
  await controlled.next()
  await new Promise((resolve) => setTimeout(resolve, 1600))
  await t.rejects(controlled.next(), {
    code: 'INFERENCE_TIMEOUT',
    name: 'TimeoutError',
    method: 'createGenerator',
    timeout: 1500,
    requestId: 'q1',
    details: { model, usage: { completionTokens: 2 } }
  })
  await engine.dispose()
})

t.test('break, return and unload free the sequence', async (t) => {
  const engine = await createEngine({ threads: 2 })
  await loadWarm(engine)
  const before = engine.counters()
  for await (const item of engine.createGenerator({ model, prompt: 'ROMEO:' })) if (item.token !== undefined) break
  t.same(engine.counters(), before)
  const generator = engine.createGenerator({ model, prompt: long })
  const pending = generator.next()
  await generator.return()
  t.same(await pending, { done: true, value: undefined })
  t.same(engine.counters(), before)
  const running = engine.generate({ model, prompt: long, ignoreEos: true }).catch((error) => error)
  const idle = engine.createGenerator({ model, prompt: 'x' })
  await idle.next()
  await engine.unloadModel(model)
  t.match(await running, { code: 'MODEL_NOT_LOADED' })
  const error = await idle.next().catch((error) => error)
  t.match(error, { code: 'MODEL_NOT_LOADED', details: { usage: { promptTokens: 1 } } })
  await engine.dispose()
})

t.test('dispose mid-generation and mid-load; nothing works afterwards', async (t) => {
  const engine = await createEngine({ threads: 2 })
  await engine.loadModel()
  const generator = engine.createGenerator({ model, prompt: 'ROMEO:' })
  await generator.next()
  const running = engine.generate({ model, prompt: long, ignoreEos: true }).catch((error) => error)
  const loading = engine.loadModel({ id: 'second' }).catch((error) => error)
  const first = engine.dispose()
  t.equal(engine.dispose(), first, 'once for all')
  await first
  t.equal(engine.state, 'closed')
  t.match(await running, { code: 'ENGINE_DISPOSED', details: { usage: {} } })
  t.match(await loading, { code: 'ENGINE_DISPOSED' })
  await t.rejects(generator.next(), { code: 'ENGINE_DISPOSED' })
  const request = { model, prompt: 'x' }
  t.throws(() => engine.createGenerator(request), { code: 'ENGINE_DISPOSED' })
  t.throws(() => engine.backend, { code: 'ENGINE_DISPOSED' })
  const calls: (() => Promise<unknown>)[] = [
    () => engine.loadModel(),
    () => engine.unloadModel(model),
    () => engine.generate(request),
    () => engine.tokenize({ model, text: 'x' }),
    () => engine.detokenize({ model, tokens: [1] }),
    () => engine.forward({ model, tokens: [1] })
  ]
  for (const call of calls) t.match(await call().catch((error) => error), { code: 'ENGINE_DISPOSED' })
  t.same(engine.listModels(), [])
  t.match(engine.counters(), { activeJobs: 0, openFiles: 0 })
})

t.test('a script ends by itself soon after its last line', async (t) => {
  const prelude = `import { createEngine } from 'tiered-moe'
    process.on('exit', () => console.log('took', Math.round(performance.now() - last)))
    let last
    const engine = await createEngine({ threads: 2 })
    await engine.loadModel()
    const generator = engine.createGenerator({ model: '${model}', prompt: 'ROMEO:', ignoreEos: true }, { timeoutMs: 60000 })
    await generator.next()
    `
  const endings = {
    'mid-generation, without dispose': '',
    'after break': 'for await (const item of generator) break',
    'with a call that nobody waits for': 'generator.next(); generator.next()',
    'with dispose': 'await engine.dispose()',
    'with dispose that nobody waits for': 'engine.dispose()'
  }
  for (const [name, ending] of Object.entries(endings)) {
    const script = `${prelude}${ending}\n;last = performance.now()`
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      timeout: 20_000
    })
    t.equal(status, 0, `${name} ${stderr}`)
    const took = Number(/took (\d+)/.exec(stdout)?.[1])
    // Within a second where the machine has time; the generation that it must not wait for may take a minute.
    t.ok(took < 10_000, `${name}: ${took} ms`)
  }
})
