/**
 * Three tiers on CUDA: slots for a part of the experts, the others in host memory and in files. Texts and every bit of the logits are those of
 * the CPU, and the counts are the simulator's.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel, type Engine, type EngineError, type LoadModelRequest } from 'tiered-moe'
import { flip, manifestOf } from '../checkpoint/checkpoints.js'
import { checkCounts, checkHotLoad, logitBits, results } from '../fixtures/device-tiers.js'
import { embedded } from '../fixtures/package.js'
import { openCudaEngines } from './engines.js'

// Four pages of KV cache: what the requests of `results` take together.
const [layers, count, contextLength, most] = [4, 64, 256, 8]

const engines = await openCudaEngines(t, { maxBatchTokens: 32 })
const folder = t.testdir({})

if (engines) {
  const { cuda, cpu } = engines
  await cpu.loadModel({ id: 'whole', contextLength })
  const expected = await results(cpu, 'whole', most)
  await cpu.unloadModel('whole')
  await cuda.loadModel({ id: 'whole', contextLength })
  const { base, keyValues, arena, experts } = cuda.listModels()[0]!.memory
  const gpuMemory = (slots: number) => base + arena + keyValues + slots * experts.slot
  const load = (request: LoadModelRequest) => cuda.loadModel({ contextLength, recordTrace: true, ...request })

  t.test('every expert on the device', async (t) => {
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
      t.equal(budgetBytes, slots * experts.slot)
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

  t.test('a load writes the hot tier to its slots and reads nothing cold', async (t) => {
    const host = await checkHotLoad(t, cuda, join(folder, 'hot'), (model) =>
      load({ id: 'hot', model, gpuMemory: gpuMemory(30), memory: 28 * experts.slot })
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
    await load({ id: 'three', model: to, gpuMemory: gpuMemory(16), memory: 28 * experts.slot, cachePolicy: 'lru' })
    t.same(await results(cuda, 'three', most), expected)
    await cuda.loadModel({ id: 'fits', model: to, contextLength })
    t.same(await logitBits(cuda, 'fits'), expected.logits, 'with every expert on the device')
    t.equal(cuda.modelStats('fits').experts, undefined)
    await cuda.unloadModel('fits')
    const { host } = await checkCounts(t, cuda, 'three')
    t.equal(host!.budgetBytes, 28 * experts.slot)
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
      await load({ id: 'waves', model: to, gpuMemory: gpuMemory(7), memory: 28 * experts.slot, cachePolicy: 'lru' })
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

  t.test('what the KV cache of more sequences takes is what slots had', async (t) => {
    const prompts = [1, 2, 3].map((first) => Array.from({ length: 130 }, (_, i) => (i * 37 + first) % 200))
    /** Texts of requests together, or what they failed with, and the most that the GPU's memory was meanwhile. */
    const together = async (engine: Engine, model: string, some = prompts) => {
      let held = 0
      const generate = async (promptTokens: number[]) => {
        let text = ''
        const request = { model, promptTokens, maxTokens: 4, temperature: 0, ignoreEos: true }
        for await (const item of engine.createGenerator(request)) {
          text += item.text
          held = Math.max(held, cuda.backend.gpu!.memoryBytes)
        }
        return text
      }
      const done = await Promise.all(some.map((prompt) => generate(prompt).catch((error: EngineError) => error)))
      return { held, done }
    }
    await cpu.loadModel({ id: 'whole', contextLength })
    const { done: texts } = await together(cpu, 'whole')
    await cpu.unloadModel('whole')

    // On a device that is full the smaller slab finds no room beside the larger one.
    for (const all of cuda.backend.device === 'host emulation' ? [undefined, gpuMemory(40)] : [undefined]) {
      if (all) process.env.TIERED_MOE_EMULATED_MEMORY = String(all)
      await load({ id: 'several', gpuMemory: gpuMemory(40), cachePolicy: 'lru' })
      const { held, done } = await together(cuda, 'several')
      t.same(done, texts)
      t.ok(held <= gpuMemory(40), `${held} bytes of ${gpuMemory(40)}`)
      const { budgetBytes } = cuda.modelStats('several').experts!
      t.ok(budgetBytes <= 40 * experts.slot - keyValues / 2, `${budgetBytes / experts.slot} slots are left`)
      t.same(await logitBits(cuda, 'several'), expected.logits)
      await checkCounts(t, cuda, 'several')
      await cuda.unloadModel('several')
      delete process.env.TIERED_MOE_EMULATED_MEMORY
    }

    // Two slots are the least.
    await load({ id: 'few', gpuMemory: gpuMemory(4) })
    const few = await together(cuda, 'few')
    t.ok(few.held <= gpuMemory(4))
    const failures = few.done.filter((answer) => typeof answer !== 'string')
    t.ok(failures.length > 0 && failures.length < prompts.length, `${failures.length} find no room, the others go on`)
    for (const { code, details } of failures) {
      const [{ change, value }] = details.alternatives as [{ change: string; value: number }]
      t.same([code, change], ['GPU_VRAM_EXHAUSTED', 'gpuMemory'])
      t.ok(value > gpuMemory(4) && details.resourceInfo!.required! > details.resourceInfo!.available)
    }
    for (const [i, answer] of few.done.entries()) if (typeof answer === 'string') t.equal(answer, texts[i])
    t.same((await together(cuda, 'few', prompts.slice(0, 1))).done, texts.slice(0, 1), 'alone each has room')
    await cuda.unloadModel('few')
    t.equal(cuda.backend.gpu!.memoryBytes, 0)
  })

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
