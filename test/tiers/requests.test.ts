/** TierSets of an engine's requests: the bits of a naive forward with a mask, alone and beside others; activation; latency budgets. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine, type Engine, type EngineEvent, isEngineError } from 'tiered-moe'
import { readModel } from '../../lib/model/index.js'
import { type MoeModelOptions, moeModel } from '../fixtures/moe-model.js'
import { naiveForward } from '../model/naive-forward.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'
const TOKENS = Array.from({ length: 30 }, (_, i) => (i * 41 + 7) % 270)
const hser = { tiers: { hot: [3, 2], warm: [4, 2], cold: [2, 3] }, k: [1, 1, 2] as [number, number, number] }
/** Experts of each tier, the same in every layer. */
const TIERS = { hot: [0, 5], warm: [5, 11], cold: [11, 16] } as const
type TierName = keyof typeof TIERS

const same = (a: Float32Array, b: Float32Array) => Buffer.from(a.buffer).equals(Buffer.from(b.buffer))

async function withModel(
  path: string,
  run: (engine: Engine, id: string) => Promise<void>,
  load: Record<string, unknown> = {},
  onEvent?: (event: EngineEvent) => void
): Promise<void> {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 16, ...(onEvent && { onEvent }) })
  try {
    const { id } = await engine.loadModel({ model: path, kvType: 'f32', ...load })
    await run(engine, id)
  } finally {
    await engine.dispose()
  }
}

const code = async (run: () => unknown) => {
  try {
    await run()
  } catch (error) {
    return isEngineError(error) ? error : undefined
  }
  return undefined
}

const write = (dir: string, options: MoeModelOptions) => {
  const made = moeModel(options)
  const path = join(dir, 'model.gguf')
  writeFileSync(path, made.bytes)
  return { ...made, path }
}

t.test('a TierSet gives what a naive forward with its mask gives', { skip }, async (t) => {
  const { path, file, tensors } = write(t.testdir(), { hser, layers: 3 })
  const { plan } = readModel(file)
  const read = (name: string) => {
    const { data } = tensors.find((tensor) => tensor.name === name)!
    return new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength))
  }
  await withModel(path, async (engine, model) => {
    const plain = await engine.forward({ model, tokens: TOKENS, logits: 'all' })
    for (const tierSet of ['fast', 'balanced', 'max', 'warm', ['hot', 'cold']]) {
      const actual = await engine.forward({ model, tokens: TOKENS, logits: 'all', tierSet })
      const names = { fast: ['hot'], balanced: ['hot', 'warm'], max: ['hot', 'warm', 'cold'], warm: ['warm'] }
      const own = (Array.isArray(tierSet) ? tierSet : names[tierSet as keyof typeof names]) as TierName[]
      const enabled = (_: number, e: number) => own.some((name) => e >= TIERS[name][0] && e < TIERS[name][1])
      const expected = naiveForward(plan, read, TOKENS, enabled).flat()
      const worst = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - actual[at]!)), 0)
      t.ok(worst < 1e-4, `${tierSet}: largest difference ${worst.toExponential(1)}`)
      t.equal(same(actual, plain), tierSet === 'max', `${tierSet}: the plain bits where everything is enabled`)
    }
  })
})

t.test(
  'a request has the same bits alone and beside others, and keeps its TierSet when another is activated',
  { skip },
  async (t) => {
    const { path } = write(t.testdir(), { hser, type: 'Q8_0' })
    await withModel(path, async (engine, model) => {
      const asked = ['fast', 'warm', 'max', ['hot', 'cold']] as const
      const run = async (tierSet: string | readonly string[]) => {
        const logits: Float32Array[] = []
        let used: readonly string[] = []
        const request = {
          model,
          promptTokens: TOKENS.slice(0, 11),
          maxTokens: 12,
          temperature: 0,
          ignoreEos: true,
          logits: true
        }
        for await (const item of engine.createGenerator({ ...request, tierSet })) {
          if (item.logits) logits.push(item.logits)
          if (item.finishReason !== undefined) used = item.tierSet
        }
        return { used, logits: Float32Array.from(logits.flatMap((row) => [...row])) }
      }
      const alone = []
      for (const tierSet of asked) alone.push(await run(tierSet))
      t.same(
        alone.map(({ used }) => used),
        [['hot'], ['warm'], ['hot', 'warm', 'cold'], ['hot', 'cold']]
      )
      const together = Promise.all(asked.map(run))
      const { previous, active } = await engine.activateTierSet(model, 'fast')
      t.same([previous.tiers, active], [['hot', 'warm', 'cold'], { name: 'fast', tiers: ['hot'] }])
      for (const [i, { logits }] of (await together).entries())
        t.ok(same(logits, alone[i]!.logits), `${asked[i]}: the same bits`)
      t.equal(new Set(alone.map(({ logits }) => logits.join())).size, 4, 'each TierSet gives something of its own')

      const later = await engine.generate({ model, promptTokens: TOKENS, maxTokens: 3, temperature: 0 })
      t.same(later.tierSet, ['hot'], 'later requests have the new one')
      const begun = engine.createGenerator({
        model,
        promptTokens: TOKENS,
        maxTokens: 3,
        temperature: 0,
        ignoreEos: true
      })
      await engine.activateTierSet(model, ['warm', 'hot'])
      const [info] = engine.listModels()
      t.match(info, {
        tierSet: { name: 'hot+warm', tiers: ['hot', 'warm'] },
        tiers: [{ name: 'hot', placement: 'hot' }, {}, {}]
      })
      for await (const item of begun) if (item.finishReason !== undefined) t.same(item.tierSet, ['hot'])
    })
  }
)

