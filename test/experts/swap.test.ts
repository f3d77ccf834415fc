/** Experts that are given other weights while a model serves: each request sees one version of every expert. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Engine, EngineEvent, LoadModelRequest } from 'tiered-moe'
import { convertModel, verifyAuditLog } from 'tiered-moe'
import { items } from '../engine/items.js'
import { smallDisk } from '../journal/mounts.js'
import { type Answers, answers, answersOf, type Graft, gguf, requests, startEngine, writeGrafted } from './models.js'

const model = 'm'
const first: Graft[] = [{ layer: 0, expert: 1, seed: 2 }]
const second: Graft[] = [
  { layer: 0, expert: 1, seed: 3, fromLayer: 1, fromExpert: 4 },
  { layer: 1, expert: 0, seed: 3 }
]

/** One model in three states, and a way to load it. */
interface Setting {
  old: Answers
  one: Answers
  two: Answers
  donors: { two: string; three: string }
  load: LoadModelRequest
}

async function setting(
  t: Test,
  type: 'Q8_0' | 'Q4_0' | 'F32',
  form: 'memory' | 'budget' | 'checkpoint'
): Promise<Setting> {
  t.testdir()
  const source = writeGrafted(gguf(t, 'a'), 1, [], { type })
  const donors = {
    two: writeGrafted(gguf(t, 'b'), 2, [], { type }),
    three: writeGrafted(gguf(t, 'c'), 3, [], { type })
  }
  const old = await answersOf(t, source)
  const one = await answersOf(t, writeGrafted(gguf(t, 'one'), 1, first, { type }))
  const two = await answersOf(t, writeGrafted(gguf(t, 'two'), 1, second, { type }))
  let path = source
  if (form === 'checkpoint') {
    path = join(t.testdirName, 'folder')
    await convertModel({ from: source, to: path })
  }
  return { old, one, two, donors, load: { model: path, id: model, ...(form !== 'memory' && (await small(t, path))) } }
}

/** Memory for ten of twelve experts, which versions and the KV cache of more than one request share. */
async function small(t: Test, path: string): Promise<LoadModelRequest> {
  const engine = await startEngine(t)
  await engine.loadModel({ model: path, id: model })
  const { base, arena, keyValues, experts } = engine.listModels()[0]!.memory
  await engine.dispose()
  return { memory: base + arena + keyValues + 10 * experts.slot, memoryPressure: 'ignore' }
}

const swapOne = (engine: Engine, { donors }: Setting) =>
  engine.swapExperts(model, [{ action: 'replace', layer: 0, expert: 1, from: donors.two }])
const swapTwo = (engine: Engine, { donors }: Setting) =>
  engine.swapExperts(model, [
    { action: 'replace', layer: 0, expert: 1, from: donors.three, fromLayer: 1, fromExpert: 4 },
    { action: 'replace', layer: 1, expert: 0, from: donors.three }
  ])

for (const [type, form] of [
  ['Q8_0', 'memory'],
  ['F32', 'budget'],
  ['Q4_0', 'checkpoint']
] as const) {
  t.test(`${type}, ${form}: requests around two swaps have one version each`, async (t) => {
    const own = await setting(t, type, form)
    t.notSame(own.one.texts, own.old.texts, 'the swap changes texts')
    t.notSame(own.two.texts, own.one.texts)
    const engine = await startEngine(t)
    await engine.loadModel(own.load)
    t.same(await answers(engine, model), own.old)
    const held = engine.counters().liveBytes
    const begin = () => requests.map((request) => engine.createGenerator({ model, ...request }))
    const textOf = async (generator: ReturnType<Engine['createGenerator']>, begun = '') =>
      (await items(generator)).reduce((text, item) => text + item.text, begun)

    const before = begin()
    const beginnings = await Promise.all(before.map((generator) => items(generator, 3)))
    const swapped = await swapOne(engine, own)
    t.match(swapped, { epoch: 1, experts: [{ layer: 0, expert: 1, version: 1 }] })
    const between = begin()
    const middles = await Promise.all(between.map((generator) => items(generator, 2)))
    t.match(await swapTwo(engine, own), { epoch: 2, experts: [{ version: 2 }, { version: 1 }] })
    const after = begin()
    // All three versions in the same steps.
    const all = [...before, ...between, ...after]
    const begun = [...beginnings, ...middles].map((list) => list.map(({ text }) => text).join(''))
    const texts = await Promise.all(all.map((generator, i) => textOf(generator, begun[i])))
    t.same(texts.slice(0, 3), own.old.texts, 'those that began before the swaps')
    t.same(texts.slice(3, 6), own.one.texts, 'those between them')
    t.same(texts.slice(6), own.two.texts, 'those after them')
    t.same(await answers(engine, model), own.two)
    await engine.acknowledgeRequest({ requestId: 'x' }).catch(() => {})
    const { budgetBytes, residentBytes } = engine.modelStats(model).experts ?? { budgetBytes: 0, residentBytes: 0 }
    t.ok(residentBytes <= budgetBytes)
    t.ok(engine.counters().liveBytes <= held, 'no version is held that nobody needs')
  })
}

