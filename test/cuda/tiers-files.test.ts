/** Three tiers on CUDA: slots for a part of the experts, others in host memory, the rest in files; and files that are damaged meanwhile. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel } from 'tiered-moe'
import { flip, manifestOf } from '../checkpoint/checkpoints.js'
import { checkCounts, checkHotLoad, logitBits, results } from '../fixtures/device-tiers.js'
import { embedded } from '../fixtures/package.js'
import { contextLength, most, openTiered } from './tiered.js'

const tiered = await openTiered(t)
const folder = t.testdir({})

if (tiered) {
  const { cuda, expected, gpuMemory, load, slotBytes } = tiered

  t.test('a load writes the hot tier to its slots and reads nothing cold', async (t) => {
    const host = await checkHotLoad(t, cuda, join(folder, 'hot'), (model) =>
      load({ id: 'hot', model, gpuMemory: gpuMemory(30), memory: 28 * slotBytes })
    )
    t.equal(host.uses, 16)
    t.same(await results(cuda, 'hot', most), expected)
    await checkCounts(t, cuda, 'hot')
    t.equal(cuda.placement('hot').tiers[1]!.now.hot.experts, 16)
    await cuda.unloadModel('hot')
  })

  t.test('a checkpoint, with host memory for less than half of the experts', async (t) => {
    const to = join(folder, 'tiered')
    await convertModel({ from: embedded, to })
    await load({ id: 'three', model: to, gpuMemory: gpuMemory(16), memory: 28 * slotBytes, cachePolicy: 'lru' })
    t.same(await results(cuda, 'three', most), expected)
    await cuda.loadModel({ id: 'fits', model: to, contextLength })
    t.same(await logitBits(cuda, 'fits'), expected.logits, 'with every expert on the device')
    t.equal(cuda.modelStats('fits').experts, undefined)
    await cuda.unloadModel('fits')
    const { host } = await checkCounts(t, cuda, 'three')
    t.equal(host!.budgetBytes, 28 * slotBytes)
    t.ok(host!.misses > 0 && host!.evictions > 0 && host!.hits > 0, 'some are still in host memory')
    const view = cuda.placement('three')
    t.match([view.now.hot.experts, view.now.warm.experts > 0, view.now.cold.experts > 0], [16, true, true])

    await t.test('blobs that are damaged while it serves', async (t) => {
      const { layers: manifest, shards } = manifestOf(to)
      const blobs: { shard: number; offset: number }[] = manifest[1].experts
      const path = join(to, shards[blobs[0]!.shard].path)
      const whole = readFileSync(path)
      for (const { offset } of blobs) flip(path, offset + 1000)
      await t.rejects(logitBits(cuda, 'three'), { code: 'EXPERT_CORRUPTED', details: { layer: 1 } })
      t.equal(cuda.state, 'active')
      writeFileSync(path, whole)
      t.same(await logitBits(cuda, 'three'), expected.logits, 'mended, it is read again')
      await checkCounts(t, cuda, 'three')
    })
    await cuda.unloadModel('three')

    await t.test('the same where a layer takes several waves', async (t) => {
      await load({ id: 'waves', model: to, gpuMemory: gpuMemory(7), memory: 28 * slotBytes, cachePolicy: 'lru' })
      const { layers: manifest, shards } = manifestOf(to)
      const blobs: { shard: number; offset: number }[] = manifest[2].experts
      const path = join(to, shards[blobs[0]!.shard].path)
      const whole = readFileSync(path)
      for (const { offset } of blobs) flip(path, offset + 1000)
      await t.rejects(logitBits(cuda, 'waves'), { code: 'EXPERT_CORRUPTED', details: { layer: 2 } })
      writeFileSync(path, whole)
      t.same(await logitBits(cuda, 'waves'), expected.logits, "a slot that was given and not written is nobody's")
      await cuda.unloadModel('waves')
    })
  })
}