t.test('at load: the first TierSet, and aliases', { skip }, async (t) => {
  const { path } = write(t.testdir(), { hser })
  await withModel(
    path,
    async (engine, model) => {
      const fast = await engine.forward({ model, tokens: TOKENS })
      t.ok(same(fast, await engine.forward({ model, tokens: TOKENS, tierSet: 'fast' })))
      t.same((await engine.activateTierSet(model, 'cheap')).active, { name: 'cheap', tiers: ['hot', 'cold'] })
      t.ok(engine.listModels()[0]!.tierSets.includes('cheap'))
    },
    { tierSet: 'quick', tierSets: { quick: 'fast', cheap: ['cold', 'hot'] } }
  )
})

t.test('what is refused, and leaves nothing behind', { skip }, async (t) => {
  const { path } = write(t.testdir(), { hser: { ...hser, k: [2, 1, 2] } })
  const engine = await createEngine({ threads: 1 })
  for (const [load, expected] of [
    [{ tierSet: 'lukewarm' }, 'CONFIG_UNKNOWN_TIER'],
    [{ tierSet: 'fast' }, 'ROUTING_TOO_FEW_EXPERTS'],
    [{ tierSets: { quick: ['hot', 'tepid'] } }, 'CONFIG_UNKNOWN_TIER'],
    [{ tierSets: { fast: ['hot'] } }, 'VALIDATION_ERROR'],
    [{ tierSet: [] }, 'VALIDATION_ERROR'],
    [{ tierSet: 7 }, 'VALIDATION_ERROR'],
    [{ tierSets: { 'A B': ['hot'] } }, 'VALIDATION_ERROR']
  ] as const) {
    const error = await code(() => engine.loadModel({ model: path, ...(load as object) }))
    t.equal(error?.code, expected, JSON.stringify(load))
  }
  t.same(engine.listModels(), [])
  const { id: model } = await engine.loadModel({ model: path })
  t.match((await code(() => engine.activateTierSet(model, 'tepid')))?.details, {
    tier: 'tepid',
    known: ['hot', 'warm', 'cold'],
    tierSets: ['fast', 'balanced', 'deep', 'max']
  })
  t.match((await code(() => engine.activateTierSet(model, 'fast')))?.details, {
    tierSet: 'fast',
    tiers: ['hot'],
    layer: 0
  })
  t.equal(engine.listModels()[0]!.tierSet.name, 'max', 'the active one stays')
  t.equal((await code(() => engine.activateTierSet('none', 'max')))?.code, 'MODEL_NOT_LOADED')
  for (const tierSet of ['fast', 'cold', ['warm']])
    t.equal(
      (await code(() => engine.createGenerator({ model, prompt: 'x', tierSet })))?.code,
      'ROUTING_TOO_FEW_EXPERTS'
    )
  t.equal((await code(() => engine.forward({ model, tokens: [1], tierSet: 'x' })))?.code, 'CONFIG_UNKNOWN_TIER')
  t.equal(
    (await code(() => engine.createGenerator({ model, prompt: 'x', latencyBudgetMs: 0 })))?.code,
    'VALIDATION_ERROR'
  )
  await engine.dispose()
  t.equal((await code(() => engine.activateTierSet(model, 'max')))?.code, 'ENGINE_DISPOSED')
})

t.test(
  'a latency budget: everything while it fits, less when it does not, and overruns are counted',
  { skip },
  async (t) => {
    const { path } = write(t.testdir(), { hser, type: 'Q8_0' })
    await withModel(path, async (engine, model) => {
      const request = { model, promptTokens: TOKENS, maxTokens: 6, temperature: 0, ignoreEos: true }
      const generous = await engine.generate({ ...request, latencyBudgetMs: 1e8 })
      t.same(generous.tierSet, ['hot', 'warm', 'cold'])
      const tight = await engine.generate({ ...request, latencyBudgetMs: 1e-6 })
      t.equal(tight.tierSet.length, 1, 'nothing fits: the least')
      t.same(engine.listModels()[0]!.latencyBudgets, { requests: 2, unmet: 1, overruns: 1 })
      const own = await engine.generate({ ...request, latencyBudgetMs: 1e-6, tierSet: 'max' })
      t.same(own.tierSet, ['hot', 'warm', 'cold'], "the request's own TierSet is before its budget")
      t.same(engine.listModels()[0]!.latencyBudgets.requests, 2)
    })
  }
)

