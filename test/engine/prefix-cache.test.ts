/** Requests that share the KV cache of a common prefix: the same bits as without, nothing shared that may not be, and memory that is given back. */
import { createHash } from 'node:crypto'
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Engine, EngineOptions, GenerationRequest, LoadModelRequest } from 'tiered-moe'
import { createEngine, loadRuntimeConfig } from 'tiered-moe'
import { addon } from '../checkpoint/checkpoints.js'
import { type MoeModelOptions, writeMoeModel } from '../fixtures/moe-model.js'
import { items } from './items.js'

const page = 64
const model = 'model'
/** The NaN is in the embedding of this token alone. */
const poisoned = 9
const prompt = (length: number, seed = 1): number[] =>
  Array.from({ length }, (_, i) => ((i * 37 + seed * 101 + ((i * i) % 7)) % 240) + 10)

function write(t: Test, options: MoeModelOptions = {}): string {
  return writeMoeModel(join(t.testdirName, 'model.gguf'), {
    contextLength: 1024,
    editTensor: (tensor) => {
      if (tensor.name !== 'token_embd.weight') return tensor
      const data = new Uint8Array(tensor.data)
      new DataView(data.buffer).setFloat32(poisoned * 64 * 4, Number.NaN, true)
      return { ...tensor, data }
    },
    ...options
  })
}

async function open(t: Test, request: LoadModelRequest = {}, options: EngineOptions = {}): Promise<Engine> {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 48, ...options })
  t.teardown(() => engine.dispose())
  await engine.loadModel({ model: join(t.testdirName, 'model.gguf'), id: model, ...request })
  return engine
}

/** Tokens with the bits of the logits that they were chosen from, and how many of the prompt were not computed. */
async function run(engine: Engine, promptTokens: number[], more: Partial<GenerationRequest> = {}) {
  const request = { model, promptTokens, maxTokens: 3, temperature: 0, ignoreEos: true, ...more, logits: true }
  const all = await items(engine.createGenerator(request))
  const tokens = all.flatMap(({ token, logits }) =>
    token === undefined ? [] : [{ token, logits: createHash('sha256').update(logits!).digest('hex') }]
  )
  const { usage } = all.at(-1)!
  return { tokens, cached: usage!.cachedTokens, usage }
}
const stats = (engine: Engine) => engine.modelStats(model).prefixCache!
const pageBytes = (engine: Engine): number => page * engine.listModels()[0]!.kvBytesPerToken

t.test('lengths around the borders of pages, in both KV types, fed in chunks of several sizes', async (t) => {
  t.testdir()
  write(t)
  for (const [kvType, maxBatchTokens] of [
    ['f16', 48],
    ['f32', 512]
  ] as const) {
    const plain = await open(t, { kvType, prefixCache: false })
    const engine = await open(t, { kvType }, { maxBatchTokens })
    for (const length of [1, 63, 64, 65, 66, 128, 129, 191, 260]) {
      const expected = await run(plain, prompt(length, length))
      t.equal(expected.cached, 0)
      const first = await run(engine, prompt(length, length))
      t.same([first.tokens, first.cached], [expected.tokens, 0], `${length} tokens that nobody had before`)
      const again = await run(engine, prompt(length, length))
      t.same(again.tokens, expected.tokens, `${length} tokens once more`)
      t.equal(again.cached, Math.floor((length - 1) / page) * page, 'whole pages, and never the last token')
      t.match(again.usage, { promptTokens: length, completionTokens: 3, totalTokens: length + 3 })
    }
    // A text that goes on: the pages of what was generated too, and others behind a common beginning.
    const { tokens } = await run(engine, prompt(100, 70), { maxTokens: 40 })
    const longer = [...prompt(100, 70), ...tokens.map(({ token }) => token), ...prompt(30, 71)]
    const ends = [longer, [...longer.slice(0, 70), ...prompt(90, 72)]]
    for (const [i, cached] of [2 * page, page].entries()) {
      const found = await run(engine, ends[i]!)
      t.same([found.tokens, found.cached], [(await run(plain, ends[i]!)).tokens, cached])
    }
    t.equal(stats(plain), undefined)
    const { hits, misses, reusedTokens, bytes, idleBytes, limitBytes } = stats(engine)
    t.same([hits, misses], [8, 7], 'prompts of less than a page do not look')
    t.equal(reusedTokens, 14 * page)
    t.ok(bytes === idleBytes && bytes > 0 && bytes <= limitBytes)
    t.equal(engine.listModels()[0]!.idlePrefixBytes, idleBytes)
  }
})

