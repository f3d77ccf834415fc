/** Models from a tiered checkpoint: the bits of the file that it was made of, its tiers, and what happens when a blob fails. */
import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { convertModel, createEngine, type Engine, type LoadModelRequest, type Manifest } from 'tiered-moe'
import { embedded } from '../fixtures/package.js'

const source = embedded
const folder = join(t.testdir(), 'tiny')
const tokens = Int32Array.from({ length: 75 }, (_, i) => (i * 37 + 11) % 200)
/** Small, so that few experts are a budget that works. */
const contextLength = 192
const bytes = (array: Float32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)

let plain: Engine
t.before(async () => {
  plain = await createEngine({ threads: 2, maxBatchTokens: 64 })
  await plain.loadModel({ id: 'tiny', contextLength })
  const tiers = [
    { name: 'core', placement: 'hot' as const, experts: ['0-7'] },
    { name: 'rest', placement: 'cold' as const, experts: 'rest' as const }
  ]
  await convertModel({ from: source, to: folder, tiers })
})
t.teardown(() => plain.dispose())

async function open(t: Test, request: LoadModelRequest = {}): Promise<Engine> {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 64 })
  t.teardown(() => engine.dispose())
  await engine.loadModel({ model: folder, contextLength, ...request })
  return engine
}
/** Memory in which so many of the 64 experts fit while there is no KV cache. */
function memoryFor(experts: number): number {
  const { base, arena, experts: all } = plain.listModels()[0]!.memory
  return base + arena + experts * all.slot
}

t.test('the same bits as the file', async (t) => {
  const expected = await plain.forward({ model: 'tiny', tokens, logits: 'all' })
  const request = { model: 'tiny', prompt: 'ROMEO:', maxTokens: 50, seed: 4 }
  const { text } = await plain.generate(request)
  for (const memory of [undefined, memoryFor(30), memoryFor(12)]) {
    const engine = await open(t, memory === undefined ? {} : { memory })
    t.ok(bytes(await engine.forward({ model: 'tiny', tokens, logits: 'all' })).equals(bytes(expected)))
    t.equal((await engine.generate(request)).text, text)
    const { experts } = engine.modelStats('tiny')
    const { misses, demandBytes, residentBytes, budgetBytes } = experts!
    const { slot } = plain.listModels()[0]!.memory.experts
    t.ok(residentBytes <= budgetBytes)
    if (memory === undefined) t.equal(misses, 0, 'without a budget everything stays in memory')
    else t.ok(demandBytes <= misses * slot, 'a miss reads one blob')
  }
})

t.test('the tiers of the manifest are the tiers of requests', async (t) => {
  const engine = await open(t)
  const request = { model: 'tiny', tokens, captureRouting: true as const }
  const all = await engine.forward(request)
  const { routing } = await engine.forward({ ...request, tierSet: 'core' })
  t.ok(routing.ids.every((id) => id < 8))
  t.ok(all.routing.ids.some((id) => id >= 8))
})

t.test('a blob that is damaged while serving fails the requests that need it, and only these', async (t) => {
  const engine = await open(t, { memory: memoryFor(12), prefetch: 'off' })
  const manifest: Manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'))
  const entry = manifest.layers[1]!.experts.find(({ expert }) => expert === 11)!
  const shard = join(folder, manifest.shards[entry.shard]!.path)
  const flip = (): void => {
    const file = openSync(shard, 'r+')
    const byte = Buffer.alloc(1)
    readSync(file, byte, 0, 1, entry.offset + 1000)
    byte[0]! ^= 4
    writeSync(file, byte, 0, 1, entry.offset + 1000)
    closeSync(file)
  }
  const plainRun = await plain.forward({ model: 'tiny', tokens, captureRouting: true })
  const { layers, k } = plainRun.routing
  /** Routes that use, or do not use, expert 11 of layer 1. */
  const routed = (uses: boolean) => {
    const ids = plainRun.routing.ids.map((_, at) => (at % k) + (uses && Math.floor(at / k) % layers === 1 ? 10 : 0))
    return { ...plainRun.routing, ids }
  }
  const request = { model: 'tiny', tokens }
  const good = await engine.forward({ ...request, replayRouting: routed(false) })
  const before = await engine.forward({ ...request, replayRouting: routed(true) })
  flip()
  await engine.forward({ ...request, replayRouting: routed(false) })
  const failure = await engine.forward({ ...request, replayRouting: routed(true) }).catch((error) => error)
  t.match(failure, { code: 'EXPERT_CORRUPTED', details: { layer: 1, expert: 11 } })
  const both = await Promise.allSettled([
    engine.generate({ ...request, tokens: undefined, promptTokens: tokens, replayRouting: routed(true) } as never),
    engine.forward({ ...request, replayRouting: routed(false) })
  ])
  t.match(both[0], { status: 'rejected' })
  t.ok(bytes((both[1] as PromiseFulfilledResult<Float32Array>).value).equals(bytes(good)), 'the others finish')
  t.ok(engine.modelStats('tiny').experts!.readErrors > 0)
  t.equal(engine.state, 'active')
  flip()
  const again = await engine.forward({ ...request, replayRouting: routed(true) })
  t.ok(bytes(again).equals(bytes(before)), 'repaired, it is read again')
})

t.test('a damaged blob, read by the load', async (t) => {
  const broken = join(t.testdir(), 'broken')
  await convertModel({ from: source, to: broken })
  const manifest: Manifest = JSON.parse(readFileSync(join(broken, 'manifest.json'), 'utf8'))
  const { shard, offset } = manifest.layers[2]!.experts[5]!
  const file = openSync(join(broken, manifest.shards[shard]!.path), 'r+')
  writeSync(file, Buffer.from([1, 2, 3]), 0, 3, offset + 500)
  closeSync(file)
  const engine = await createEngine({ threads: 2 })
  t.teardown(() => engine.dispose())
  const before = engine.counters()
  await t.rejects(engine.loadModel({ model: broken }), {
    code: 'EXPERT_CORRUPTED',
    details: { layer: 2, expert: 5 }
  })
  t.same(engine.counters(), before)
})
