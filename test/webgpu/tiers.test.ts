/**
 * Three tiers on the GPU: slots for a part of the experts, the others in host memory and in files. What is generated and every logit are those
 * of the model with all experts in slots, and the counts are the simulator's.
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel, type EngineEvent, type LoadModelRequest } from 'tiered-moe'
import { createError } from '../../lib/errors/index.js'
import { native } from '../../lib/native.js'
import { flip, manifestOf } from '../checkpoint/checkpoints.js'
import { checkCounts, checkHotLoad, logitBits, results } from '../fixtures/device-tiers.js'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { embedded } from '../fixtures/package.js'
import { openEngines } from './engines.js'

const [layers, count] = [4, 64]

let onEvent: (event: EngineEvent) => void = () => {}
const engines = await openEngines(t, { maxBatchTokens: 32, onEvent: (event) => onEvent(event) })
const folder = t.testdir({})

if (engines) {
  const { gpu } = engines
  await gpu.loadModel({ id: 'whole' })
  const expected = await results(gpu, 'whole')
  const { base, keyValues, arena, experts } = gpu.listModels()[0]!.memory
  t.equal(experts.count, count)
  t.equal(gpu.modelStats('whole').experts, undefined, 'nothing is decided where every expert has a slot')
  /** With the KV cache of one sequence of the whole context, 256 positions in 4 pages. */
  const gpuMemory = (slots: number) => base + arena + keyValues + slots * experts.slot
  const load = (request: LoadModelRequest) => gpu.loadModel({ recordTrace: true, ...request })

  for (const [slots, cachePolicy, prefetch] of [
    [16, 'adaptive', 'off'],
    [16, 'lru', 'on'],
    [32, 'adaptive', 'auto'],
    // a layer's experts in several waves
    [7, 'lfu', 'off']
  ] as const) {
    t.test(`${slots} of ${count} experts in slots, ${cachePolicy}, prefetch ${prefetch}`, async (t) => {
      const id = `${slots}-${cachePolicy}`
      await load({ id, gpuMemory: gpuMemory(slots), cachePolicy, prefetch })
      t.same(await results(gpu, id), expected)
      const live = await checkCounts(t, gpu, id)
      const { waves, uploads, misses, prefetches, host, residentBytes, budgetBytes } = live
      t.equal(budgetBytes, slots * experts.slot)
      t.ok(residentBytes <= budgetBytes)
      t.equal(uploads, misses + prefetches, 'what was given a slot was written to it')
      t.ok(host!.uses > 0 && host!.uses <= uploads!)
      if (slots < 16) t.ok(waves > layers * 20)
      const foretold = live.layers.reduce((sum, { predicted }) => sum + predicted, 0)
      const demands = live.layers.reduce((sum, { predictable }) => sum + predictable, 0)
      if (prefetch === 'off') t.equal(demands, 0)
      else {
        t.comment(`${foretold} of ${demands} demands were foretold, ${prefetches - slots} experts brought ahead`)
        t.ok(foretold > demands / 2 && prefetches > slots, 'what the next layer wants is brought ahead')
      }

      const request = { model: id, prompt: 'O', maxTokens: 24, temperature: 0, ignoreEos: true }
      const before = gpu.backend.gpu!.submits
      await gpu.generate(request)
      const each = (gpu.backend.gpu!.submits - before) / request.maxTokens
      t.comment(`${each.toFixed(2)} submits a token`)
      if (slots >= 16) t.ok(each <= layers + 2)

      const view = gpu.placement(id)
      t.equal(view.now.hot.experts, slots, 'hot is what has a slot')
      t.equal(view.now.hot.experts + view.now.warm.experts + view.now.cold.experts, count)
      await gpu.unloadModel(id)
    })
  }

  t.test('the machine runs short of memory: warm experts make room', async (t) => {
    const memory = 28 * experts.slot
    await load({ id: 'short', gpuMemory: gpuMemory(16), memory, cachePolicy: 'lru', recordTrace: false })
    const host = () => gpu.modelStats('short').experts!.host!
    await results(gpu, 'short')
    t.equal(host().budgetBytes, memory)
    const addon = native()
    const { availableMemory } = addon
    const told = new Promise((resolve) => {
      onEvent = (event) => event.event === 'expert_budget_changed' && resolve(event.fields)
    })
    addon.availableMemory = () => 0
    t.teardown(() => {
      addon.availableMemory = availableMemory
    })
    const alive = setInterval(() => {}, 1000)
    const least = 2 * experts.slot
    t.match(await told, { model: 'short', budget: least, previous: memory, reason: 'memory' })
    clearInterval(alive)
    addon.availableMemory = availableMemory
    t.equal(host().budgetBytes, least)
    t.ok(host().residentBytes <= least)
    t.equal(gpu.modelStats('short').experts!.budgetBytes, 16 * experts.slot, 'hot ones stay')
    t.same(await results(gpu, 'short'), expected)
    await gpu.unloadModel('short')
  })

  /** Texts of requests together, or what they failed with, and the most that the GPU's memory was meanwhile beside what it was before. */
  const together = async (model: string, prompts: number[][], maxTokens: number, before: number) => {
    let most = 0
    const generate = async (promptTokens: number[]) => {
      let text = ''
      for await (const item of gpu.createGenerator({
        model,
        promptTokens,
        maxTokens,
        temperature: 0,
        ignoreEos: true
      })) {
        text += item.text
        most = Math.max(most, gpu.backend.gpu!.memoryBytes - before)
      }
      return text
    }
    const done = await Promise.all(prompts.map((prompt) => generate(prompt).catch((error: Error) => error)))
    return { most, done }
  }
  const tokens = (length: number, first: number) => Array.from({ length }, (_, i) => (i * 37 + first) % 200)

  t.test('gpuMemory is all that a model takes', async (t) => {
    const before = gpu.backend.gpu!.memoryBytes
    const path = writeMoeModel(join(folder, 'long.gguf'), { layers: 1, heads: 16, headDim: 64, contextLength: 600 })
    await gpu.loadModel({ model: path, id: 'long' })
    const own = gpu.listModels().find(({ id }) => id === 'long')!.memory
    await gpu.unloadModel('long')
    const all = own.base + own.arena + own.keyValues + 4 * own.experts.slot
    await gpu.loadModel({ model: path, id: 'long', gpuMemory: all })
    const { most, done } = await together('long', [tokens(570, 1)], 8, before)
    t.type(done[0], 'string')
    t.comment(`${most} bytes of ${all}`)
    t.ok(most <= all, 'partial sums of attention over long texts too')
    await gpu.unloadModel('long')
    await t.rejects(gpu.loadModel({ id: 'small', gpuMemory: base }), {
      code: 'RESOURCE_BUDGET_TOO_SMALL',
      details: { alternatives: [{ change: 'gpuMemory' }] }
    })
  })

  t.test('a device that has not what was planned, which it does not say', async (t) => {
    const before = gpu.backend.gpu!.memoryBytes
    const addon = native()
    const { reserveMemory } = addon
    t.teardown(() => {
      addon.reserveMemory = reserveMemory
    })
    // A GPU in software takes the host's memory, and asks for it: what all slots take is not granted.
    addon.reserveMemory = (bytes) => {
      if (bytes < 2 ** 29 + experts.all) return reserveMemory.call(addon, bytes)
      throw createError('RESOURCE_MEMORY_EXHAUSTED', 'refused', { required: bytes })
    }
    const failure = await gpu.loadModel({ id: 'planned' }).catch((error) => error)
    t.match(failure, { code: 'GPU_VRAM_EXHAUSTED', details: { model: 'planned', device: gpu.backend.device } })
    const { required, available, alternatives } = failure.details
    t.equal(required, base + arena + keyValues + experts.all, 'of the whole model')
    t.ok(available > 0 && available < required, `it had ${available} of ${required}`)
    t.match(alternatives, [{ change: 'gpuMemory', value: gpuMemory(2) }])
    t.equal(gpu.backend.gpu!.memoryBytes, before)
    await load({ id: 'planned', gpuMemory: alternatives[0].value })
    t.same(await logitBits(gpu, 'planned'), expected.logits, 'with that it works')
    await gpu.unloadModel('planned')
  })

  t.test('what the KV cache of more sequences takes is what slots had', async (t) => {
    const prompts = [1, 2, 3].map((first) => tokens(150, first))
    const { done: texts } = await together('whole', prompts, 6, 0)
    const before = gpu.backend.gpu!.memoryBytes
    await load({ id: 'several', gpuMemory: gpuMemory(40), cachePolicy: 'lru', prefetch: 'off' })
    const { most, done } = await together('several', prompts, 6, before)
    t.comment(`${most} bytes of ${gpuMemory(40)}`)
    t.ok(most <= gpuMemory(40))
    t.same(done, texts)
    const { budgetBytes } = gpu.modelStats('several').experts!
    t.ok(budgetBytes <= 40 * experts.slot - keyValues / 2, `${budgetBytes / experts.slot} slots are left`)
    await checkCounts(t, gpu, 'several')
    await gpu.unloadModel('several')

    // Two slots are the least.
    await load({ id: 'several', gpuMemory: gpuMemory(4) })
    const few = await together('several', prompts, 6, before)
    t.ok(few.most <= gpuMemory(4))
    const failures = few.done.filter((answer) => typeof answer !== 'string')
    t.ok(failures.length > 0 && failures.length < prompts.length, `${failures.length} find no room, the others go on`)
    for (const failure of failures) {
      const alternative = { change: 'gpuMemory', value: Number, required: Number }
      t.match(failure, { code: 'GPU_VRAM_EXHAUSTED', details: { required: Number, alternatives: [alternative] } })
    }
    for (const [i, answer] of few.done.entries()) if (typeof answer === 'string') t.equal(answer, texts[i])
    t.same((await together('several', prompts.slice(0, 1), 6, before)).done, texts.slice(0, 1), 'alone each has room')
    await gpu.unloadModel('several')
  })

  t.test('a load writes the hot tier to its slots and reads nothing cold', async (t) => {
    const host = await checkHotLoad(t, gpu, join(folder, 'hot'), (model) =>
      load({ id: 'hot', model, gpuMemory: gpuMemory(30), memory: 28 * experts.slot })
    )
    t.equal(host.demandBytes, 16 * experts.slot)
    t.same(await results(gpu, 'hot'), expected)
    await checkCounts(t, gpu, 'hot')
    t.equal(gpu.placement('hot').tiers[1]!.now.hot.experts, 16)
    await gpu.unloadModel('hot')
  })

  t.test('a checkpoint, with host memory for less than half of the experts', async (t) => {
    const to = join(folder, 'tiered')
    await convertModel({ from: embedded, to })
    await load({ id: 'three', model: to, gpuMemory: gpuMemory(16), memory: 28 * experts.slot, cachePolicy: 'lru' })
    t.same(await results(gpu, 'three'), expected)
    const { host } = await checkCounts(t, gpu, 'three')
    t.equal(host!.budgetBytes, 28 * experts.slot)
    t.ok(host!.misses > 0 && host!.evictions > 0 && host!.hits > 0, 'some are still in host memory')
    const view = gpu.placement('three')
    t.match([view.now.hot.experts, view.now.warm.experts > 0, view.now.cold.experts > 0], [16, true, true])

    await t.test('blobs that are damaged or cut off while it serves', async (t) => {
      const { layers: manifest, shards } = manifestOf(to)
      const blobs: { shard: number; offset: number }[] = manifest[1].experts
      const path = join(to, shards[blobs[0]!.shard].path)
      const whole = readFileSync(path)
      for (const { offset } of blobs) flip(path, offset + 1000)
      await t.rejects(logitBits(gpu, 'three'), { code: 'EXPERT_CORRUPTED', details: { layer: 1 } })
      truncateSync(path, 4096)
      await t.rejects(logitBits(gpu, 'three'), { code: 'EXPERT_UNAVAILABLE', details: { layer: 1 } })
      t.equal(gpu.state, 'active')
      t.same(await logitBits(gpu, 'whole'), expected.logits, 'the other model goes on')
      t.ok(gpu.modelStats('three').experts!.readErrors > 0)
      writeFileSync(path, whole)
      t.same(await logitBits(gpu, 'three'), expected.logits, 'mended, it is read again')
      await checkCounts(t, gpu, 'three')
    })
    await gpu.unloadModel('three')
  })
}