t.test('requests at the same time', async (t) => {
  t.testdir()
  write(t)
  const plain = await open(t, { prefixCache: false })
  const common = prompt(300)
  const prompts = [common, [...common.slice(0, 200), ...prompt(100, 5)], common.slice(0, 140), prompt(150, 6), common]
  const expected = await Promise.all(prompts.map((own) => run(plain, own)))
  const engine = await open(t)
  const found = await Promise.all(prompts.map((own) => run(engine, own)))
  t.same(
    found.map(({ tokens }) => tokens),
    expected.map(({ tokens }) => tokens)
  )
  t.ok(found.at(-1)!.cached > 0, 'pages that another one has filled meanwhile')
  t.equal(found[3]!.cached, 0, 'another text')
  // One that runs, and others that come.
  const long = engine.createGenerator({ model, promptTokens: common, maxTokens: 100, temperature: 0, ignoreEos: true })
  const begun = await items(long, 10)
  const beside = await Promise.all(prompts.map((own) => run(engine, own)))
  t.same(
    beside.map(({ tokens, cached }) => [tokens, cached]),
    expected.map(({ tokens }, i) => [tokens, Math.floor((prompts[i]!.length - 1) / page) * page])
  )
  const whole = [...begun, ...(await items(long))].flatMap(({ token }) => token ?? [])
  t.same(
    whole,
    (await run(plain, common, { maxTokens: 100 })).tokens.map(({ token }) => token)
  )
  t.ok(stats(engine).idleBytes === stats(engine).bytes, 'nobody uses them now')
})

t.test('what is not shared: TierSets, salts, captured and replayed routes', async (t) => {
  t.testdir()
  write(t)
  const tiers = [
    { name: 'often', placement: 'hot' as const, experts: ['0-3'] },
    { name: 'seldom', placement: 'cold' as const, experts: 'rest' as const }
  ]
  const [plain, engine] = [await open(t, { tiers, prefixCache: false }), await open(t, { tiers })]
  const tokens = prompt(130)
  const kinds: Partial<GenerationRequest>[] = [
    {},
    { tierSet: 'fast' },
    { cacheSalt: 'a' },
    { cacheSalt: 'b' },
    { cacheSalt: 'a', tierSet: 'fast' }
  ]
  for (const kind of kinds) {
    const expected = await run(plain, tokens, kind)
    for (const cached of [0, 2 * page])
      t.same(await run(engine, tokens, kind), {
        ...expected,
        cached,
        usage: { ...expected.usage, cachedTokens: cached }
      })
  }
  const before = stats(engine)
  const { routing } = await engine.generate({ model, promptTokens: tokens, maxTokens: 2, captureRouting: true })
  t.equal(routing!.tokens, tokens.length + 1, 'the routes of every position')
  const replayed = { replayRouting: { ...routing!, ids: routing!.ids.map((id) => id ^ 1) } }
  const expected = await run(plain, tokens, replayed)
  for (let i = 0; i < 2; i++) t.same(await run(engine, tokens, replayed), expected)
  t.same(stats(engine), before)
  for (const cacheSalt of ['', 'a\0', 'a\ud800', 'a'.repeat(257)]) {
    t.throws(() => engine.createGenerator({ model, promptTokens: tokens, cacheSalt }), { code: 'VALIDATION_ERROR' })
  }
})

