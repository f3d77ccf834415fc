/** Experts under a budget: the same bits as with all of them in memory, whatever is cold; what is counted; what is refused. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createEngine, type Engine, type LoadModelRequest } from 'tiered-moe'
import type { readModel as ReadModel } from '../../lib/model/index.js'
import type { ExpertOptions, native as Native, NativeModel, StepItem } from '../../lib/native.js'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { built, embedded } from '../fixtures/package.js'

const { native } = (await built('native.js')) as { native: typeof Native }
const { readModel } = (await built('model/index.js')) as { readModel: typeof ReadModel }

const model = 'tiny-shakespeare'
const tokens = Int32Array.from({ length: 75 }, (_, i) => (i * 37 + 11) % 200)
const bytes = (array: Float32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)
const threads = 2

let plain: Engine
let expected: Float32Array
let whole: ReturnType<Engine['listModels']>[0]['memory']
t.before(async () => {
  plain = await createEngine({ threads, maxBatchTokens: 64 })
  await plain.loadModel({ contextLength })
  expected = await plain.forward({ model, tokens, logits: 'all' })
  whole = plain.listModels()[0]!.memory
})
t.teardown(() => plain.dispose())

async function open(t: Test, request: LoadModelRequest): Promise<Engine> {
  const engine = await createEngine({ threads, maxBatchTokens: 64 })
  t.teardown(() => engine.dispose())
  await engine.loadModel({ contextLength, ...request })
  return engine
}
/** Memory in which so many experts fit while there is no KV cache; with all of them, beside it. With a small context few will do. */
const contextLength = 192
const memoryFor = (experts: number): number =>
  whole.base + whole.arena + experts * whole.experts.slot + (experts === 64 ? whole.keyValues : 0)

t.test('without a budget all experts stay in memory', async (t) => {
  t.match(whole, { kept: 'all', chosenBy: 'available memory', experts: { count: 64 } })
  t.equal(plain.modelStats(model).experts, undefined)
})

for (const [experts, policy] of [
  [64, 'adaptive'],
  [32, 'lru'],
  [20, 'lfu'],
  [13, 'adaptive']
] as const) {
  t.test(`${experts} of 64 experts: the same bits`, async (t) => {
    const engine = await open(t, { memory: memoryFor(experts), cachePolicy: policy, prefetch: 'off' })
    t.match(engine.listModels()[0]!.memory, { kept: 'budget', chosenBy: 'caller' })
    const preloaded = engine.modelStats(model).experts!
    t.equal(preloaded.residency.filter((state) => state === 2).length, experts, 'the load filled the cache')
    t.ok(bytes(await engine.forward({ model, tokens, logits: 'all' })).equals(bytes(expected)))
    const request = { model, prompt: 'ROMEO:', maxTokens: 60, seed: 4 }
    t.equal((await engine.generate(request)).text, (await plain.generate(request)).text)

    const { uses, hits, misses, late, demandBytes, prefetchBytes, layers, ...stats } = engine.modelStats(model).experts!
    t.equal(uses, hits + misses)
    t.equal(late, 0, 'nothing is read that is not demanded')
    t.equal(prefetchBytes, 0)
    t.ok(stats.budgetBytes <= experts * whole.experts.slot)
    t.equal(stats.budgetBytes < experts * whole.experts.slot, experts < 64, 'the KV cache has its part of it')
    t.ok(stats.residentBytes <= stats.budgetBytes)
    const sum = (key: 'uses' | 'hits' | 'misses') => layers.reduce((sum, layer) => sum + layer[key], 0)
    t.same([sum('uses'), sum('hits'), sum('misses')], [uses, hits, misses])
    const { expertBytes } = engine.listModels()[0]!.descriptor
    t.equal(demandBytes, misses * expertBytes, 'a miss reads one expert, and nothing else is read')
    if (experts === 64) t.equal(misses, 0)
    else t.ok(stats.evictions > 0)
  })
}

/** Nanoseconds of the turns that the threads of this process run in (Linux 6.12 on), as the scheduler tells. */
const turns = (): number[] =>
  readdirSync('/proc/self/task').map((task) =>
    Number(/^se\.slice\s*:\s*(\d+)/m.exec(readFileSync(`/proc/self/task/${task}/sched`, 'utf8'))?.[1])
  )
