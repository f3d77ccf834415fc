/** A checkpoint in the engine: the bits of the file that it was made of, its tiers, and what damage costs. */
import { rmSync, statSync, utimesSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel, createEngine, type PhaseEvent, type TierConfig } from 'tiered-moe'
import { dtypes } from 'tiered-moe/kernels'
import { TENSOR_TYPES } from '../fixtures/gguf.js'
import { embedded } from '../fixtures/package.js'
import { edit, flip, manifestOf, smallModel } from './checkpoints.js'

const tokens = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 250)
const folder = t.testdir({})
const engine = await createEngine({ threads: 2, maxBatchTokens: 16 })
t.teardown(() => engine.dispose())
const before = engine.counters()

/** All logits of the tokens, as bits. */
async function logits(model: string, options: { memory?: number } = {}): Promise<Uint32Array> {
  const { id } = await engine.loadModel({ model, contextLength: 64, ...options, id: 'compared' })
  try {
    const out = await engine.forward({ model: id, tokens, logits: 'all' })
    return new Uint32Array(out.buffer, out.byteOffset, out.length)
  } finally {
    await engine.unloadModel(id)
  }
}

/** The least memory that a model can run with: what the refusal names. */
async function leastMemory(model: string): Promise<number> {
  const error = await engine.loadModel({ model, memory: 4096, contextLength: 64 }).catch((error) => error)
  return error.details.resourceInfo.required
}

const half: TierConfig[] = [
  { name: 'near', placement: 'hot', experts: [0, 3] },
  { name: 'far', placement: 'cold', experts: 'rest' }
]

t.test('the same logits as from the file, whole and under the least budget', async (t) => {
  const architectures = ['olmoe', 'qwen3moe', 'llama'] as const
  for (const [i, type] of dtypes.entries()) {
    const wide = TENSOR_TYPES[type][1] === 256 ? { embedding: 256, feedForward: 256 } : { feedForward: 48 }
    const options = { type, architecture: architectures[i % 3]!, tied: i % 2 === 0, experts: 6, ...wide }
    const from = smallModel(join(folder, `${type}.gguf`), options)
    const to = join(folder, type)
    await convertModel({ from, to, tiers: half })
    const expected = await logits(from)
    t.same(await logits(to), expected, type)
    // What forward gives back counts too.
    const memory = (await leastMemory(to)) + expected.byteLength
    t.same(await logits(to, { memory }), expected, `${type}, read when needed`)
  }
  const hser = { tiers: { hot: [2, 3], cold: [4, 2, 2] }, k: [2, 1, 2] as [number, number, number] }
  const from = smallModel(join(folder, 'hser.gguf'), { hser })
  const { manifest } = await convertModel({ from, to: join(folder, 'hser') })
  t.match(manifest.tiers, [
    { name: 'hot', placement: 'hot', groups: 2, experts: 10 },
    { name: 'cold', placement: 'cold', groups: 3, experts: 16 }
  ])
  t.same(
    manifest.layers[1]!.experts.map(({ tier, group }) => `${tier[0]}${group}`).join(' '),
    'h0 h0 h1 h1 h1 c0 c0 c0 c0 c1 c1 c2 c2'
  )
  t.same(await logits(join(folder, 'hser')), await logits(from), 'a hierarchical model')
  await t.rejects(convertModel({ from, to: join(folder, 'no'), tiers: half }), { code: 'VALIDATION_ERROR' })
  const moved = [
    { name: 'hot', placement: 'archive' as const, experts: 'rest' as const },
    { name: 'cold', placement: 'warm' as const, budget: 4096, experts: 'rest' as const }
  ]
  const other = await convertModel({ from, to: join(folder, 'moved'), tiers: moved })
  t.match(other.manifest.tiers, [{ placement: 'archive' }, { placement: 'warm', budget: 4096 }])
  edit(join(folder, 'moved'), (m) => {
    for (const { experts } of m.layers) for (const entry of experts) entry.group = 0
  })
  await t.rejects(engine.loadModel({ model: join(folder, 'moved') }), { code: 'CHECKPOINT_INVALID' }, 'other groups')
  const to = join(folder, 'shakespeare')
  await convertModel({ from: embedded, to })
  t.same(await logits(to), await logits('tiny-shakespeare'), 'the embedded model')
  const prompt = { prompt: 'ROMEO:', maxTokens: 30, seed: 5 }
  await engine.loadModel({ model: to, memory: (await leastMemory(to)) + 2 ** 20, id: 'a' })
  await engine.loadModel({ id: 'b' })
  t.equal(
    (await engine.generate({ ...prompt, model: 'a' })).text,
    (await engine.generate({ ...prompt, model: 'b' })).text
  )
  await engine.unloadModel('a')
  await engine.unloadModel('b')
  t.same(engine.counters(), before, 'everything is given back')
})

