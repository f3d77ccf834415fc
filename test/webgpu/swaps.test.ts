/**
 * Experts on the GPU that are given other weights while a model serves: each request sees one version of every expert, and what it gets is, bit
 * for bit, what the same engine gives with a file that had these weights from the start.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { convertModel, type Engine, type LoadModelRequest } from 'tiered-moe'
import { native } from '../../lib/native.js'
import { items } from '../engine/items.js'
import { type Answers, answers, type Graft, gguf, requests, writeGrafted } from '../experts/models.js'
import { tolerances } from '../kernels/tolerance.js'
import { apart, openEngines } from './engines.js'

const model = 'm'
const type = 'Q8_0'
const first: Graft[] = [{ layer: 0, expert: 1, seed: 2 }]
const second: Graft[] = [
  { layer: 0, expert: 1, seed: 3, fromLayer: 1, fromExpert: 4 },
  { layer: 1, expert: 0, seed: 3 }
]
// The KV cache of one sequence of that length is that of nine short ones.
const contextLength = 640
t.testdir()
const file = (name: string, seed: number, grafts: Graft[] = []) =>
  writeGrafted(gguf(t, name), seed, grafts, { type, contextLength })
const source = file('a', 1)
const donors = { two: file('b', 2), three: file('c', 3) }

const swapOne = (engine: Engine) =>
  engine.swapExperts(model, [{ action: 'replace', layer: 0, expert: 1, from: donors.two }])
const swapTwo = (engine: Engine) =>
  engine.swapExperts(model, [
    { action: 'replace', layer: 0, expert: 1, from: donors.three, fromLayer: 1, fromExpert: 4 },
    { action: 'replace', layer: 1, expert: 0, from: donors.three }
  ])

const engines = await openEngines(t, { maxBatchTokens: 16 })
if (engines) {
  const { gpu, cpu } = engines
  const answersOf = async (path: string): Promise<Answers> => {
    await gpu.loadModel({ model: path, id: 'plain' })
    const found = await answers(gpu, 'plain')
    await gpu.unloadModel('plain')
    return found
  }
  const old = await answersOf(source)
  const one = await answersOf(file('one', 1, first))
  const two = await answersOf(file('two', 1, second))
  await gpu.loadModel({ model: source, id: model })
  const { base, arena, keyValues, experts } = gpu.listModels()[0]!.memory
  await gpu.unloadModel(model)
  const gpuMemory = (slots: number) => base + arena + keyValues + slots * experts.slot
  t.notSame(one.texts, old.texts, 'the swap changes texts')
  t.notSame(two.texts, one.texts)

  /** Requests that begin before, between and after two swaps, and go on in the same steps. */
  const around = async (t: Test, load: LoadModelRequest) => {
    await gpu.loadModel({ id: model, ...load })
    t.same(await answers(gpu, model), old)
    const slots = gpu.modelStats(model).experts?.budgetBytes
    const { weightBytes } = gpu.listModels()[0]!
    const begin = () => requests.map((request) => gpu.createGenerator({ model, ...request }))
    const textOf = async (generator: ReturnType<Engine['createGenerator']>, begun = '') =>
      (await items(generator)).reduce((text, item) => text + item.text, begun)
    const before = begin()
    const beginnings = await Promise.all(before.map((generator) => items(generator, 3)))
    t.match(await swapOne(gpu), { epoch: 1, experts: [{ layer: 0, expert: 1, version: 1 }] })
    const between = begin()
    const middles = await Promise.all(between.map((generator) => items(generator, 2)))
    t.match(await swapTwo(gpu), { epoch: 2, experts: [{ version: 2 }, { version: 1 }] })
    if (slots !== undefined) {
      const now = gpu.modelStats(model).experts!.budgetBytes
      t.equal(now, slots - 3 * experts.slot, 'versions take slots')
      t.equal(gpu.listModels()[0]!.weightBytes, weightBytes, 'and no other memory')
    }
    const all = [...before, ...between, ...begin()]
    const begun = [...beginnings, ...middles].map((list) => list.map(({ text }) => text).join(''))
    const texts = await Promise.all(all.map((generator, i) => textOf(generator, begun[i])))
    t.same(texts.slice(0, 3), old.texts, 'those that began before the swaps')
    t.same(texts.slice(3, 6), one.texts, 'those between them')
    t.same(texts.slice(6), two.texts, 'those after them')
    t.same(await answers(gpu, model), two, 'the bits of a file that had them from the start')
    t.equal(gpu.modelStats(model).experts?.budgetBytes, slots, 'no slot is held that nobody needs')
    t.equal(gpu.listModels()[0]!.weightBytes, weightBytes)
  }

  t.test('every expert has a slot', async (t) => {
    const buffers = gpu.backend.gpu!.memoryBytes
    await around(t, { model: source })
    await cpu.loadModel({ model: source, id: model })
    for (const swap of [swapOne, swapTwo]) await swap(cpu)
    const onCpu = await answers(cpu, model)
    const floats = ({ logits }: Answers) => new Float32Array(logits.buffer, logits.byteOffset, logits.length / 4)
    const near = tolerances.modelQuantised.fixed * 2 ** -24
    t.ok(apart(floats(two), floats(onCpu)) <= near, "near the CPU's after the same swaps")
    await gpu.unloadModel(model)
    t.ok(gpu.backend.gpu!.memoryBytes <= buffers + 2 ** 20, 'no version is left on the GPU')
  })

  t.test('slots for 10 of 12 experts of a checkpoint', async (t) => {
    const folder = join(t.testdir({}), 'folder')
    await convertModel({ from: source, to: folder })
    await around(t, { model: folder, gpuMemory: gpuMemory(10), recordTrace: true, prefetch: 'on' })
    const live = gpu.modelStats(model).experts!
    const trace = gpu.expertTrace(model)
    const { slots, policy, seed } = trace
    t.equal(slots, 10)
    const simulated = await native().simulateCache(trace, { slots, policy, seed, decisions: false })
    const { uses, hits, misses, evictions, prefetches, waves } = live
    t.match(simulated, { uses, hits, misses, evictions, prefetches, waves }, "the simulator's counts")
    await gpu.persistExperts(model)
    await gpu.unloadModel(model)
    t.equal(readdirSync(join(folder, 'versions')).length, 2)
    t.same(await answersOf(folder), two, 'loaded again')
  })

  t.test('what pages take while there are versions, slots leave when these are gone', async (t) => {
    const before = gpu.backend.gpu!.memoryBytes
    await gpu.loadModel({ model: source, id: model, gpuMemory: gpuMemory(10), prefetch: 'off' })
    const long = (n: number) => ({
      promptTokens: Array.from({ length: 500 }, (_, i) => (i * 37 + n) % 250),
      maxTokens: 4,
      temperature: 0,
      ignoreEos: true
    })
    // Under way together: more pages than were set aside.
    const both = async () => {
      const generators = [1, 2].map((n) => gpu.createGenerator({ model, ...long(n) }))
      const begun = await Promise.all(generators.map((generator) => items(generator, 2)))
      const ended = await Promise.all(generators.map((generator) => items(generator)))
      return [...begun, ...ended].map((list) => list.map(({ text }) => text).join(''))
    }
    const first = gpu.createGenerator({ model, ...requests[0]! })
    await items(first, 2)
    await swapOne(gpu)
    const texts = await both()
    t.equal(gpu.modelStats(model).experts!.budgetBytes, 9 * experts.slot, 'one slot has a version, and no page')
    await items(first)
    t.same(await answers(gpu, model), one)
    const { budgetBytes } = gpu.modelStats(model).experts!
    t.ok(budgetBytes < 9 * experts.slot, `${budgetBytes / experts.slot} slots are left`)
    const taken = gpu.backend.gpu!.memoryBytes - before
    t.ok(taken <= gpuMemory(10), `${taken} bytes of ${gpuMemory(10)}`)
    t.same(await both(), texts)
    await gpu.unloadModel(model)
  })

  t.test('what does not fit or cannot be read changes nothing', async (t) => {
    for (const slots of [3, 12]) {
      await gpu.loadModel({ model: source, id: model, gpuMemory: gpuMemory(slots), prefetch: 'off' })
      const generator = gpu.createGenerator({ model, ...requests[0]! })
      const begun = await items(generator, 2)
      const { weightBytes } = gpu.listModels()[0]!
      await t.rejects(swapTwo(gpu), { code: 'RESOURCE_MEMORY_EXHAUSTED' }, `${slots} slots`)
      t.equal(gpu.listModels()[0]!.weightBytes, weightBytes)
      const rest = await items(generator)
      t.equal([...begun, ...rest].map(({ text }) => text).join(''), old.texts[0])
      t.equal((await gpu.generate({ model, ...requests[1]! })).text, old.texts[1])
      if (slots === 12) {
        const stats = gpu.modelStats(model).experts
        t.equal(stats, undefined, 'all of them had one')
      } else {
        // Of one of them there is room for a version.
        await swapOne(gpu)
        t.same(await answers(gpu, model), one)
      }
      await gpu.unloadModel(model)
    }
  })
}
