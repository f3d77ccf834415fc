/**
 * What a load reads: hot experts before all others, cold ones and those of tiers that are not active not at all. The hot tiers here are the
 * highest ids, which nothing but their placement brings in first.
 */
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { convertModel, createEngine, type Engine, type EngineEvent, type LoadModelRequest } from 'tiered-moe'
import { native } from '../../lib/native.js'
import { pinnableSlots } from '../../lib/tiers/steering.js'
import { embedded } from '../fixtures/package.js'

const [experts, contextLength, threads] = [16, 128, 2]
const home = t.testdir({})
const tokens = Int32Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 200)
const high = { name: 'often', placement: 'hot' as const, experts: ['12-15'] }

/** Bytes of the model, in a folder or a file, with so many experts for certain, beside the KV cache of the whole context. */
let memoryFor: (slots: number, from?: 'folder' | 'file') => number
let blobBytes: number
let expected: Float32Array

const told: Readonly<Record<string, unknown>>[] = []

async function open(t: Test, request: LoadModelRequest): Promise<Engine> {
  told.length = 0
  const onEvent = ({ event, fields }: EngineEvent) => event === 'hot_experts_unpinned' && told.push(fields)
  const engine = await createEngine({ threads, maxBatchTokens: 32, onEvent })
  t.teardown(() => engine.dispose())
  await engine.loadModel({
    id: 'm',
    contextLength,
    prefetch: 'off',
    recordTrace: request.memory !== undefined,
    ...request
  })
  return engine
}

t.before(async () => {
  for (const other of ['warm', 'cold'] as const) {
    const rest = { name: 'others', placement: other, experts: 'rest' as const }
    await convertModel({ from: embedded, to: join(home, other), tiers: [rest, high] })
  }
  const engine = await createEngine({ threads, maxBatchTokens: 32 })
  await engine.loadModel({ id: 'm', contextLength })
  await engine.loadModel({ id: 'folder', model: join(home, 'warm'), contextLength })
  const [file, folder] = engine.listModels().map(({ memory }) => memory)
  memoryFor = (slots, from = 'folder') => {
    const { base, keyValues, arena, experts } = (from === 'file' ? file : folder)!
    return base + keyValues + arena + slots * experts.slot
  }
  blobBytes = folder!.experts.slot
  expected = await engine.forward({ model: 'm', tokens, logits: 'all' })
  await engine.dispose()
})

/** Experts of either tier that are in memory or being read, right after the load. */
function loaded(engine: Engine) {
  const { experts: stats } = engine.modelStats('m')
  const here = [...stats!.residency].map((state) => state === 1 || state === 2)
  const [hot, other] = [true, false].map(
    (wanted) => here.filter((now, i) => now && i % experts >= 12 === wanted).length
  )
  return { hot, other, reading: [...stats!.residency].filter((state) => state === 1).length, stats: stats! }
}

/** The same logits as with all experts in memory, and the counts of the simulator. */
async function check(t: Test, engine: Engine): Promise<void> {
  t.same(await engine.forward({ model: 'm', tokens, logits: 'all' }), expected)
  const trace = engine.expertTrace('m')
  const { slots, policy, seed } = trace
  const simulated = await native().simulateCache(trace, { slots, policy, seed, decisions: false })
  const { uses, hits, late, misses, evictions, prefetches } = engine.modelStats('m').experts!
  t.match(simulated, { uses, hits: hits + late, misses, evictions, prefetches })
}

t.test('hot and cold: the hot tier is in memory when the load ends, and nothing else was read', async (t) => {
  const engine = await open(t, { model: join(home, 'cold'), memory: memoryFor(30) })
  const { hot, other, reading, stats } = loaded(engine)
  t.same({ hot, other, reading }, { hot: 16, other: 0, reading: 0 })
  t.same([stats.residentBytes, stats.demandBytes, stats.prefetchBytes], [16 * blobBytes, 0, 0])
  const view = engine.placement('m')
  t.match(view.tiers[1], { name: 'often', pinned: 16, now: { hot: { experts: 16 } } })
  await check(t, engine)
  t.equal(loaded(engine).hot, 16)
})