t.test("a latency budget of the model's: at load, activated, and ended by a TierSet", { skip }, async (t) => {
  const { path } = write(t.testdir(), { hser, type: 'Q8_0' })
  const all = ['hot', 'warm', 'cold']
  const tight = { latencyBudgetMs: 1e-6 }
  const events: EngineEvent[] = []
  await withModel(
    path,
    async (engine, model) => {
      const request = { model, promptTokens: TOKENS, maxTokens: 6, temperature: 0, ignoreEos: true }
      const tiersOf = async (more = {}) => (await engine.generate({ ...request, ...more })).tierSet
      const info = () => engine.listModels()[0]!
      t.match(info(), { tierSet: { tiers: all }, ...tight })
      t.same(await tiersOf(), all, 'nothing is measured: everything is tried')
      t.equal((await tiersOf()).length, 1, 'it took longer: the next request gets less')
      t.same(await tiersOf({ tierSet: 'max' }), all, "the request's own is before it")
      t.same(await tiersOf({ latencyBudgetMs: 1e8 }), all)
      t.match(info().latencyBudgets, { requests: 3, overruns: 2 })
      const plain = await engine.forward({ model, tokens: TOKENS })
      t.ok(same(plain, await engine.forward({ model, tokens: TOKENS, tierSet: 'max' })), 'forward uses the active one')

      const generous = await engine.activateTierSet(model, { latencyBudgetMs: 1e8 })
      t.match(generous, { active: { tiers: all }, withinBudget: true })
      t.ok(generous.predictedMs! > 0)
      t.same(await tiersOf(), all)
      const { active, withinBudget } = await engine.activateTierSet(model, tight)
      t.equal(withinBudget, false)
      t.ok(active.tiers.length < all.length, 'what overran is not chosen')
      t.same(info().tierSet.tiers, active.tiers)
      t.ok((await tiersOf()).length < all.length)
      const named = await engine.activateTierSet(model, 'balanced')
      t.notOk('withinBudget' in named)
      t.notOk('latencyBudgetMs' in info())
      t.same(await tiersOf(), ['hot', 'warm'])
      for (const wrong of [
        { latencyBudgetMs: 0 },
        { latencyBudgetMs: 5, tierSet: 'max' },
        {},
        { latencyBudgetMs: '5' }
      ])
        t.equal((await code(() => engine.activateTierSet(model, wrong as typeof tight)))?.code, 'VALIDATION_ERROR')
      t.same(info().tierSet.tiers, ['hot', 'warm'])
      const both = await code(() => engine.loadModel({ model: path, id: 'both', tierSet: 'max', ...tight }))
      t.match(both, { code: 'VALIDATION_ERROR', details: { path: 'latencyBudgetMs' } })
      await settled()
      const told = events.filter(({ event }) => event === 'tierset_activated').map(({ fields }) => fields)
      t.match(told, [
        { latencyBudgetMs: 1e8, withinBudget: true },
        { ...tight, withinBudget: false },
        { tierSet: ['hot', 'warm'] }
      ])
    },
    tight,
    (event) => events.push(event)
  )
})

const settled = () => new Promise((resolve) => setTimeout(resolve, 20))

t.test('what is told of TierSets and budgets', { skip }, async (t) => {
  const { path } = write(t.testdir(), { hser })
  const events: EngineEvent[] = []
  const collect = (event: EngineEvent) => events.push(event)
  const of = (name: string) => events.filter(({ event }) => event === name).map(({ fields }) => fields)
  await withModel(
    path,
    async (engine, model) => {
      await engine.activateTierSet(model, ['cold', 'hot'])
      const request = { model, promptTokens: TOKENS, maxTokens: 4, temperature: 0, ignoreEos: true }
      await engine.generate({ ...request, requestId: 'first' })
      await engine.generate({ ...request, requestId: 'second', latencyBudgetMs: 1e-6 })
      await settled()
      t.match(of('model_loaded'), [{ model, tierSet: ['hot'] }])
      t.match(of('tierset_activated'), [{ model, tierSet: ['hot', 'cold'], previous: ['hot'] }])
      t.match(of('latency_budget_unmet'), [{ model, requestId: 'second', budgetMs: 1e-6 }])
      t.match(of('latency_budget_overrun'), [{ model, requestId: 'second', tokens: 3 }])
    },
    { tierSet: 'fast' },
    collect
  )
})