const [major = 0, minor = 0] = release().split('.').map(Number)
const tellsTurns =
  existsSync('/proc/self/sched') && (major > 6 || (major === 6 && minor >= 12)) && turns().every((turn) => turn > 0)
t.test('threads that read ask to run as soon as they wake', { skip: !tellsTurns }, async (t) => {
  const short = () => turns().filter((turn) => turn === 100_000).length
  await open(t, { memory: memoryFor(24) })
  t.ok(short() >= 4, 'each thread of the store, and no thread that computes')
  t.ok(turns().some((turn) => turn > 100_000))
})

t.test('experts are compared with their checksums at each step', async (t) => {
  const engine = await open(t, { memory: memoryFor(24), scrub: 30 })
  const request = { model, prompt: 'ROMEO:', maxTokens: 40, seed: 4 }
  t.equal((await engine.generate(request)).text, (await plain.generate(request)).text)
  await t.rejects(engine.loadModel({ id: 'other', scrub: -1 }), { code: 'VALIDATION_ERROR' })
})

t.test('reading ahead changes no bit, and is counted', async (t) => {
  for (const prefetch of ['on', 'auto'] as const) {
    const engine = await open(t, { memory: memoryFor(24), prefetch })
    const request = { model, prompt: 'ROMEO:', maxTokens: 120, seed: 4 }
    t.equal((await engine.generate(request)).text, (await plain.generate(request)).text)
    const stats = engine.modelStats(model).experts!
    const { prefetchBytes, prefetchUsedBytes, prefetchWastedBytes, demandBytes, layers } = stats
    t.equal(stats.uses, stats.hits + stats.late + stats.misses, 'no demand is in two of them')
    for (const key of ['uses', 'hits', 'late', 'misses', 'prefetchWastedBytes'] as const) {
      const sum = layers.reduce((sum, layer) => sum + layer[key], 0)
      t.equal(sum, stats[key], key)
    }
    t.ok(prefetchBytes > 0 && prefetchUsedBytes > 0)
    t.ok(prefetchUsedBytes + prefetchWastedBytes <= prefetchBytes)
    const predictable = layers.reduce((sum, layer) => sum + layer.predictable, 0)
    const predicted = layers.reduce((sum, layer) => sum + layer.predicted, 0)
    const recall = predicted / predictable
    t.ok(recall > 0.5 && recall <= 1, `${predicted} of ${predictable} predicted`)
    t.ok(layers[0]!.predictable > 0, 'the embeddings foretell the first layer')
    if (prefetch === 'auto') t.ok(prefetchWastedBytes <= 0.1 * (demandBytes + prefetchBytes))
  }
})

t.test('a budget below the least is refused with the least, which works', async (t) => {
  const engine = await createEngine({ threads, maxBatchTokens: 64 })
  t.teardown(() => engine.dispose())
  const error = await engine.loadModel({ contextLength, memory: '1MiB' }).catch((error) => error)
  const required = memoryFor(threads + 1) + whole.keyValues
  t.match(error, {
    code: 'RESOURCE_BUDGET_TOO_SMALL',
    details: { resourceInfo: { required, available: 2 ** 20 }, alternatives: [{ change: 'memory', value: required }] }
  })
  const below = await engine.loadModel({ contextLength, memory: required - 1 }).catch((error) => error)
  for (const { change, value } of below.details.alternatives) {
    const changed = change === 'memory' ? { memory: value } : { memory: required - 1, [change]: value }
    if (change === 'threads' || change === 'maxBatchTokens') continue
    await engine.loadModel({ contextLength, id: change, ...changed })
    await engine.unloadModel(change)
  }
  await engine.loadModel({ contextLength, memory: required })
  t.ok(bytes(await engine.forward({ model, tokens, logits: 'all' })).equals(bytes(expected)))
  for (const memory of ['2 apples', '-1', '', 0, 1.5, Number.NaN]) {
    await t.rejects(engine.loadModel({ id: 'x', memory }), { code: 'VALIDATION_ERROR', details: { path: 'memory' } })
  }
  const text = await engine.loadModel({ id: 'text', memory: '9.5 MiB' })
  t.equal(engine.listModels().find(({ id }) => id === text.id)!.memory.memory, 9.5 * 2 ** 20)
})