t.test('hot and warm: the hot tier is in memory, and warm has what is left', async (t) => {
  const engine = await open(t, { model: join(home, 'warm'), memory: memoryFor(30) })
  const { hot, other, reading, stats } = loaded(engine)
  const slots = Math.floor(stats.budgetBytes / blobBytes)
  t.same({ hot, other, reading }, { hot: 16, other: slots - 16, reading: 0 })
  t.match([stats.prefetchBytes, stats.evictions], [0, 0])
  t.equal(engine.placement('m').tiers[1]!.pinned, 16)
  await check(t, engine)
})

t.test('a hot tier that barely fits is pinned; one that does not is read first all the same', async (t) => {
  const barely = Array.from({ length: 40 }, (_, i) => i).find((slots) => pinnableSlots(slots, threads) === 16)!
  for (const [slots, pinned] of [
    [barely, 16],
    [barely - 1, 0],
    [10, 0]
  ] as const) {
    for (const placement of ['warm', 'cold']) {
      const engine = await open(t, { model: join(home, placement), memory: memoryFor(slots) })
      const { hot, other, reading, stats } = loaded(engine)
      const most = Math.floor(stats.budgetBytes / blobBytes)
      t.equal(hot, Math.min(16, most), `${slots} slots: ${hot} of the hot tier`)
      t.equal(other, placement === 'cold' ? 0 : Math.max(0, most - 16))
      t.equal(reading, 0)
      const view = engine.placement('m')
      t.match([view.pinned, view.unpinned, view.tiers[1]!.unpinned], [pinned, 16 - pinned, 16 - pinned])
      await check(t, engine)
      t.same(told, pinned ? [] : [{ model: 'm', experts: 16 }], 'what is not pinned is told')
      await engine.dispose()
    }
  }
})

t.test('tiers that are not active are not read either, and come when they are', async (t) => {
  const engine = await open(t, { model: join(home, 'warm'), memory: memoryFor(40), tierSet: 'fast' })
  t.match(loaded(engine), { hot: 16, other: 0 })
  const { promoted, pinned } = await engine.activateTierSet('m', 'max')
  t.same([promoted, pinned], [48, 0])
  t.ok(loaded(engine).other! >= 40 - 16)
  await check(t, engine)
})

t.test('hot experts that come back go before the others', async (t) => {
  const tiers = [
    { name: 'seldom', placement: 'cold' as const, experts: ['0-7'] },
    { name: 'usual', placement: 'warm' as const, experts: ['8-11'] },
    high
  ]
  const engine = await open(t, { memory: memoryFor(24, 'file'), tiers, tierSet: 'seldom' })
  t.match(loaded(engine), { hot: 0, other: 0 })
  await engine.forward({ model: 'm', tokens })
  t.ok(loaded(engine).other! > 20, 'cold experts have the slots')
  t.match(await engine.activateTierSet('m', 'max'), { pinned: 16, promoted: 32, unpinned: 0 })
  t.equal(loaded(engine).hot, 16)
  await check(t, engine)
})

t.test('what a load is asked for and the model has not is told before anything is read', async (t) => {
  const engine = await createEngine({ threads, maxBatchTokens: 32 })
  t.teardown(() => engine.dispose())
  let read = 0
  const onProgress = () => read++
  const request = { model: join(home, 'warm'), memory: memoryFor(30) }
  await t.rejects(engine.loadModel({ ...request, tierSet: 'none' }, { onProgress }), { code: 'CONFIG_UNKNOWN_TIER' })
  await t.rejects(engine.loadModel({ ...request, tierSets: { a: 'none' } }, { onProgress }), {
    code: 'CONFIG_UNKNOWN_TIER'
  })
  t.equal(read, 0)
})