t.test('a call that fails changes nothing', async (t) => {
  const own = await setting(t, 'Q8_0', 'checkpoint')
  const { donors } = own
  const wide = writeGrafted(gguf(t, 'wide'), 2, [], { type: 'Q8_0', feedForward: 64 })
  const other = writeGrafted(gguf(t, 'other'), 2, [], { type: 'Q4_0' })
  const events: EngineEvent[] = []
  const engine = await startEngine(t, { onEvent: (event) => events.push(event) })
  await engine.loadModel(own.load)
  const good = { action: 'replace', layer: 1, expert: 2, from: donors.two } as const
  const cases = [
    [{ action: 'replace', layer: 2, expert: 0, from: donors.two }, 'VALIDATION_ERROR'],
    [{ action: 'replace', layer: 0, expert: 6, from: donors.two }, 'VALIDATION_ERROR'],
    [{ action: 'replace', layer: 0, expert: 0 }, 'VALIDATION_ERROR'],
    [{ action: 'replace', layer: 0, expert: 0, from: donors.two, blob: donors.two }, 'VALIDATION_ERROR'],
    [{ action: 'replace', layer: 1, expert: 2, from: donors.two }, 'VALIDATION_ERROR'],
    [{ action: 'replace', layer: 0, expert: 0, from: donors.two, fromExpert: 6 }, 'VALIDATION_ERROR'],
    [{ action: 'replace', layer: 0, expert: 0, from: join(t.testdirName, 'nowhere') }, 'MODEL_NOT_FOUND'],
    [{ action: 'replace', layer: 0, expert: 0, from: wide }, 'TENSOR_SHAPE_MISMATCH'],
    [{ action: 'replace', layer: 0, expert: 0, from: other }, 'TENSOR_SHAPE_MISMATCH'],
    [{ action: 'replace', layer: 0, expert: 0, blob: donors.two }, 'TENSOR_SHAPE_MISMATCH'],
    [{ action: 'merge', layer: 0, experts: [0, 0] }, 'VALIDATION_ERROR'],
    [{ action: 'merge', layer: 0, experts: [0, 1], weights: [1] }, 'VALIDATION_ERROR'],
    [{ action: 'merge', layer: 0, experts: [0, 1], weights: [0, -1] }, 'VALIDATION_ERROR'],
    [{ action: 'reinitialise', layer: 0, expert: 0, seed: -1 }, 'VALIDATION_ERROR'],
    [{ action: 'forget', layer: 0, expert: 0 }, 'VALIDATION_ERROR']
  ] as const
  for (const [change, code] of cases) {
    // biome-ignore lint/suspicious/noExplicitAny: most of them are wrong on purpose
    await t.rejects(engine.swapExperts(model, [good, change as any]), { code }, JSON.stringify(change))
  }
  await t.rejects(engine.swapExperts('nobody', [good]), { code: 'MODEL_NOT_LOADED' })
  t.same(await answers(engine, model), own.old)
  t.same(readdirSync(join(own.load.model!, 'versions')), [], 'no file is left')
  t.same(
    events.filter(({ event }) => event === 'expert_swapped'),
    []
  )
  t.same(await engine.persistExperts(model), [])
})

