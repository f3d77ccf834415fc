/**
 * Tiers on CUDA: slots for a part of the experts, the others in host memory. Texts and every bit of the logits are those of the CPU, and the
 * counts are the simulator's. What the tests of tiers on CUDA show is in three files, as a file has one core.
 */
import t from 'tap'
import { checkCounts, logitBits, results } from '../fixtures/device-tiers.js'
import { contextLength, count, most, openTiered } from './tiered.js'

const layers = 4
const tiered = await openTiered(t)

if (tiered) {
  const { cuda, expected, gpuMemory, load, slotBytes } = tiered

  t.test('every expert on the device', async (t) => {
    await cuda.loadModel({ id: 'whole', contextLength })
    t.same(await results(cuda, 'whole', most), expected)
    t.equal(cuda.modelStats('whole').experts, undefined, 'nothing is decided')
    const { memoryBytes, buffers, submits } = cuda.backend.gpu!
    t.ok(memoryBytes <= gpuMemory(count), `${memoryBytes} of ${gpuMemory(count)} bytes that were planned`)
    t.ok(buffers > 0 && submits > 0)
    await cuda.unloadModel('whole')
    t.equal(cuda.backend.gpu!.memoryBytes, 0, 'all of it is given back')
  })

  for (const [slots, cachePolicy] of [
    [16, 'adaptive'],
    [32, 'lru'],
    // a layer's experts in several waves
    [7, 'lfu']
  ] as const) {
    t.test(`${slots} of ${count} experts in slots, ${cachePolicy}`, async (t) => {
      const id = `${slots}-${cachePolicy}`
      await load({ id, gpuMemory: gpuMemory(slots), cachePolicy })
      t.same(await results(cuda, id, most), expected)
      const { budgetBytes, uploads, misses, prefetches, host, waves } = await checkCounts(t, cuda, id)
      t.equal(budgetBytes, slots * slotBytes)
      t.equal(uploads, misses + prefetches, 'what was given a slot was written to it')
      t.equal(prefetches, slots, 'slots are filled by the load')
      t.equal(host!.uses, uploads, 'host memory is asked for what has no slot')
      if (slots < 16) t.ok(waves > layers * 20)
      t.ok(cuda.backend.gpu!.memoryBytes <= gpuMemory(slots), 'the budget holds')
      const view = cuda.placement(id)
      t.equal(view.now.hot.experts, slots, 'hot is what has a slot')
      t.equal(view.now.hot.experts + view.now.warm.experts + view.now.cold.experts, count)
      await cuda.unloadModel(id)
      t.equal(cuda.backend.gpu!.memoryBytes, 0)
    })
  }

  t.test('budgets that are too small', async (t) => {
    const error = await load({ id: 'small', gpuMemory: gpuMemory(0) }).catch((reason) => reason)
    t.match(error, {
      code: 'RESOURCE_BUDGET_TOO_SMALL',
      details: { resourceInfo: { required: gpuMemory(2), available: gpuMemory(0) } }
    })
    const { change, required } = error.details.alternatives[0]
    t.same([change, required], ['gpuMemory', gpuMemory(2)], 'one slot in use, one being filled')
    t.equal(cuda.backend.gpu!.memoryBytes, 0)

    // Of a real device's memory nothing can be taken away here.
    if (cuda.backend.device !== 'host emulation') return
    process.env.TIERED_MOE_EMULATED_MEMORY = String(2 ** 20)
    const full = await load({ id: 'small' }).catch((reason) => reason)
    delete process.env.TIERED_MOE_EMULATED_MEMORY
    t.match(full, { code: 'GPU_VRAM_EXHAUSTED', details: { device: 'host emulation', available: 2 ** 20 } })
    t.ok(full.details.required > 2 ** 20)
    t.ok(Array.isArray(full.details.alternatives))
    await load({ id: 'small' })
    t.same(await logitBits(cuda, 'small'), expected.logits, 'the engine goes on')
    await cuda.unloadModel('small')
  })
}