t.test("no more of a hot tier is pinned than its budget, the manifest's or the load's", async (t) => {
  const budget = 6 * blobBytes + 5
  const tiers = [
    { name: 'others', placement: 'warm' as const, experts: 'rest' as const, budget },
    { ...high, budget }
  ]
  const model = join(home, 'limited')
  await convertModel({ from: embedded, to: model, tiers })
  const pinned = (engine: Engine) => {
    const view = engine.placement('m')
    return Array.from(view.where.keys()).filter((i) => view.expert(Math.floor(i / experts), i % experts).pinned)
  }
  const lowest = [12, 13, 14, 15, 16 + 12, 16 + 13]
  const engine = await open(t, { model, memory: memoryFor(30) })
  t.same(pinned(engine), lowest)
  t.match(engine.placement('m'), { pinned: 6, unpinned: 10 })
  t.equal(loaded(engine).hot, 16, 'what is beyond it is read first all the same')
  t.same(told, [{ model: 'm', experts: 10 }])
  t.match(engine.listModels()[0]!.tiers, [
    { name: 'others', budget },
    { name: 'often', budget }
  ])
  await check(t, engine)
  t.match(await engine.activateTierSet('m', 'fast'), { unpinned: 10 })
  await engine.dispose()

  const other = await open(t, { model, memory: memoryFor(30), tiers: [{ name: 'often', budget: 2 * blobBytes }] })
  t.same(pinned(other), [12, 13])
  await other.dispose()
  const plain = await open(t, {
    memory: memoryFor(30, 'file'),
    tiers: [
      { name: 'rest', placement: 'warm' },
      { ...high, budget }
    ]
  })
  t.same(pinned(plain), lowest, 'labels on a file')
  await plain.dispose()
  const moved = [
    { name: 'others', placement: 'hot' as const },
    { name: 'often', placement: 'cold' as const }
  ]
  const swapped = await open(t, { model, memory: memoryFor(30), tiers: moved })
  t.same(pinned(swapped), [0, 1, 2, 3, 4, 5], "a tier that is placed hot by the load has its manifest's")
  await swapped.dispose()
  for (const budget of ['2 apples', 0, -1])
    await t.rejects(open(t, { model, tiers: [{ name: 'often', budget }] }), {
      code: 'VALIDATION_ERROR',
      details: { path: 'budget' }
    })
  for (const tiers of [[{ name: 'others', budget }], [{ name: 'often', placement: 'cold' as const, budget }]])
    await t.rejects(open(t, { model, tiers }), { code: 'VALIDATION_ERROR', details: { allowed: /hot tier only/ } })
  const warm = [{ name: 'all', placement: 'warm' as const, budget }]
  await t.rejects(open(t, { tiers: warm }), { code: 'VALIDATION_ERROR', details: { allowed: /hot tier only/ } })
})

t.test('hot experts that lose their room later are told of, by the call and by an event', async (t) => {
  const engine = await open(t, { model: join(home, 'warm'), memory: memoryFor(24) })
  t.equal(engine.placement('m').pinned, 16)
  const pins = [0, 1, 2].map((expert) => ({ layer: 0, expert }))
  t.same(await engine.pinExperts('m', pins), { pinned: 3, demoted: 0, promoted: 0, unpinned: 16 })
  await setImmediate() // events are told once the call has gone on
  t.same(told, [{ model: 'm', experts: 16 }])
  t.match(await engine.activateTierSet('m', 'others'), { unpinned: 0, demoted: 16 })
  t.match(await engine.activateTierSet('m', 'max'), { unpinned: 16 })
  await setImmediate()
  t.equal(told.length, 2)
  t.same(await engine.pinExperts('m', pins, false), { pinned: 16, demoted: 0, promoted: 0, unpinned: 0 })
  t.equal(engine.placement('m').unpinned, 0)
  await setImmediate()
  t.equal(told.length, 2)
})
