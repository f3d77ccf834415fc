/** engine.placement: where every expert is, against the store's own counters, in each state. */
import { cpSync, rmSync, truncateSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { convertModel, createEngine, type Engine, type LoadModelRequest, type PlacementView } from 'tiered-moe'

const root = dirname(createRequire(import.meta.url).resolve('tiered-moe/package.json'))
const home = t.testdir()
const folder = join(home, 'tiered')
const [layers, experts, contextLength] = [4, 16, 192]
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)
const tokens = Int32Array.from({ length: 75 }, (_, i) => (i * 37 + 11) % 200)
/** Nobody listens there: what only the archive has is not asked for by these tests. */
const archive = { url: 'http://127.0.0.1:9/folder', coldFolder: join(home, 'cold') }

t.before(async () => {
  const tiers = [
    { name: 'core', placement: 'hot' as const, experts: range(0, 4) },
    { name: 'usual', placement: 'warm' as const, experts: range(4, 8) },
    { name: 'seldom', placement: 'cold' as const, experts: range(8, 12) },
    { name: 'rare', placement: 'archive' as const, experts: 'rest' as const }
  ]
  await convertModel({ from: join(root, 'models/tiny-shakespeare-moe-q8_0.gguf'), to: folder, tiers })
})

async function open(t: Test, request: LoadModelRequest): Promise<Engine> {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 64 })
  t.teardown(() => engine.dispose())
  await engine.loadModel({ id: 'tiny', contextLength, prefetch: 'off', ...request })
  return engine
}

/** Loads a copy with so much memory that `count` experts fit. */
async function limited(t: Test, count: number, request: LoadModelRequest = {}): Promise<Engine> {
  const engine = await open(t, { model: folder })
  const { base, arena, experts } = engine.listModels()[0]!.memory
  await engine.dispose()
  return open(t, { model: folder, memory: base + arena + count * experts.slot, ...request })
}

/** What holds of every view of an engine that rests. */
function check(t: Test, engine: Engine): PlacementView {
  const view = engine.placement('tiny')
  const stats = engine.modelStats('tiny').experts!
  const { now } = view
  const places = [now.hot, now.warm, now.cold, now.archive, now.absent]
  const total = { experts: 0, bytes: 0 }
  for (const place of places) {
    total.experts += place.experts
    total.bytes += place.bytes
  }
  t.equal(total.experts, layers * experts)
  t.equal(view.usedBytes, stats.residentBytes)
  t.equal(now.hot.bytes + now.warm.bytes, stats.residentBytes, 'what is in memory is what the store counts')
  t.equal(view.budgetBytes, stats.budgetBytes)
  const states = (state: number) => stats.residency.filter((found) => found === state).length
  t.equal(now.hot.experts + now.warm.experts, states(2))
  t.equal(view.loading, states(1))
  t.equal(view.unavailable, states(3))
  const sum = (of: (tier: PlacementView['tiers'][0]) => number) => view.tiers.reduce((n, tier) => n + of(tier), 0)
  t.equal(
    sum(({ experts }) => experts),
    layers * experts
  )
  t.equal(
    sum(({ bytes }) => bytes),
    total.bytes
  )
  t.equal(
    sum(({ pinned }) => pinned),
    view.pinned
  )
  for (const place of ['hot', 'warm', 'cold', 'archive', 'absent'] as const) {
    t.equal(
      sum(({ now }) => now[place].bytes),
      now[place].bytes
    )
  }
  const names = ['hot', 'warm', 'cold', 'archive', 'absent']
  const residencies = ['absent', 'loading', 'resident', 'unavailable']
  for (let index = 0; index < view.where.length; index++) {
    const one = view.expert(Math.floor(index / experts), index % experts)
    if (one.now !== names[view.where[index]!] || one.residency !== residencies[stats.residency[index]!]) {
      t.fail(`expert ${index} is ${one.now}, ${one.residency}`)
    }
  }
  return view
}

t.test('a model that is in memory as a whole is hot', async (t) => {
  const engine = await open(t, {})
  const view = engine.placement('tiny')
  const { expertBytes } = engine.listModels()[0]!.descriptor
  t.match(view, { model: 'tiny', layers, experts, pinned: 0, loading: 0, unavailable: 0 })
  t.match(view.now, { hot: { experts: 64, bytes: 64 * expertBytes }, warm: { experts: 0 }, cold: { experts: 0 } })
  t.equal(view.budgetBytes, view.usedBytes)
  t.match(view.expert(3, 15), { tier: 'all', now: 'hot', residency: 'resident', pinned: false, bytes: expertBytes })
  for (const [layer, expert] of [
    [4, 0],
    [0, 16],
    [-1, 0],
    [0, 0.5]
  ] as const) {
    t.throws(() => view.expert(layer, expert), { code: 'VALIDATION_ERROR' })
  }
  t.throws(() => engine.placement('none'), { code: 'MODEL_NOT_LOADED' })
  await engine.dispose()
  t.throws(() => engine.placement('tiny'), { code: 'ENGINE_DISPOSED' })
})