t.test('swapped experts: nothing of the versions before', async (t) => {
  t.testdir()
  write(t)
  const donor = writeMoeModel(join(t.testdirName, 'donor.gguf'), { contextLength: 1024, seed: 7 })
  const [plain, engine] = [await open(t, { prefixCache: false }), await open(t)]
  const tokens = prompt(200)
  const old = await run(plain, tokens)
  const swap = (own: Engine, expert: number) =>
    own.swapExperts(
      model,
      Array.from({ length: 2 }, (_, layer) => ({ action: 'replace' as const, layer, expert, from: donor }))
    )
  await run(engine, tokens)
  const running = engine.createGenerator({
    model,
    promptTokens: tokens,
    maxTokens: 150,
    temperature: 0,
    ignoreEos: true
  })
  const oldTokens = await items(running, 5)
  for (let expert = 0; expert < 8; expert++) await swap(plain, expert)
  for (let expert = 0; expert < 8; expert++) await swap(engine, expert)
  const now = await run(plain, tokens)
  t.notSame(now.tokens, old.tokens)
  t.same(await run(engine, tokens), now, 'beside a request of before')
  t.same((await run(engine, tokens)).tokens, now.tokens)
  oldTokens.push(...(await items(running)))
  t.same(
    oldTokens.slice(0, 3).map(({ token }) => token),
    old.tokens.map(({ token }) => token)
  )
  // When the old versions go, all that is there goes once more.
  for (let i = 0; i < 2; i++) t.same((await run(engine, tokens)).tokens, now.tokens)
  const again = await run(engine, tokens)
  t.same([again.tokens, again.cached], [now.tokens, 3 * page])
})

t.test('a sequence that fails leaves nothing, one that is aborted whole pages', async (t) => {
  t.testdir()
  write(t)
  const [plain, engine] = [await open(t, { prefixCache: false }), await open(t)]
  const { liveBytes } = engine.counters()
  const bad = [...prompt(150), poisoned, ...prompt(20)]
  await t.rejects(run(engine, bad), { code: 'RUNTIME_NAN_DETECTED', details: { token: 150 } })
  t.equal(stats(engine).bytes, 0)
  t.equal(engine.counters().liveBytes, liveBytes)
  // What another one uses stays.
  const good = await run(plain, prompt(140))
  await run(engine, prompt(140))
  await t.rejects(run(engine, bad), { code: 'RUNTIME_NAN_DETECTED' })
  const after = await run(engine, prompt(140))
  t.same([after.tokens, after.cached], [good.tokens, 2 * page])

  const controller = new AbortController()
  const [long, before] = [prompt(900, 4), addon.counters()]
  const { bytes } = stats(engine)
  const aborted = items(engine.createGenerator({ model, promptTokens: long }, { signal: controller.signal }))
  while (stats(engine).bytes < bytes + 4 * pageBytes(engine)) await new Promise(setImmediate)
  controller.abort()
  await t.rejects(aborted, { code: 'CANCELLED', details: { tokens: [] } })
  t.same(
    addon.counters(),
    { ...before, liveBytes: before.liveBytes + stats(engine).bytes - bytes },
    'it keeps nothing else'
  )
  const resumed = await run(engine, long)
  t.same(resumed.tokens, (await run(plain, long)).tokens)
  t.ok(resumed.cached >= 4 * page, `${resumed.cached} of 900`)
})
t.test('the limit: least recently used first, the last pages of a prefix before its first', async (t) => {
  t.testdir()
  write(t)
  const sized = await open(t)
  const bytes = pageBytes(sized)
  await sized.dispose()
  const engine = await open(t, { prefixCache: 5 * bytes })
  const { liveBytes } = addon.counters()
  const [a, b] = [prompt(200, 1), prompt(200, 2)]
  await run(engine, a)
  t.equal(stats(engine).bytes, 3 * bytes)
  t.equal(addon.counters().liveBytes, liveBytes + 3 * bytes)
  await run(engine, b)
  t.match(stats(engine), { bytes: 5 * bytes, limitBytes: 5 * bytes, evictions: 1 })
  t.equal((await run(engine, a)).cached, 2 * page, 'its last page went')
  t.equal((await run(engine, b)).cached, 2 * page, "for that b's had to go")
  // More than fits: its beginning.
  await run(engine, prompt(600, 3))
  t.equal((await run(engine, prompt(600, 3))).cached, 5 * page)
  t.equal(stats(engine).bytes, 5 * bytes)
  t.equal(addon.counters().liveBytes, liveBytes + 5 * bytes)
  await engine.unloadModel(model)
})