t.test('versions that do not fit into the budget are refused', async (t) => {
  const own = await setting(t, 'F32', 'budget')
  const engine = await startEngine(t)
  await engine.loadModel(own.load)
  const generator = engine.createGenerator({ model, ...requests[0]! })
  const begun = await items(generator, 2)
  const all = [0, 1].flatMap((layer) =>
    [0, 1, 2, 3, 4, 5].map((expert) => ({ action: 'replace', layer, expert, from: own.donors.two }) as const)
  )
  await t.rejects(engine.swapExperts(model, all), { code: 'RESOURCE_MEMORY_EXHAUSTED' })
  const rest = await items(generator)
  t.equal([...begun, ...rest].map(({ text }) => text).join(''), own.old.texts[0])
  t.same(await answers(engine, model), own.old)
})

t.test('a disk without room: nothing has changed, and requests go on', async (t) => {
  t.testdir()
  const source = writeGrafted(gguf(t, 'a'), 1, [], { type: 'F32' })
  const from = writeGrafted(gguf(t, 'b'), 2, [], { type: 'F32' })
  const mount = smallDisk(t, '6m')
  if (!mount) return
  const folder = join(mount, 'folder')
  await convertModel({ from: source, to: folder })
  const engine = await startEngine(t)
  await engine.loadModel({ model: folder, id: model })
  const before = await answers(engine, model)
  const all = [0, 1].flatMap((layer) =>
    [0, 1, 2, 3, 4, 5].map((expert) => ({ action: 'replace', layer, expert, from }) as const)
  )
  const error = { code: 'RESOURCE_DISK_EXHAUSTED' }
  await t.rejects(engine.swapExperts(model, all), error)
  t.same(readdirSync(join(folder, 'versions')), [])
  t.same(await answers(engine, model), before)
  await engine.dispose()
})

t.test('a blob of its own, and one of another checkpoint', async (t) => {
  const own = await setting(t, 'Q8_0', 'checkpoint')
  const other = join(t.testdirName, 'other')
  await convertModel({ from: own.donors.two, to: other })
  const engine = await startEngine(t)
  await engine.loadModel(own.load)
  await engine.swapExperts(model, [{ action: 'replace', layer: 0, expert: 1, from: other }])
  t.same(await answers(engine, model), own.one)
  const [file] = readdirSync(join(own.load.model!, 'versions'))
  const blob = join(own.load.model!, 'versions', file!)
  // The version's own file is a blob; there and back again.
  await engine.swapExperts(model, [{ action: 'replace', layer: 1, expert: 5, blob }])
  t.notSame(await answers(engine, model), own.one)
  await engine.swapExperts(model, [{ action: 'replace', layer: 1, expert: 5, from: own.load.model! }])
  t.same(await answers(engine, model), own.one)
})

t.test('swaps are told, and in the audit log', async (t) => {
  const own = await setting(t, 'Q8_0', 'memory')
  const audit = join(t.testdirName, 'audit.jsonl')
  const events: EngineEvent[] = []
  const engine = await startEngine(t, { audit, onEvent: (event) => events.push(event) })
  await engine.loadModel(own.load)
  const { experts } = await swapOne(engine, own)
  await t.rejects(engine.persistExperts(model), { code: 'VALIDATION_ERROR' }, 'a GGUF file is never changed')
  await engine.dispose()
  const [told] = events.filter(({ event }) => event === 'expert_swapped')
  const { sha256 } = experts[0]!
  const fields = { model, layer: 0, expert: 1, version: 1, action: 'replace', epoch: 1, sha256 }
  t.match(told, { level: 'warn', fields })
  t.match(await verifyAuditLog(audit), { closed: true })
  const records = readFileSync(audit, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const swap = records.find(({ event }) => event === 'expert_swapped')
  t.same(swap.data, { model, layer: 0, expert: 1, version: 1, sha256 })
})

t.test('without a journal, what was not persisted goes with the model', async (t) => {
  const own = await setting(t, 'Q8_0', 'checkpoint')
  const versions = join(own.load.model!, 'versions')
  const engine = await startEngine(t)
  await engine.loadModel(own.load)
  await swapOne(engine, own)
  t.equal(readdirSync(versions).length, 1)
  await engine.unloadModel(model)
  t.same(readdirSync(versions), [])
  await engine.loadModel(own.load)
  t.same(await answers(engine, model), own.old)
  t.ok(existsSync(versions))
})
