/** Counts of experts, and the alarm of those that starve. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine, type EngineEvent } from 'tiered-moe'
import type { ExpertUse } from '../../lib/native.js'
import { StarvationWatch, type StarvedExpert } from '../../lib/tiers/starvation.js'
import { writeMoeModel } from '../fixtures/moe-model.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'

t.test('windows, the threshold, and TierSets', async (t) => {
  const shape = { layers: 2, experts: 3, k: 1 }
  let use: ExpertUse = { steps: 0, rows: new Float64Array(6), lastStep: new Float64Array(6) }
  const told: StarvedExpert[] = []
  const watch = new StarvationWatch(shape, { windowSteps: 4, leastTokens: 2 }, () => use)
  watch.onStarved((expert) => told.push(expert))
  const window = (rows: number[], lastStep: number[], enabled?: Uint8Array) => {
    use = {
      steps: use.steps + 4,
      rows: Float64Array.from(rows, (n, i) => n + use.rows[i]!),
      lastStep: Float64Array.from(lastStep)
    }
    for (let step = 0; step < 4; step++) watch.stepped([enabled ? { enabled } : {}])
    return told.splice(0)
  }
  for (let step = 0; step < 3; step++) watch.stepped([{}])
  t.same(told, [], 'nothing is told within a window')
  watch.stepped([{}])
  t.equal(told.splice(0).length, 6)

  t.same(window([9, 2, 1, 4, 0, 5], [8, 7, 6, 8, 0, 8]), [], 'those that are starved already are not told again')
  t.same(watch.starved(), [
    { layer: 0, expert: 2 },
    { layer: 1, expert: 1 }
  ])
  t.same(window([9, 2, 3, 4, 0, 0], [8, 7, 8, 8, 0, 8]), [{ layer: 1, expert: 2, tokens: 0, idleSteps: 0 }])
  const enabled = Uint8Array.of(1, 1, 0, 1, 1, 0)
  t.same(window([9, 1, 0, 4, 0, 0], [8, 3, 0, 8, 0, 0], enabled), [{ layer: 0, expert: 1, tokens: 1, idleSteps: 9 }])
})

t.test('of an engine', { skip }, async (t) => {
  const model = writeMoeModel(join(t.testdir({}), 'm.gguf'), { hser: { tiers: { hot: [4], cold: [4] }, k: [1, 1, 1] } })
  const events: EngineEvent[] = []
  const engine = await createEngine({ threads: 2, onEvent: (event) => events.push(event) })
  try {
    const { id } = await engine.loadModel({ model, tierSet: 'fast', starvation: { windowSteps: 5 } })
    t.same(engine.modelStats(id).use.rows, new Float64Array(16))
    const request = { model: id, promptTokens: [5, 6, 7], temperature: 0, ignoreEos: true, captureRouting: true }
    const { routing } = await engine.generate({ ...request, maxTokens: 6 })
    const { steps, rows, lastStep, starved } = engine.modelStats(id).use
    const expected = new Float64Array(16)
    for (const [i, expert] of routing!.ids.entries()) expected[(i % 2) * 8 + expert]! += 1
    t.same(rows, expected, 'the counts are those of the routes')
    t.equal(steps, 6)
    t.ok(lastStep.every((step, i) => step > 0 === rows[i]! > 0))
    await new Promise((resolve) => setTimeout(resolve, 20))
    const told = events.filter(({ event }) => event === 'expert_starved').map(({ fields }) => fields)
    t.ok(told.length > 0 && told.every(({ expert }) => (expert as number) < 4), 'experts of the TierSet alone')
    t.same(
      told.map(({ layer, expert }) => ({ layer, expert })),
      starved
    )
    t.match(told[0], { model: id, tokens: 0, idleSteps: Number })
  } finally {
    await engine.dispose()
  }
})