t.test('under a budget: beside the experts, and before them to go', async (t) => {
  t.testdir()
  write(t, { feedForward: 256, experts: 16 })
  const whole = await open(t)
  const { base, arena, keyValues, experts } = whole.listModels()[0]!.memory
  const expected = await run(whole, prompt(200))
  const held = pageBytes(whole)
  await whole.dispose()
  const before = addon.counters().liveBytes
  const memory = base + arena + keyValues + 20 * experts.slot
  const peakOf = async (request: LoadModelRequest) => {
    addon.peakLiveBytes(true)
    const engine = await open(t, { memory, contextLength: 320, memoryPressure: 'ignore', ...request })
    const results = [await run(engine, prompt(200)), await run(engine, prompt(200))]
    for (const { tokens } of results) t.same(tokens, expected.tokens)
    await Promise.allSettled([1, 2, 3, 4].map((seed) => run(engine, prompt(300, seed))))
    const { budgetBytes } = engine.modelStats(model).experts!
    const info = engine.listModels()[0]!.memory
    const own = { cached: results[1]!.cached, budgetBytes, bytes: stats(engine)?.bytes, info }
    await engine.dispose()
    t.equal(addon.counters().liveBytes, before)
    t.ok(addon.peakLiveBytes(true) - before <= memory)
    return own
  }
  const off = await peakOf({ prefixCache: false })
  t.equal(off.info.prefixCache, 0)
  const aside = await peakOf({ prefixCache: 12 * held })
  t.match(aside, { cached: 3 * page, info: { prefixCache: 12 * held } })
  t.ok(aside.info.experts.budget < off.info.experts.budget, 'memory was set aside for it')
  const chosen = await peakOf({})
  t.equal(chosen.info.experts.budget, off.info.experts.budget, 'none is unless that is asked for')
  t.equal(chosen.budgetBytes, off.budgetBytes, 'what nobody uses takes no memory from experts')
})

t.test('what is kept for requests that may come goes before a load is refused', async (t) => {
  t.testdir()
  const path = write(t, { contextLength: 2 ** 30 })
  const engine = await open(t, { contextLength: 512 })
  await run(engine, prompt(300))
  const { idlePrefixBytes } = engine.listModels()[0]!
  t.equal(idlePrefixBytes, 4 * pageBytes(engine))
  t.equal(stats(engine).limitBytes, 256 * 2 ** 20)
  await engine.loadModel({ model: path, id: 'other', contextLength: 512 })
  t.equal(engine.listModels()[0]!.idlePrefixBytes, idlePrefixBytes, 'there is room beside it')
  await t.rejects(engine.loadModel({ model: path, id: 'large', memory: 1 }), { code: 'RESOURCE_BUDGET_TOO_SMALL' })
  t.equal(engine.listModels()[0]!.idlePrefixBytes, idlePrefixBytes, 'it would be too little anyway')
  const huge = { model: path, id: 'huge', contextLength: 2 ** 30 }
  await t.rejects(engine.loadModel(huge), { code: 'RESOURCE_MEMORY_EXHAUSTED' })
  t.equal(engine.listModels()[0]!.idlePrefixBytes, 0)
  t.equal((await run(engine, prompt(300))).cached, 0)
})

