/** What the guard does to a real model's budget where the machine says that it is short of memory. */
import t, { type Test } from 'tap'
import type { native as Native, NativeModel } from '../../lib/native.js'
import type { guardMemory as GuardMemory } from '../../lib/tiers/pressure-guard.js'
import { built, embedded } from '../fixtures/package.js'

const { native } = (await built('native.js')) as { native: typeof Native }
const { readModel } = await built('model/index.js')
const { guardMemory } = (await built('tiers/pressure-guard.js')) as { guardMemory: typeof GuardMemory }

const MiB = 2 ** 20
const slot = 106_496
const slots = 40
const addon = native()
const cancel = addon.createCancel()

async function open(t: Test, prefixCacheBytes = 0, whole = false): Promise<NativeModel> {
  const file = await addon.openGguf(embedded)
  const backend = addon.createBackend({ threads: 2, isa: 'auto' })
  const experts = {
    budgetBytes: slots * slot,
    kvReserveBytes: 0,
    policy: 'adaptive' as const,
    prefetch: 'off' as const,
    ioThreads: 2,
    seed: 1
  }
  const options = { maxBatchTokens: 128, prefixCacheBytes, ...(!whole && { experts }) }
  const model = await backend.loadModel(file, readModel(file).plan, options, cancel)
  file.close()
  t.teardown(async () => {
    await model.dispose()
    backend.dispose()
  })
  return model
}

/** Leaves two pages of a prefix that nobody uses. */
async function leavePrefix(model: NativeModel): Promise<void> {
  const sequence = model.createSequence({ kvType: 'f16', maxTokens: 128, prefix: { salt: '', epoch: 0 } })
  await model.step([{ sequence, tokens: new Int32Array(128).fill(2), logits: 'none' }], cancel)
  sequence.dispose()
}

t.test('of a model whose experts all stay in memory cached prefixes go', async (t) => {
  const model = await open(t, MiB, true)
  await leavePrefix(model)
  const page = 64 * model.kvBytesPerToken.f16
  const experts = { budget: 0, certain: 0, all: 64 * slot, slot, count: 64 }
  let look: (available: number) => void = () => {}
  let stopped = false
  const guarded = {
    native: model,
    experts,
    workers: 2,
    onChange: () => t.fail('there is no budget'),
    watch: (_: number, listener: (reading: { at: number; available: number; stall: number }) => void) => {
      look = (available) => listener({ at: 0, available, stall: 0 })
      return () => {
        stopped = true
      }
    }
  }
  const stop = guardMemory(guarded)!
  look(64 * MiB)
  t.match(model.prefixStats!(), { bytes: 2 * page }, 'there is enough')
  look(64 * MiB - 1)
  t.match(model.prefixStats!(), { bytes: page, evictions: 1 })
  look(0)
  t.match(model.prefixStats!(), { bytes: 0, evictions: 2 })
  stop()
  t.ok(stopped)
  t.equal(guardMemory({ ...guarded, native: await open(t, 0, true) }), undefined, 'there is nothing to give')
})

t.test('cached prefixes go before experts', async (t) => {
  const model = await open(t, MiB)
  await leavePrefix(model)
  const page = 64 * model.kvBytesPerToken.f16
  const changes: unknown[] = []
  let look: (available: number) => void = () => {}
  const stop = guardMemory({
    native: model,
    experts: { budget: slots * slot, certain: slots * slot, all: 64 * slot, slot, count: 64 },
    workers: 2,
    onChange: (change) => changes.push(change),
    watch: (_, listener) => {
      let at = 0
      look = (available) => {
        at += 500
        listener({ at, available, stall: 0 })
      }
      return () => {}
    }
  })!
  t.match(model.prefixStats!(), { bytes: 2 * page, idleBytes: 2 * page })
  look(65 * MiB)
  t.match(model.prefixStats!(), { bytes: 2 * page }, 'there is enough')
  const before = model.expertStats()!.limitBytes
  look(64 * MiB - page)
  await model.placeExperts(new Uint8Array(64))
  t.match(model.prefixStats!(), { bytes: page, evictions: 1 })
  t.same([changes.length, model.expertStats()!.limitBytes], [0, before])
  stop()
})

t.test('the guard and the store agree about the budget', async (t) => {
  const model = await open(t)
  const sequence = model.createSequence({ kvType: 'f32', maxTokens: 512 })
  await model.step([{ sequence, tokens: new Int32Array(100).fill(2), logits: 'none' }], cancel)
  const pages = 128 * model.kvBytesPerToken.f32
  const least = (Math.ceil(pages / slot) + 3) * slot

  const changes: { budget: number; previous: number; reason: string }[] = []
  let at = 0
  let look: (reading: { at: number; available: number; stall: number }) => void = () => {}
  const stop = guardMemory({
    native: model,
    experts: { budget: slots * slot, certain: slots * slot, all: 64 * slot, slot, count: 64 },
    workers: 2,
    onChange: (change) => changes.push(change),
    watch: (_, listener) => {
      look = listener
      return () => {
        look = () => {}
      }
    }
  })!
  const limit = () => model.expertStats()!.limitBytes
  const reading = async (available: number) => {
    at += 500
    look({ at, available, stall: 0 })
    // What was begun runs on the backend's queue, one after another; a budget that was refused is followed by a larger one.
    for (let i = 0; i < 4; i++) {
      await model.placeExperts(new Uint8Array(64))
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  await reading(100 * MiB)
  t.same(changes, [])
  await reading(0)
  t.same(changes, [{ budget: least, previous: slots * slot, reason: 'memory' }], 'the KV cache of a request stays')
  t.equal(limit(), least)
  await model.step([{ sequence, tokens: Int32Array.of(1), logits: 'none' }], cancel)

  await reading(0)
  t.equal(changes.length, 1, 'there is nothing more to take')
  sequence.dispose()
  await reading(0)
  t.match(changes[1], { budget: 3 * slot, previous: least }, 'it is tried again, and there is now')
  t.equal(limit(), 3 * slot)

  // Something else changes the budget: that is told, and the next decision begins there.
  await model.setExpertBudget(30 * slot)
  for (let i = 0; i < 22; i++) await reading(100 * MiB)
  t.match(changes[2], { budget: slots * slot, previous: 30 * slot, reason: 'calm' })
  await model.setExpertBudget(20 * slot)
  await reading(80 * MiB)
  t.same(changes[3], { budget: 20 * slot, previous: slots * slot, reason: 'allocation' })
  t.equal(limit(), 20 * slot)
  stop()
  await reading(0)
  t.equal(changes.length, 4)
})