t.test('a load that fills the cache is cancelled, and reports its progress', async (t) => {
  const engine = await createEngine({ threads, maxBatchTokens: 64 })
  t.teardown(() => engine.dispose())
  const before = engine.counters()
  const cancel = new AbortController()
  let experts = 0
  const onProgress = ({ tensor }: { tensor: string }): void => {
    if (tensor === 'experts' && ++experts === 3) cancel.abort()
  }
  await t.rejects(engine.loadModel({ contextLength, memory: memoryFor(60) }, { signal: cancel.signal, onProgress }), {
    code: 'CANCELLED'
  })
  t.same(engine.counters(), before, 'and nothing is kept')
  const events: { bytesDone: number; bytesTotal: number; index: number; count: number }[] = []
  await engine.loadModel({ contextLength, memory: memoryFor(60) }, { onProgress: (event) => events.push(event) })
  const last = events.at(-1)!
  t.equal(last.bytesDone, last.bytesTotal)
  t.same(
    events.map(({ index }) => index),
    events.map((_, i) => i)
  )
  t.equal(last.count, events.length)
})

/** The embedded model below the package's surface, with `experts` as given. */
async function openNative(
  t: Test,
  experts: Partial<ExpertOptions> & { slots: number }
): Promise<{ loaded: NativeModel; vocab: number; step: (items: StepItem[]) => ReturnType<NativeModel['step']> }> {
  const addon = native()
  const file = await addon.openGguf(embedded)
  const backend = addon.createBackend({ threads, isa: 'auto' })
  const cancel = addon.createCancel()
  const { plan } = readModel(file)
  const { slots, ...own } = experts
  const options = {
    budgetBytes: slots * whole.experts.slot,
    kvReserveBytes: 2 ** 20,
    policy: 'adaptive' as const,
    prefetch: 'auto' as const,
    ioThreads: 3,
    seed: 1,
    ...own
  }
  const loaded = await backend.loadModel(file, plan, { maxBatchTokens: 128, experts: options }, cancel)
  file.close()
  t.teardown(async () => {
    await loaded.dispose()
    backend.dispose()
  })
  return { loaded, vocab: plan.vocab, step: (items) => loaded.step(items, cancel) }
}

t.test('the KV cache takes memory from the experts and gives it back', async (t) => {
  const kvReserveBytes = 2 ** 18
  const { loaded, step } = await openNative(t, { slots: 32, kvReserveBytes })
  const full = loaded.expertStats()!.budgetBytes
  const one = Int32Array.of(1)
  const small = loaded.createSequence({ kvType: 'f16', maxTokens: 64 })
  await step([{ sequence: small, tokens: one, logits: 'none' }])
  t.equal(loaded.expertStats()!.budgetBytes, full, 'within the reserve')
  const many = Array.from({ length: 5 }, () => loaded.createSequence({ kvType: 'f16', maxTokens: 256 }))
  for (const sequence of many) {
    await step([{ sequence, tokens: new Int32Array(100).fill(2), logits: 'none' }])
    const kv = many.reduce((sum, { length }) => sum + Math.ceil(length / 64) * 64 * loaded.kvBytesPerToken.f16, 0)
    const { budgetBytes, residentBytes } = loaded.expertStats()!
    t.ok(budgetBytes <= full - Math.max(0, kv - kvReserveBytes), `${kv} bytes of KV cache leave ${budgetBytes}`)
    t.ok(residentBytes <= budgetBytes)
  }
  t.ok(loaded.expertStats()!.pressureEvents > 0)
  const greedy = Array.from({ length: 40 }, () => loaded.createSequence({ kvType: 'f32', maxTokens: 256 }))
  const items = greedy.map((sequence) => ({ sequence, tokens: new Int32Array(3).fill(2), logits: 'none' as const }))
  await t.rejects(step(items), { code: 'RESOURCE_MEMORY_EXHAUSTED' })
  // Pins are given up where the KV cache needs the room.
  const pins = new Uint8Array(64)
  const slots = Math.floor(loaded.expertStats()!.budgetBytes / whole.experts.slot)
  pins.fill(1, 0, slots - threads - 1)
  await loaded.placeExperts(pins)
  await step([{ sequence: many[0]!, tokens: new Int32Array(60).fill(2), logits: 'none' }])
  t.ok(loaded.expertStats()!.budgetBytes < slots * whole.experts.slot)
  for (const sequence of [...many, ...greedy]) sequence.dispose()
  await step([{ sequence: small, tokens: one, logits: 'none' }])
  t.equal(loaded.expertStats()!.budgetBytes, full, 'given back')
})