t.test('a checkpoint with room for all of it is hot', async (t) => {
  const view = check(t, await open(t, { model: folder }))
  t.equal(view.now.hot.experts, 64)
})

t.test('under a budget: hot tiers are pinned, the others come and go', async (t) => {
  const engine = await limited(t, 30)
  const before = check(t, engine)
  t.equal(before.now.hot.experts, 16, 'the hot tier')
  t.equal(before.pinned, 16)
  t.match(before.expert(2, 1), { tier: 'core', placement: 'hot', now: 'hot', residency: 'resident', pinned: true })
  await engine.forward({ model: 'tiny', tokens })
  const after = check(t, engine)
  t.notSame(after.where, before.where, 'experts have moved')
  t.equal(after.tiers[0]!.now.hot.experts, 16, 'what is pinned has not')
  t.equal(after.now.archive.experts + after.now.absent.experts, 0, 'every file is here')
  t.ok(after.now.cold.experts >= 64 - 30)
})

t.test('pins by hand, and tiers that are not active', async (t) => {
  const engine = await limited(t, 40)
  await engine.pinExperts('tiny', [{ layer: 1, expert: 13 }])
  await engine.forward({ model: 'tiny', tokens })
  const pinned = check(t, engine)
  t.equal(pinned.pinned, 17)
  t.match(pinned.expert(1, 13), { tier: 'rare', placement: 'archive', now: 'hot', pinned: true })
  await engine.pinExperts('tiny', [{ layer: 1, expert: 13 }], false)
  await engine.activateTierSet('tiny', ['usual', 'seldom'])
  await engine.forward({ model: 'tiny', tokens })
  const other = check(t, engine)
  t.equal(other.pinned, 0, 'a hot tier that is not active is not kept')
  t.match(other.expert(1, 13), { pinned: false })
})

t.test('an archive tier without its files is in the archive; as many as the cold folder has are cold', async (t) => {
  const part = join(home, 'part')
  cpSync(folder, part, { recursive: true })
  rmSync(join(part, 'experts/rare'), { recursive: true })
  const engine = await limited(t, 30, { model: part, archive })
  const view = check(t, engine)
  t.match(view.tiers[3], { name: 'rare', placement: 'archive', now: { archive: { experts: 16 } } })
  t.match(view.expert(0, 12), { now: 'archive', residency: 'absent' })
  t.equal(view.now.archive.experts, 16)
})

t.test('what cannot be read is unavailable, and can be seen to be', async (t) => {
  const broken = join(home, 'broken')
  cpSync(folder, broken, { recursive: true })
  const engine = await limited(t, 30, { model: broken })
  for (const layer of range(0, layers)) truncateSync(join(broken, `experts/seldom/layer-00${layer}.bin`), 0)
  const request = { model: 'tiny', tokens, tierSet: ['seldom'] }
  await t.rejects(engine.forward(request), { code: /EXPERT_UNAVAILABLE|FILE_READ_FAILED/ })
  const view = check(t, engine)
  t.ok(view.unavailable > 0)
  const index = engine.modelStats('tiny').experts!.residency.indexOf(3)
  const [layer, expert] = [Math.floor(index / experts), index % experts]
  t.match(view.expert(layer, expert), { tier: 'seldom', residency: 'unavailable', now: 'cold' })
  t.ok((await engine.generate({ model: 'tiny', prompt: 'A', maxTokens: 3, tierSet: ['core'] })).text)
})

t.test('while it computes, every view accounts for every expert', async (t) => {
  const engine = await limited(t, 14, { prefetch: 'on' })
  let ended = false
  const work = engine.generate({ model: 'tiny', prompt: 'ROMEO:', maxTokens: 40, seed: 1, ignoreEos: true })
  void work.finally(() => {
    ended = true
  })
  let views = 0
  while (!ended) {
    const { now, where, budgetBytes, tiers } = engine.placement('tiny')
    views++
    const counted = [0, 0, 0, 0, 0]
    for (const place of where) counted[place]!++
    t.same(
      counted,
      [now.hot, now.warm, now.cold, now.archive, now.absent].map(({ experts }) => experts)
    )
    t.ok(now.hot.bytes + now.warm.bytes <= budgetBytes)
    t.equal(
      tiers.reduce((sum, tier) => sum + tier.now.warm.experts, 0),
      now.warm.experts
    )
    await new Promise((resolve) => setImmediate(resolve))
  }
  await work
  t.ok(views > 1)
})
