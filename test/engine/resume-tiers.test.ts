/** Requests of a tiered checkpoint go on: with their own TierSet, under another budget, and not on another checkpoint. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import t from 'tap'
import { convertModel, createEngine, type Engine } from 'tiered-moe'
import { embedded } from '../fixtures/package.js'
import { items } from './items.js'

const folder = t.testdir()
const checkpoint = join(folder, 'tiny')
const request = { model: 'tiny', prompt: 'ROMEO:', seed: 11, maxTokens: 40, ignoreEos: true }

t.before(async () => {
  const tiers = [
    { name: 'core', placement: 'hot' as const, experts: ['0-7'] },
    { name: 'rest', placement: 'cold' as const, experts: 'rest' as const }
  ]
  await convertModel({ from: embedded, to: checkpoint, tiers })
})

const start = (): Promise<Engine> => createEngine({ threads: 2, journal: join(folder, 'journal') })

t.test('each request keeps the TierSet that it got; the one for later requests is restored', async (t) => {
  const plain = await createEngine({ threads: 2 })
  await plain.loadModel({ model: checkpoint })
  const all = await items(plain.createGenerator({ ...request, requestId: 'all' }))
  const core = await items(plain.createGenerator({ ...request, requestId: 'core', tierSet: 'core' }))
  const later = await items(plain.createGenerator({ ...request, requestId: 'later', tierSet: ['core'] }))
  t.not(all.map(({ text }) => text).join(''), core.map(({ text }) => text).join(''), 'the TierSet makes a difference')
  const { base, keyValues, arena, experts } = plain.listModels()[0]!.memory
  const memory = base + keyValues + arena + 12 * experts.slot
  await plain.dispose()

  const first = await start()
  await first.loadModel({ model: checkpoint, memory })
  t.same(await items(first.createGenerator({ ...request, requestId: 'all' }), 9), all.slice(0, 9))
  t.same(await items(first.createGenerator({ ...request, requestId: 'core', tierSet: 'core' }), 9), core.slice(0, 9))
  await first.activateTierSet('tiny', 'core')
  t.same(await items(first.createGenerator({ ...request, requestId: 'later' }), 9), later.slice(0, 9))
  await first.dispose()

  const second = await start()
  t.match(second.recovered.models, [{ id: 'tiny', path: checkpoint, options: { tierSet: ['core'], memory } }])
  for (const [requestId, expected] of Object.entries({ all, core, later })) {
    t.same(await items(await second.resumeGenerator({ requestId })), expected, requestId)
  }
  t.same(second.listModels()[0]!.tierSet.tiers, ['core'], 'the active TierSet is restored')
  t.same((await second.generate(request)).tierSet, ['core'])
  await second.unloadModel('tiny')
  await second.loadModel({ model: checkpoint })
  t.same(
    await items(await second.resumeGenerator({ requestId: 'all', from: 20 })),
    all.slice(20),
    'under no budget too'
  )
  await second.dispose()
})

t.test("the model's latency budget is restored, whether it was loaded with or activated", async (t) => {
  const journal = join(folder, 'budgets')
  const open = () => createEngine({ threads: 2, journal: { path: journal, recover: 'load' } })
  const budgets = (engine: Engine) => engine.listModels().map(({ latencyBudgetMs }) => latencyBudgetMs)
  const first = await open()
  await first.loadModel({ model: checkpoint, id: 'tiny', latencyBudgetMs: 50 })
  await first.loadModel({ model: checkpoint, id: 'other', tierSet: 'core' })
  await first.activateTierSet('other', { latencyBudgetMs: 70 })
  await first.dispose()
  const second = await open()
  t.same(budgets(second), [50, 70])
  await second.activateTierSet('tiny', 'core')
  await second.dispose()
  const third = await open()
  t.same(budgets(third), [undefined, 70])
  t.same(third.listModels()[0]!.tierSet.tiers, ['core'])
  await third.dispose()
})

t.test('labels of a plain model that name other experts now', async (t) => {
  const labels = join(folder, 'tiers.yaml')
  const write = (first: string, placement = 'hot') =>
    writeFileSync(
      labels,
      `tiers:\n  - {name: one, placement: ${placement}, experts: [${first}]}\n  - {name: two, placement: cold, experts: rest}\n`
    )
  write("'0-7'")
  const engine = await createEngine({ threads: 2, journal: join(folder, 'labels') })
  await engine.loadModel({ id: 'tiny', tiers: relative(process.cwd(), labels) })
  await items(engine.createGenerator({ ...request, requestId: 'a', tierSet: 'one' }), 3)
  await engine.dispose()
  const resume = async () => {
    const next = await createEngine({ threads: 2, journal: join(folder, 'labels') })
    try {
      for (const { options } of next.recovered.models) t.equal(options.tiers, labels, 'the path is absolute')
      return await items(await next.resumeGenerator({ requestId: 'a' }), 8)
    } catch (error) {
      t.same(next.listModels(), [], 'what was loaded for nothing is not kept')
      throw error
    } finally {
      await next.dispose()
    }
  }
  t.equal((await resume()).length, 8)
  write("'8-15'")
  await t.rejects(resume(), { code: 'MODEL_CHANGED' })
  write("'0-7'", 'warm')
  t.equal((await resume()).length, 8, 'another placement changes no bit')
})

t.test('a checkpoint is recognised by its manifest', async (t) => {
  const engine = await start()
  await engine.loadModel({ model: checkpoint })
  await items(engine.createGenerator({ ...request, requestId: 'manifest' }), 3)
  await engine.dispose()
  const manifest = join(checkpoint, 'manifest.json')
  const text = readFileSync(manifest, 'utf8')
  writeFileSync(manifest, `${text}\n`)
  const next = await start()
  await t.rejects(next.resumeGenerator({ requestId: 'manifest' }), { code: 'MODEL_CHANGED' })
  writeFileSync(manifest, text)
  t.equal((await items(await next.resumeGenerator({ requestId: 'manifest' }))).length, 41)
  await next.dispose()
})
