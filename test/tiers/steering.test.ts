/** A TierSet that is activated moves its experts: the store reads what comes back, and evicts first what is not used any more. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from 'tiered-moe'
import { pinnableSlots } from '../../lib/tiers/steering.js'
import { writeMoeModel } from '../fixtures/moe-model.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'
/** Of 12 experts a layer: 4 hot, 4 warm, 4 cold. */
const hser = { tiers: { hot: [4], warm: [4], cold: [4] }, k: [1, 1, 2] as [number, number, number] }
const sizes = { hser, layers: 4, embedding: 128, feedForward: 256 }

t.test('slots that may be pinned', async (t) => {
  t.equal(pinnableSlots(100, 2), 75)
  t.equal(pinnableSlots(8, 4), 3)
  t.equal(pinnableSlots(3, 4), 0)
})

t.test('activation promotes and demotes; the bits do not know', { skip }, async (t) => {
  const model = writeMoeModel(join(t.testdir({}), 'm.gguf'), sizes)
  const engine = await createEngine({ threads: 2, maxBatchTokens: 8 })
  try {
    const tokens = Array.from({ length: 24 }, (_, i) => (i * 29 + 3) % 270)
    const whole = await engine.loadModel({ model, id: 'whole' })
    const { experts } = engine.listModels()[0]!.memory
    t.equal(experts.count, 48)
    const { base, keyValues, arena } = engine.listModels()[0]!.memory
    const memory = base + keyValues + arena + 24.5 * experts.slot
    await engine.loadModel({ model, id: 'half', memory, tierSet: 'fast', prefetch: 'off' })
    const info = engine.listModels()[1]!
    const slots = Math.floor(info.memory.experts.budget / experts.slot)
    t.ok(slots < 48 && slots >= 20, `${slots} slots of 48`)

    const residents = () => engine.modelStats('half').experts!.residency
    const hotInMemory = () =>
      Array.from(residents()).filter((state, i) => i % 12 < 4 && (state === 2 || state === 1)).length
    t.equal(hotInMemory(), 16, 'the hot tier is in memory or on its way')
    const before = engine.modelStats('half').experts!
    const fast = await engine.forward({ model: 'half', tokens })
    const after = engine.modelStats('half').experts!
    t.equal(after.misses - before.misses, 0, 'so that using it reads nothing')
    const expected = await engine.forward({ model: whole.id, tokens, tierSet: 'fast' })
    t.same(fast, expected)

    const deep = await engine.activateTierSet('half', 'deep')
    t.same([deep.demoted, deep.promoted, deep.pinned], [0, 16, 0], 'warm comes back; cold is read when it is used')
    t.same(
      await engine.forward({ model: 'half', tokens }),
      await engine.forward({ model: whole.id, tokens, tierSet: 'deep' })
    )
    const cold = await engine.activateTierSet('half', ['cold'])
    t.same([cold.pinned, cold.demoted], [0, 32], 'what is not used any more goes first, pins end')
    for (let i = 0; i < 3; i++) await engine.forward({ model: 'half', tokens })
    const coldInMemory = Array.from(residents()).filter((state, i) => i % 12 >= 8 && state === 2).length
    t.equal(coldInMemory, 16, 'the whole cold tier found room')
    t.same(
      await engine.forward({ model: 'half', tokens }),
      await engine.forward({ model: whole.id, tokens, tierSet: ['cold'] })
    )
    const back = await engine.activateTierSet('half', 'max')
    t.same([back.pinned, back.promoted], [16, 32])
    t.same(await engine.forward({ model: 'half', tokens }), await engine.forward({ model: whole.id, tokens }))

    await engine.activateTierSet('half', 'fast')
    const seldom = [
      { layer: 0, expert: 11 },
      { layer: 3, expert: 9 }
    ]
    t.same(await engine.pinExperts('half', seldom), { pinned: 2, demoted: 0, promoted: 2, unpinned: 0 })
    await engine.forward({ model: 'half', tokens })
    t.ok(
      seldom.every(({ layer, expert }) => [1, 2].includes(residents()[layer * 12 + expert]!)),
      'pinned experts are in memory or on their way'
    )
    const all = Array.from({ length: 48 }, (_, i) => ({ layer: Math.floor(i / 12), expert: i % 12 }))
    const error = await engine.pinExperts('half', all).catch((thrown: { code: string }) => thrown)
    t.match(error, { code: 'RESOURCE_BUDGET_TOO_SMALL' })
    t.same(await engine.pinExperts('half', seldom, false), { pinned: 0, demoted: 2, promoted: 0, unpinned: 0 })
    const none = await engine.pinExperts('half', [{ layer: 4, expert: 0 }]).catch((thrown: { code: string }) => thrown)
    t.match(none, { code: 'VALIDATION_ERROR' })
    t.same(await engine.pinExperts('whole', seldom), { pinned: 0, demoted: 0, promoted: 0, unpinned: 0 })
    t.same(await engine.activateTierSet('whole', 'fast').then(({ pinned, demoted }) => [pinned, demoted]), [0, 0])
  } finally {
    await engine.dispose()
  }
})