t.test('a budget leaves requests under way what their KV caches hold', async (t) => {
  const { loaded, step } = await openNative(t, { slots: 32, kvReserveBytes: 0 })
  const { slot } = whole.experts
  const sequence = loaded.createSequence({ kvType: 'f16', maxTokens: 512 })
  const long = [{ sequence, tokens: new Int32Array(100).fill(2), logits: 'none' as const }]
  await step(long)
  const pages = 128 * loaded.kvBytesPerToken.f16
  const least = (Math.ceil(pages / slot) + threads + 1) * slot
  const before = loaded.expertStats()!.budgetBytes
  await t.rejects(loaded.setExpertBudget(least - slot), {
    code: 'RESOURCE_BUDGET_TOO_SMALL',
    details: { required: least, available: least - slot }
  })
  t.equal(loaded.expertStats()!.budgetBytes, before, 'nothing has changed')
  await step([{ ...long[0]!, tokens: Int32Array.of(1) }])
  await loaded.setExpertBudget(least)
  t.ok(loaded.expertStats()!.budgetBytes <= least - pages, 'what the pages hold is not the experts')
  await step([{ ...long[0]!, tokens: Int32Array.of(1) }])
  sequence.dispose()
})

t.test('budgets and placement change between steps', async (t) => {
  const { loaded, step, vocab } = await openNative(t, { slots: 20, prefetch: 'off' })
  const { slot } = whole.experts
  const run = async () => {
    const sequence = loaded.createSequence({ kvType: 'f16', maxTokens: 128 })
    const logitsOut = new Float32Array(tokens.length * vocab)
    await step([{ sequence, tokens, logits: 'all', logitsOut }])
    sequence.dispose()
    return logitsOut
  }
  const first = await run()
  const placement = new Uint8Array(64)
  for (const i of [0, 17, 35, 63]) placement[i] = 1
  for (const i of [5, 20]) placement[i] = 2
  await loaded.placeExperts(placement)
  t.ok(bytes(await run()).equals(bytes(first)))
  t.ok(bytes(await run()).equals(bytes(first)))
  const { residency } = loaded.expertStats()!
  for (const i of [0, 17, 35, 63]) t.equal(residency[i], 2, `pinned ${i} stays`)
  await loaded.setExpertBudget(8 * slot)
  t.ok(loaded.expertStats()!.residentBytes <= 8 * slot)
  t.ok(bytes(await run()).equals(bytes(first)))
  for (const i of [0, 17, 35, 63]) t.equal(loaded.expertStats()!.residency[i], 2, `pinned ${i} stays`)
  await t.rejects(loaded.setExpertBudget(2 * slot), { code: 'RESOURCE_BUDGET_TOO_SMALL' })
  await t.rejects(loaded.placeExperts(new Uint8Array(64).fill(1)), { code: 'RESOURCE_BUDGET_TOO_SMALL' })
  await loaded.placeExperts(new Uint8Array(64))
  await loaded.setExpertBudget(64 * slot)
  t.ok(bytes(await run()).equals(bytes(first)))
  await t.rejects(loaded.placeExperts(new Uint8Array(64).fill(4)), { code: 'VALIDATION_ERROR' })
  await t.rejects(loaded.placeExperts(new Uint8Array(63)), { code: 'VALIDATION_ERROR' })
  t.throws(() => loaded.checkEnabled(new Uint8Array(64)), { code: 'ROUTING_TOO_FEW_EXPERTS' })
})