t.test('disposal gives every byte back, in the middle of requests too', async (t) => {
  t.testdir()
  write(t)
  const before = addon.counters()
  const engine = await open(t)
  await run(engine, prompt(300))
  const open1 = engine.createGenerator({ model, promptTokens: prompt(300), maxTokens: 100, ignoreEos: true })
  await items(open1, 3)
  await engine.unloadModel(model)
  await t.rejects(items(open1), { code: 'MODEL_NOT_LOADED' })
  t.same(addon.counters(), { ...before, liveHandles: before.liveHandles + 1 }, 'the backend is left')
  await engine.loadModel({ model: join(t.testdirName, 'model.gguf'), id: model })
  t.equal((await run(engine, prompt(300))).cached, 0, 'another load knows nothing of it')
  await engine.dispose()
  t.same(addon.counters(), before)
})

t.test('a request of the journal goes on with the same tokens, whatever is cached', async (t) => {
  t.testdir()
  write(t)
  const [journal, copy] = [join(t.testdirName, 'journal'), join(t.testdirName, 'copy')]
  const engine = await open(t, {}, { journal: { path: journal, syncMs: 1 } })
  const tokens = prompt(200)
  const request = { model, promptTokens: tokens, maxTokens: 90, seed: 3, ignoreEos: true, cacheSalt: 's' }
  const whole = await items(engine.createGenerator({ ...request, requestId: 'first' }))
  const begun = engine.createGenerator({ ...request, requestId: 'second' })
  await items(begun, 80)
  await new Promise((resolve) => setTimeout(resolve, 20))
  cpSync(journal, copy, { recursive: true })
  const next = await open(t, {}, { journal: copy })
  const resumed = await items(await next.resumeGenerator({ requestId: 'second' }))
  t.same(
    resumed.map(({ text }) => text),
    whole.map(({ text }) => text)
  )
  const ended = await items(await next.resumeGenerator({ requestId: 'first' }))
  t.same(ended, whole, 'one that had ended, with its usage')
  const shared = await items(next.createGenerator({ ...request, requestId: 'third' }))
  t.equal(shared.at(-1)!.usage!.cachedTokens, 3 * page, 'pages of the one that went on')
  const again = await items(await next.resumeGenerator({ requestId: 'third' }))
  t.same(again, shared)
})

t.test('what may be asked for', async (t) => {
  t.testdir()
  write(t)
  const engine = await open(t, { prefixCache: '1MiB' })
  t.equal(engine.listModels()[0]!.memory.prefixCache, 2 ** 20)
  for (const prefixCache of [true, 0, -1, '1 apple', {}])
    await t.rejects(engine.loadModel({ id: 'x', prefixCache: prefixCache as never }), { code: 'VALIDATION_ERROR' })
  await run(engine, prompt(130))
  await run(engine, prompt(130))
  const values = (name: string) =>
    engine.metrics().find((family) => family.name === `tiered_moe_prefix_${name}`)!.samples
  t.match(values('lookups_total'), [
    { labels: { outcome: 'hit' }, value: 1 },
    { labels: { outcome: 'miss' }, value: 1 }
  ])
  t.match(values('tokens_total'), [{ labels: { model }, value: 2 * page }])
  t.match(values('bytes'), [{ value: 2 * pageBytes(engine) }])
  const text = 'engine:\n  backend: webgpu\nmodels:\n  - id: a\n    prefix_cache: 1MiB\n'
  await t.rejects(loadRuntimeConfig({ text, env: {} }), { code: 'CONFIG_INVALID', message: /prefix_cache/ })
  const { config } = await loadRuntimeConfig({ text: text.replace('1MiB', 'false'), env: {} })
  t.equal(config.models[0]!.prefixCache, false)
})
