/** A TierSet that is activated while memory is short: what is hot is no longer pinned, and requests get what they ask for. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from '../../lib/create-engine.js'
import type { NativeModel } from '../../lib/native.js'
import { native } from '../../lib/native.js'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { replace } from '../fixtures/replace.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'

t.test('the pins of a hot tier do not stand in the way', { skip }, async (t) => {
  const addon = native()
  const { createBackend } = addon
  let store: NativeModel | undefined
  addon.createBackend = (options) => {
    const backend = createBackend(options)
    return replace(backend, {
      loadModel: async (...args) => {
        store = await backend.loadModel(...args)
        return store
      }
    })
  }
  t.teardown(() => {
    addon.createBackend = createBackend
  })
  const hser = { tiers: { hot: [4], warm: [4], cold: [4] }, k: [1, 1, 2] as [number, number, number] }
  const model = writeMoeModel(join(t.testdir({}), 'm.gguf'), { hser, layers: 4, embedding: 128, feedForward: 256 })
  const engine = await createEngine({ threads: 2, maxBatchTokens: 8 })
  t.teardown(() => engine.dispose())
  const whole = await engine.loadModel({ model, id: 'whole' })
  const { base, keyValues, arena, experts } = engine.listModels()[0]!.memory
  const memory = base + keyValues + arena + 24.5 * experts.slot
  await engine.loadModel({ model, id: 'half', memory, tierSet: ['warm', 'cold'], memoryPressure: 'ignore' })
  // As the guard does when the machine runs short.
  await store!.setExpertBudget(8 * experts.slot)
  const change = await engine.activateTierSet('half', 'fast')
  t.same(change.active.tiers, ['hot'])
  t.equal(change.pinned, 0, 'there is no room to keep 16 of them')
  t.same(engine.listModels()[1]!.tierSet.tiers, ['hot'])
  const tokens = Array.from({ length: 24 }, (_, i) => (i * 29 + 3) % 270)
  t.same(
    await engine.forward({ model: 'half', tokens }),
    await engine.forward({ model: whole.id, tokens, tierSet: 'fast' })
  )
})
