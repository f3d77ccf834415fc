/** An engine whose GPU goes: requests end with a code, nothing else falls, and engine.recover() goes on. */
import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Engine, EngineOptions, LoadProgress, PhaseEvent } from 'tiered-moe'
import { convertModel, createEngine } from 'tiered-moe'
import { embedded } from '../fixtures/package.js'
import { openGpu } from './adapter.js'
import { adapters, devices, occupy, watchDevices } from './devices.js'

const request = { model: 'tiny-shakespeare', prompt: 'ROMEO:', maxTokens: 12, temperature: 0, ignoreEos: true }

async function open(options: EngineOptions = {}): Promise<Engine> {
  const engine = await createEngine({ backend: 'webgpu', threads: 1, ...options })
  t.teardown(() => engine.dispose())
  return engine
}

if (await openGpu(t)) {
  await watchDevices()

  t.test('a device that is lost, and recovered', async (test) => {
    const engine = await open()
    const cpu = await createEngine({ threads: 1 })
    test.teardown(() => cpu.dispose())
    await engine.loadModel({})
    await cpu.loadModel({})
    const { text } = await engine.generate(request)
    let heard = 0
    const running = (async () => {
      for await (const _ of engine.createGenerator({ ...request, maxTokens: 200 })) {
        if (++heard === 3) devices.at(-1)?.destroy()
      }
    })()
    const lost = { code: 'GPU_DEVICE_LOST', severity: 'fatal', retryable: true, details: { reason: 'destroyed' } }
    await test.rejects(running, lost, 'under way')
    test.ok(heard >= 3)
    await test.rejects(engine.generate(request), { code: 'GPU_DEVICE_LOST' }, 'afterwards, at once')
    test.ok((await cpu.generate(request)).text, 'another engine goes on')
    const { submits, waitedMs } = engine.backend.gpu!
    await Promise.all([engine.recover(), engine.recover()])
    test.ok(
      engine.backend.gpu!.submits > submits && engine.backend.gpu!.waitedMs > waitedMs,
      'what was done is counted on'
    )
    test.equal(engine.state, 'active', 'once for all who ask')
    test.equal((await engine.generate(request)).text, text, 'the same text on the new device')
    await engine.recover()
    test.equal((await engine.generate(request)).text, text, 'where nothing was wrong too')

    devices.at(-1)?.destroy()
    adapters.absent = true
    await test.rejects(engine.recover(), { code: 'GPU_ADAPTER_UNAVAILABLE' }, 'no adapter any more')
    adapters.absent = false
    test.equal(engine.state, 'closed')
    await test.rejects(engine.generate(request), { code: 'ENGINE_DISPOSED' })
    await cpu.recover()
    test.equal(cpu.state, 'active', 'a CPU has no device to lose')
  })

  t.test('a device that is lost in the middle of a load', async (test) => {
    const controller: { at?: (phase: string, part: number) => boolean } = {}
    const lose = (phase: string, part: number) => {
      if (!controller.at?.(phase, part)) return
      delete controller.at
      devices.at(-1)?.destroy()
    }
    const engine = await open({ onPhase: ({ phase, done = 0, count = 1 }) => lose(phase, done / count) })
    const onProgress = ({ bytesDone, bytesTotal }: LoadProgress) => lose('load', bytesDone / bytesTotal)
    await engine.loadModel({})
    const { text } = await engine.generate(request)
    const { base, arena, keyValues, experts } = engine.listModels()[0]!.memory
    await engine.unloadModel(request.model)
    for (const load of [{}, { gpuMemory: base + arena + keyValues + 20 * experts.slot }]) {
      for (const [where, least] of [
        ['load', 0],
        ['load', 0.2],
        ['load', 0.4],
        ['warm-up', 0.5]
      ] as const) {
        controller.at = (phase, part) => phase === where && part >= least
        await test.rejects(engine.loadModel(load, { onProgress }), { code: 'GPU_DEVICE_LOST' }, `${where} ${least}`)
        test.match(engine.backend.gpu, { memoryBytes: 0, buffers: 0 }, 'nothing is held')
        test.same(engine.listModels(), [])
        await engine.recover()
      }
      await engine.loadModel(load)
      test.equal((await engine.generate(request)).text, text)
      await engine.unloadModel(request.model)
    }
  })

  t.test('recover() while a model is being loaded', async (test) => {
    let recovered: Promise<void> | undefined
    const engine = await open({
      onPhase: ({ phase, status }) => {
        if (phase === 'warm-up' && status === 'finished') recovered ??= engine.recover()
      }
    })
    await engine.loadModel({})
    await recovered
    const { text } = await engine.generate(request)
    test.ok(text, 'it is on the new device')
    await engine.unloadModel(request.model)
    const again = engine.recover()
    await engine.loadModel({})
    await again
    test.equal((await engine.generate(request)).text, text, 'and so is one that is asked for meanwhile')
  })

  t.test('what tells the next layer cannot be made', async (test) => {
    const engine = await open()
    await engine.loadModel({})
    const { text } = await engine.generate(request)
    const { base, arena, keyValues, experts } = engine.listModels()[0]!.memory
    await engine.unloadModel(request.model)
    const device = devices.at(-1)!
    const createBuffer = device.createBuffer.bind(device)
    let refused = 0
    device.createBuffer = (descriptor) => {
      if (descriptor.label !== 'routes that are foreseen') return createBuffer(descriptor)
      refused++
      return createBuffer({ ...descriptor, size: device.limits.maxBufferSize + 16 })
    }
    await engine.loadModel({ gpuMemory: base + arena + keyValues + 20 * experts.slot, prefetch: 'on' })
    test.equal((await engine.generate(request)).text, text, 'it is done without')
    test.ok(refused > 0)
  })

  t.test('the budget, TierSets, an added tier, pins and swapped experts are those of before', async (test) => {
    const [whole, part] = ['whole', 'part'].map((name) => join(test.testdir({}), name)) as [string, string]
    const tiers = [
      { name: 'core', placement: 'warm' as const, experts: ['0-7'] },
      { name: 'rare', placement: 'cold' as const, experts: 'rest' as const }
    ]
    await convertModel({ from: embedded, to: whole, tiers })
    cpSync(whole, part, { recursive: true })
    rmSync(join(part, 'experts/rare'), { recursive: true })
    const engine = await open()
    const id = request.model
    await engine.loadModel({ id })
    const { base, arena, keyValues, experts } = engine.listModels()[0]!.memory
    await engine.unloadModel(id)
    const gpuMemory = base + arena + keyValues + 20 * experts.slot
    const budget = { gpuMemory, memory: 30 * experts.slot, prefetch: 'off' } as const
    const pinned = [
      { layer: 3, expert: 9 },
      { layer: 1, expert: 15 }
    ]
    for (const load of [{ model: part, tierFolders: { rare: false as const }, ...budget }, { tiers }]) {
      await engine.loadModel({ id, ...load })
      if ('model' in load) await engine.expand(id, { from: whole })
      await engine.activateTierSet(id, ['rare'])
      const plain = (await engine.generate(request)).text
      await engine.pinExperts(id, pinned)
      const changes = [0, 1, 2, 3].map((layer) => ({ action: 'reinitialise', layer, expert: 9, seed: layer }) as const)
      await engine.swapExperts(id, changes)
      await engine.swapExperts(id, [{ action: 'reinitialise', layer: 2, expert: 9, seed: 9 }])
      const { text } = await engine.generate(request)
      test.not(text, plain)
      const state = () => {
        const { tierSet, memory } = engine.listModels()[0]!
        const { budgetBytes, host } = engine.modelStats(id).experts ?? {}
        const view = engine.placement(id)
        const pins = pinned.map(({ layer, expert }) => view.expert(layer, expert).pinned)
        return { tierSet, memory, budgetBytes, host: host?.budgetBytes, pins }
      }
      const before = state()
      test.same(before.tierSet.tiers, ['rare'])
      const isTiered = 'model' in load
      test.same(before.pins, [isTiered, isTiered], 'where every expert has a slot there is nothing to pin')
      if (isTiered) test.equal((await engine.persistExperts(id)).length, 4)
      devices.at(-1)?.destroy()
      await test.rejects(engine.generate(request), { code: 'GPU_DEVICE_LOST' })
      await engine.recover()
      test.same(state(), before)
      test.equal((await engine.generate(request)).text, text, 'the experts as they were changed')
      const { epoch } = await engine.swapExperts(id, [{ action: 'reinitialise', layer: 0, expert: 12, seed: 1 }])
      test.equal(epoch, 3, 'changes are counted on')
      await engine.unloadModel(id)
    }
  })

  t.test('a submit that does not end', async (test) => {
    const engine = await open({ gpu: { timeoutMs: 1000 } })
    await engine.loadModel({})
    const { text } = await engine.generate(request)
    await occupy(devices.at(-1)!)
    await test.rejects(engine.generate(request), { code: 'GPU_SUBMIT_TIMEOUT', details: { timeoutMs: 1000 } })
    await engine.recover()
    test.equal((await engine.generate(request)).text, text)
  })

  t.test('a load compiles what a token needs', async (test) => {
    const seen: PhaseEvent[] = []
    const engine = await open({ onPhase: (event) => void (event.phase === 'warm-up' && seen.push(event)) })
    await engine.loadModel({})
    const compiled = seen.filter(({ status }) => status === 'progress')
    test.match([seen[0], seen.at(-1)], [{ status: 'started' }, { status: 'finished', durationMs: Number }])
    test.ok(compiled.length > 5 && compiled.at(-1)?.done === compiled.at(-1)?.count, `${compiled.length} shaders`)
    const controller = new AbortController()
    const onPhase = ({ phase }: PhaseEvent) => void (phase === 'warm-up' && controller.abort())
    const other = await open({ onPhase })
    await test.rejects(other.loadModel({}, { signal: controller.signal }), { code: 'CANCELLED' })
    test.match(other.backend.gpu, { memoryBytes: 0, buffers: 0 }, 'an abort meanwhile leaves nothing')
  })

  t.test('what the GPU computes, by its own clock', async (test) => {
    const engine = await open({ gpu: { timestamps: true } })
    await engine.loadModel({})
    await engine.generate(request)
    const first = engine.backend.gpu!
    await engine.generate(request)
    const { computedMs, waitedMs } = engine.backend.gpu!
    test.comment(`${first.computedMs} of ${first.waitedMs} ms, then ${computedMs} of ${waitedMs}`)
    if (devices.at(-1)?.features.has('timestamp-query')) test.ok(computedMs! > first.computedMs! && computedMs! > 0)
    else test.equal(computedMs, undefined)
  })

  t.test('a model that is larger than the budget', async (test) => {
    const engine = await open({ gpu: { memory: '1MiB' } })
    const failure = await engine.loadModel({}).then(
      () => undefined,
      (error) => error
    )
    test.match(failure, {
      code: 'GPU_VRAM_EXHAUSTED',
      details: { required: Number, available: Number, device: String }
    })
    test.equal(failure.details.model, 'tiny-shakespeare')
    test.ok(Array.isArray(failure.details.alternatives))
    test.equal(engine.state, 'warm', 'the engine is as it was')
  })
}