t.test('its tiers are the model’s, and its routing seed', async (t) => {
  const from = smallModel(join(folder, 'tiers.gguf'), { experts: 8 })
  const to = join(folder, 'tiers')
  await convertModel({ from, to, tiers: half })
  const { id } = await engine.loadModel({ model: to, tierSet: 'near' })
  t.equal(id, 'tiers')
  const { routing } = await engine.generate({ model: id, promptTokens: tokens, maxTokens: 3, captureRouting: true })
  const used = [...new Set(routing!.ids)].sort()
  t.same(used, [0, 3], 'only near experts')
  await t.rejects(engine.loadModel({ model: to, id: 'x', tierSet: 'nearer' }), { code: 'CONFIG_UNKNOWN_TIER' })
  await engine.unloadModel(id)
  const phases: PhaseEvent[] = []
  const observed = await createEngine({ threads: 1, onPhase: (event) => phases.push(event) })
  await observed.loadModel({ model: to, verifyOnLoad: true })
  await observed.dispose()
  const ended = phases.filter(({ status, model, phase }) => model && status !== 'started' && phase !== 'model')
  t.match(ended, [
    { phase: 'manifest', status: 'finished' },
    { phase: 'base-parameters', status: 'finished' },
    { phase: 'experts', status: 'finished' },
    { phase: 'routers', status: 'finished' },
    { phase: 'optimizer', status: 'skipped', reason: 'inference' }
  ])
})

t.test('damage: a typed error, and the engine goes on', async (t) => {
  const from = smallModel(join(folder, 'damage.gguf'), { experts: 16, layers: 3 })
  const to = join(folder, 'damage')
  const fresh = () => convertModel({ from, to, replace: true })
  await fresh()
  const shard = join(to, manifestOf(to).shards[2].path)
  const fails = async (options: object, expected: object) => {
    const loading = engine.loadModel({ model: to, id: 'x', contextLength: 64, ...options })
    t.match(await loading.catch((error) => error), expected)
  }
  flip(shard, 100)
  await fails({}, { code: 'EXPERT_CORRUPTED', details: { layer: 1, expert: 0 } })
  await fails({ verifyOnLoad: true }, { code: 'MODEL_CORRUPTED', details: { layer: 1, expert: 0 } })
  rmSync(shard)
  await fails({}, { code: 'CHECKPOINT_INVALID', details: { file: 'experts/all/layer-001.bin' } })
  await fresh()
  edit(to, (manifest) => {
    manifest.layout = 'rows8.0'
  })
  await fails({}, { code: 'MODEL_VERSION_MISMATCH', details: { suggestedAction: /tiered-moe convert damage\.gguf/ } })
  utimesSync(from, 1, 1)
  await fresh()
  // A blob that fails while it is served: it is not in memory yet.
  await engine.loadModel({ model: to, id: 'served', contextLength: 64, memory: await leastMemory(to), prefetch: 'off' })
  const damage = () => {
    for (let at = 100; at < statSync(shard).size; at += manifestOf(to).layers[1].blobBytes) flip(shard, at)
  }
  const generate = () => engine.generate({ model: 'served', promptTokens: tokens, maxTokens: 2 })
  damage()
  t.match(await generate().catch((error) => error), {
    code: 'EXPERT_CORRUPTED',
    details: { layer: 1, file: /layer-001/ }
  })
  damage()
  t.equal((await generate()).tokens.length, 2, 'once the bytes are right again it is read again')
  await engine.unloadModel('served')
  t.equal(engine.state, 'active')
  t.same(engine.counters(), before)
})