t.test('a placement that does not fit the model', async (t) => {
  for (const placement of [new Uint8Array(63), new Uint8Array(65), new Uint8Array(64).fill(4), new Int8Array(64)]) {
    const experts = { slots: 20, placement: placement as Uint8Array }
    await t.rejects(openNative(t, experts), {
      code: 'VALIDATION_ERROR',
      details: { argument: 'options.experts.placement' }
    })
  }
  const pins = { slots: 20, placement: new Uint8Array(64).fill(1) }
  await t.rejects(openNative(t, pins), { code: 'RESOURCE_BUDGET_TOO_SMALL' })
  const { loaded } = await openNative(t, { slots: 20, placement: new Uint8Array(64).fill(2) })
  t.equal(loaded.expertStats()!.residentBytes, 0)
})

t.test('a step that waits for experts is cancelled, and can be run again', async (t) => {
  const addon = native()
  const { loaded, step, vocab } = await openNative(t, { slots: threads + 1 })
  const sequence = loaded.createSequence({ kvType: 'f16', maxTokens: 128 })
  let cancelled = 0
  for (let i = 0; i < 40; i++) {
    const flag = addon.createCancel()
    const running = loaded.step([{ sequence, tokens, logits: 'none' }], flag)
    setTimeout(() => flag.cancel(), i % 8)
    try {
      await running
      sequence.truncate(0)
    } catch (error) {
      t.match(error, { code: 'CANCELLED' })
      cancelled++
      t.equal(sequence.length, 0)
    }
  }
  t.ok(cancelled > 0, `${cancelled} of 40 were cancelled`)
  const logitsOut = new Float32Array(tokens.length * vocab)
  await step([{ sequence, tokens, logits: 'all', logitsOut }])
  t.ok(bytes(logitsOut).equals(bytes(expected)))
})

t.test('where predictions are wrong, nothing is read ahead', async (t) => {
  // What each layer's experts add, another thing for every token, drowns what was there before: nothing says where the next layer routes.
  const path = writeMoeModel(join(t.testdir(), 'wild.gguf'), {
    type: 'F32',
    layers: 4,
    experts: 48,
    expertsUsed: 2,
    vocab: 300,
    contextLength: 256,
    editTensor: (tensor) => {
      const [, layer] = /^blk\.(\d)\.ffn_down_exps/.exec(tensor.name) ?? []
      if (layer === undefined) return tensor
      const values = new Float32Array(tensor.data.slice().buffer)
      return { ...tensor, data: new Uint8Array(values.map((value) => value * 100 ** (Number(layer) + 1)).buffer) }
    }
  })
  const engine = await createEngine({ threads, maxBatchTokens: 64 })
  t.teardown(() => engine.dispose())
  await engine.loadModel({ id: 'whole', model: path })
  const { base, arena, experts } = engine.listModels()[0]!.memory
  const promptTokens = [1, 2, 3]
  const request = { promptTokens, maxTokens: 240, seed: 1, temperature: 2, topK: 0, minP: 0, topP: 1, ignoreEos: true }
  const { tokens } = await engine.generate({ model: 'whole', ...request })
  const shares: number[] = []
  for (const prefetch of ['on', 'auto'] as const) {
    const memory = base + arena + 90 * experts.slot
    await engine.loadModel({ id: prefetch, model: path, memory, prefetch })
    t.same((await engine.generate({ model: prefetch, ...request })).tokens, tokens)
    const { demandBytes, prefetchBytes, prefetchUsedBytes, layers } = engine.modelStats(prefetch).experts!
    shares.push((prefetchBytes - prefetchUsedBytes) / (demandBytes + prefetchBytes))
    const ahead = layers.slice(1)
    t.ok(ahead.every(({ predictable, predicted }) => predicted < predictable / 2))
    if (prefetch === 'auto') t.ok(ahead.some(({ prefetching }) => !prefetching))
  }
  t.ok(shares[0]! > 0.1 && shares[1]! < 0.05, `for nothing: ${shares[0]} when on, ${shares[1]} when it decides`)
})
