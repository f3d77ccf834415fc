/** engine.expand: a tier from another folder while requests are generated; what is refused or given up leaves everything as it was. */
import { cpSync, readFileSync, renameSync, rmSync, truncateSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import {
  convertModel,
  createEngine,
  type Engine,
  type EngineEvent,
  type ExpandRequest,
  type LoadModelRequest,
  type Transition
} from 'tiered-moe'
import { edit, flip, manifestOf } from '../checkpoint/checkpoints.js'
import { writeMoeModel } from '../fixtures/moe-model.js'

const root = dirname(createRequire(import.meta.url).resolve('tiered-moe/package.json'))
const gguf = join(root, 'models/tiny-shakespeare-moe-q8_0.gguf')
const home = t.testdir()
/** All of it; without the rare tier's files; with these alone, in another form: one tier of other files. */
const [whole, part, other] = ['whole', 'part', 'other'].map((name) => join(home, name)) as [string, string, string]
const request = { model: 'tiny', prompt: 'ROMEO:', seed: 11, maxTokens: 40, ignoreEos: true }
const tokens = Int32Array.from({ length: 75 }, (_, i) => (i * 37 + 11) % 200)
const bytes = (array: Float32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)

let plain: Engine
t.before(async () => {
  const tiers = [
    { name: 'core', placement: 'hot' as const, experts: ['0-7'] },
    { name: 'rare', placement: 'cold' as const, experts: 'rest' as const }
  ]
  await convertModel({ from: gguf, to: whole, tiers })
  cpSync(whole, part, { recursive: true })
  rmSync(join(part, 'experts/rare'), { recursive: true })
  await convertModel({ from: gguf, to: other })
  rmSync(join(other, 'base.gguf'))
  plain = await createEngine({ threads: 2, maxBatchTokens: 64 })
  await plain.loadModel({ id: 'tiny', model: whole, contextLength: 192 })
})
t.teardown(() => plain?.dispose())

interface Opened {
  engine: Engine
  transitions: Transition[]
  events: EngineEvent[]
}

async function open(t: Test, load: LoadModelRequest = {}, onTransition?: (transition: Transition) => void) {
  const opened: Opened = { engine: undefined as unknown as Engine, transitions: [], events: [] }
  opened.engine = await createEngine({
    threads: 2,
    maxBatchTokens: 64,
    onEvent: (event) => opened.events.push(event),
    onTransition: (transition) => {
      opened.transitions.push(transition)
      onTransition?.(transition)
    }
  })
  t.teardown(() => opened.engine.dispose())
  const without = { id: 'tiny', model: part, tierFolders: { rare: false as const }, contextLength: 192 }
  await opened.engine.loadModel({ ...without, ...load })
  return opened
}

t.test('a model without a tier: the bits of its other tiers, and a typed error for whoever names it', async (t) => {
  const { engine } = await open(t)
  t.match(engine.listModels()[0], {
    tiers: [
      { name: 'core', available: true },
      { name: 'rare', available: false }
    ],
    tierSet: { name: 'max', tiers: ['core'] }
  })
  const expected = await plain.generate({ ...request, tierSet: 'core' })
  t.same(await engine.generate({ ...request, requestId: expected.requestId }), expected, 'max is all that there is')
  for (const tierSet of ['rare', ['core', 'rare']]) {
    await t.rejects(engine.generate({ ...request, tierSet }), {
      code: 'TIER_UNAVAILABLE',
      details: { tier: 'rare', available: ['core'] }
    })
    await t.rejects(engine.activateTierSet('tiny', tierSet), { code: 'TIER_UNAVAILABLE' })
  }
  const budgeted = await engine.generate({ ...request, latencyBudgetMs: 10_000 })
  t.same(budgeted.tierSet, ['core'], 'a latency budget does not choose it')
  t.match(engine.placement('tiny').tiers[1], { now: { absent: { experts: 32 } } })
  const { routing } = await plain.generate({ ...request, captureRouting: true })
  await t.rejects(engine.generate({ ...request, replayRouting: routing! }), { code: 'EXPERT_UNAVAILABLE' })
  t.equal((await engine.generate({ ...request, tierSet: 'core' })).text, expected.text, 'the others go on')
})

t.test('an expert of an added tier that was changed is in the folder that it was added to', async (t) => {
  const folder = join(t.testdir({}), 'part')
  cpSync(part, folder, { recursive: true })
  const { engine } = await open(t, { model: folder })
  await engine.expand('tiny', { from: whole })
  await engine.swapExperts('tiny', [{ action: 'reinitialise', layer: 1, expert: 9, seed: 1 }])
  const all = { model: 'tiny', tokens, logits: 'all', tierSet: ['core', 'rare'] } as const
  const logits = async () => bytes(await engine.forward(all))
  const expected = await logits()
  t.notOk(expected.equals(bytes(await plain.forward(all))))
  await engine.persistExperts('tiny')
  for (const rare of [whole, false] as const) {
    await engine.unloadModel('tiny')
    await engine.loadModel({ id: 'tiny', model: folder, tierFolders: { rare }, contextLength: 192 })
    if (!rare) await engine.expand('tiny', { from: other })
    t.ok((await logits()).equals(expected), rare ? 'loaded with the tier' : 'and added again')
  }
})

t.test('a load may take a tier from another folder at once', async (t) => {
  const { engine } = await open(t, { tierFolders: { rare: other }, verifyOnLoad: true })
  const expected = await plain.forward({ model: 'tiny', tokens, logits: 'all' })
  t.ok(bytes(await engine.forward({ model: 'tiny', tokens, logits: 'all' })).equals(bytes(expected)))
  await engine.unloadModel('tiny')
  const refused = async (request: LoadModelRequest, code: string) =>
    t.rejects(engine.loadModel({ id: 'tiny', model: part, ...request }), { code })
  await refused({ tierFolders: { none: false } }, 'CONFIG_UNKNOWN_TIER')
  await refused({ tierFolders: { rare: part } }, 'CHECKPOINT_INVALID')
  await refused({ tierFolders: { rare: home } }, 'MODEL_NOT_FOUND')
  await refused({ tierFolders: { rare: false }, tierSet: 'rare' }, 'TIER_UNAVAILABLE')
  await refused({ tierFolders: { rare: false, core: false } }, 'ROUTING_TOO_FEW_EXPERTS')
  await refused({ model: gguf, tierFolders: { rare: false } }, 'VALIDATION_ERROR')
  await refused({}, 'CHECKPOINT_INVALID')
  t.same(engine.listModels(), [])
})

for (const limited of [false, true]) {
  t.test(`a tier is added while requests run${limited ? ', under a budget' : ''}`, async (t) => {
    const { base, arena, experts } = plain.listModels()[0]!.memory
    const load = limited ? { memory: base + arena + 24 * experts.slot } : {}
    const { engine, transitions, events } = await open(t, load)
    const core = await plain.generate({ ...request, tierSet: 'core', maxTokens: 100 })
    const all = await plain.generate(request)
    const running = engine.createGenerator({ ...request, maxTokens: 100 })
    let text = ''
    for (let i = 0; i < 5; i++) text += (await running.next()).value?.text
    const expansion = engine.expand('tiny', { from: other, verify: true })
    t.equal(engine.state, 'expanding')
    await t.rejects(engine.expand('tiny', { from: other }), { code: 'LIFECYCLE_INVALID_TRANSITION' })
    await t.rejects(engine.freeze(), { code: 'LIFECYCLE_INVALID_TRANSITION' })
    const during = engine.generate({ ...request, maxTokens: 100 })
    t.same(await expansion, { tiers: ['rare'], experts: 32, bytes: 32 * experts.slot })
    t.equal(engine.state, 'active')
    for await (const item of running) text += item.text
    t.equal(text, core.text, 'who had begun keeps the tiers')
    t.equal((await during).text, core.text, 'so does who began meanwhile')
    t.same((await engine.generate(request)).tierSet, ['core'], 'the active TierSet is what it was')
    t.equal((await engine.generate({ ...request, tierSet: 'max' })).text, all.text, 'a later request can use it')
    await engine.activateTierSet('tiny', 'max')
    const expected = await plain.forward({ model: 'tiny', tokens, logits: 'all' })
    t.ok(bytes(await engine.forward({ model: 'tiny', tokens, logits: 'all' })).equals(bytes(expected)))
    t.match(
      transitions.slice(2).map(({ next }) => next),
      ['expanding', 'active']
    )
    t.match(
      events.filter(({ event }) => event === 'tier_added'),
      [{ fields: { model: 'tiny', tier: 'rare', from: other } }]
    )
    t.equal(engine.placement('tiny').now.absent.experts, 0)
    const { residentBytes, budgetBytes } = engine.modelStats('tiny').experts!
    t.ok(residentBytes <= budgetBytes)
    t.equal(limited, budgetBytes < 64 * experts.slot)
    await t.rejects(engine.expand('tiny', { from: other }), { code: 'VALIDATION_ERROR' }, 'nothing is missing now')
  })
}

t.test('of a hierarchical model', async (t) => {
  const [file, all, some] = ['hser.gguf', 'hser', 'hser-part'].map((name) => join(home, name)) as [
    string,
    string,
    string
  ]
  writeMoeModel(file, { hser: { tiers: { hot: [4, 4], cold: [4, 4], archive: [4] }, k: [1, 1, 2] } })
  await convertModel({ from: file, to: all })
  cpSync(all, some, { recursive: true })
  for (const tier of ['cold', 'archive']) rmSync(join(some, 'experts', tier), { recursive: true })
  const tierFolders = { cold: false, archive: false } as const
  const { engine } = await open(t, { model: some, tierFolders, contextLength: 128 })
  await engine.loadModel({ id: 'all', model: all, contextLength: 128 })
  const ask = (model: string, tierSet: string | string[]) =>
    engine.generate({ ...request, model, tierSet, maxTokens: 30 }).then(({ tokens }) => tokens)
  t.same(await ask('tiny', 'max'), await ask('all', 'hot'))
  t.match(await engine.expand('tiny', { from: all, tiers: ['archive'] }), { tiers: ['archive'], experts: 8 })
  t.same(await ask('tiny', 'max'), await ask('all', ['hot', 'archive']))
  await t.rejects(ask('tiny', 'cold'), { code: 'TIER_UNAVAILABLE' })
  t.match(await engine.expand('tiny', { from: all }), { tiers: ['cold'], experts: 16 })
  t.same(await ask('tiny', 'max'), await ask('all', 'max'))
})

t.test('files that only the archive had', async (t) => {
  const archived = join(home, 'archived')
  cpSync(part, archived, { recursive: true })
  edit(archived, (manifest) => {
    manifest.tiers[1].placement = 'archive'
  })
  const archive = {
    url: 'http://127.0.0.1:9/',
    coldFolder: join(home, 'cold'),
    retry: { attempts: 1, delaysMs: [1], jitterMs: 0 }
  }
  const { engine } = await open(t, { model: archived, archive, tierFolders: {} })
  t.match(engine.placement('tiny').tiers[1], { now: { archive: { experts: 32 } } })
  await t.rejects(engine.generate(request), { code: 'NETWORK_PARTITION' })
  await engine.expand('tiny', { from: other })
  t.match(engine.placement('tiny').tiers[1], { now: { archive: { experts: 0 } } })
  t.equal((await engine.generate(request)).text, (await plain.generate(request)).text, 'the server is not needed')
})

/** A copy of the folder that gives the tier, changed. */
function copy(name: string, change: (folder: string) => void): string {
  const folder = join(home, name)
  cpSync(other, folder, { recursive: true })
  change(folder)
  return folder
}

t.test('what is refused changes nothing', async (t) => {
  const { engine, transitions } = await open(t)
  const blobs = 'experts/all/layer-001.bin'
  const another = join(home, 'another')
  writeMoeModel(`${another}.gguf`, { layers: 4, experts: 16 })
  await convertModel({ from: `${another}.gguf`, to: another })
  const before = engine.counters()
  const info = engine.listModels()
  const cases: [string, ExpandRequest, { code: string; details?: object }][] = [
    ['no folder', { from: join(home, 'none') }, { code: 'MODEL_NOT_FOUND' }],
    ['a file', { from: gguf }, { code: 'MODEL_NOT_FOUND' }],
    ['another model', { from: another }, { code: 'CHECKPOINT_MISMATCH', details: { expected: /^[0-9a-f]{64}$/ } }],
    [
      'another version of an expert',
      {
        from: copy('version', (folder) =>
          edit(folder, (manifest) => {
            Object.assign(manifest.layers[2].experts[11], { sha256: 'a'.repeat(64), version: 3 })
          })
        )
      },
      { code: 'CHECKPOINT_MISMATCH', details: { tier: 'rare', layer: 2, expert: 11, versions: [0, 3] } }
    ],
    [
      'a file that is missing',
      { from: copy('missing', (folder) => rmSync(join(folder, blobs))) },
      { code: 'CHECKPOINT_INVALID', details: { file: blobs } }
    ],
    [
      'a file that is too short',
      { from: copy('short', (folder) => truncateSync(join(folder, blobs), 4096)) },
      { code: 'CHECKPOINT_INVALID', details: { file: blobs, actualBytes: 4096 } }
    ],
    [
      'a damaged manifest',
      { from: copy('manifest', (folder) => flip(join(folder, 'manifest.json'), 5000)) },
      { code: 'MODEL_CORRUPTED' }
    ],
    [
      'a damaged file, when it is verified',
      {
        from: copy('flipped', (folder) =>
          flip(join(folder, blobs), manifestOf(folder).layers[1].experts[12].offset + 100)
        ),
        verify: true
      },
      { code: 'MODEL_CORRUPTED', details: { file: blobs } }
    ],
    ['no such tier', { from: other, tiers: ['none'] }, { code: 'CONFIG_UNKNOWN_TIER' }],
    ['a tier that is here', { from: other, tiers: ['core'] }, { code: 'VALIDATION_ERROR' }],
    ['no name', { from: '' }, { code: 'VALIDATION_ERROR' }]
  ]
  for (const [name, request, error] of cases) await t.rejects(engine.expand('tiny', request), error, name)
  t.equal(engine.state, 'active')
  t.ok(transitions.length > 10, 'the engine has been expanding, and is not any more')
  t.same(engine.listModels(), info)
  t.same(engine.counters().openFiles, before.openFiles)
  await t.rejects(engine.generate({ ...request, tierSet: 'rare' }), { code: 'TIER_UNAVAILABLE' })
  await t.rejects(engine.expand('none', { from: other }), { code: 'MODEL_NOT_LOADED' })
  await engine.loadModel({ id: 'gguf' })
  await t.rejects(engine.expand('gguf', { from: other }), { code: 'VALIDATION_ERROR' })
  await engine.freeze()
  await t.rejects(engine.expand('tiny', { from: other }), { code: 'LIFECYCLE_INVALID_TRANSITION' })
  await engine.thaw()
  await engine.expand('tiny', { from: join(home, 'flipped') })
  await t.rejects(engine.forward({ model: 'tiny', tokens, tierSet: 'rare' }), { code: 'EXPERT_CORRUPTED' })
  t.ok((await engine.generate({ ...request, tierSet: 'core' })).text, 'only who needs a damaged expert fails')
  await engine.dispose()
  await t.rejects(engine.expand('tiny', { from: other }), { code: 'ENGINE_DISPOSED' })
})

t.test('what is given up changes nothing: an abort, an unload, dispose', async (t) => {
  const controller = new AbortController()
  let onExpanding: (() => void) | undefined
  const { engine } = await open(t, {}, ({ next }) => next === 'expanding' && onExpanding?.())
  onExpanding = () => controller.abort()
  const from = { from: other, verify: true }
  await t.rejects(engine.expand('tiny', from, { signal: controller.signal }), { code: 'CANCELLED' })
  await t.rejects(engine.expand('tiny', from, { signal: AbortSignal.abort() }), { code: 'CANCELLED' })
  t.equal(engine.state, 'active')
  await t.rejects(engine.generate({ ...request, tierSet: 'rare' }), { code: 'TIER_UNAVAILABLE' })
  let unloaded: Promise<void> | undefined
  onExpanding = () => {
    unloaded = engine.unloadModel('tiny')
  }
  await t.rejects(engine.expand('tiny', from), { code: 'MODEL_NOT_LOADED' })
  await unloaded
  t.equal(engine.state, 'active')
  await engine.loadModel({ id: 'tiny', model: part, tierFolders: { rare: false } })
  let disposed: Promise<void> | undefined
  onExpanding = () => {
    disposed = engine.dispose()
  }
  await t.rejects(engine.expand('tiny', from), { code: 'ENGINE_DISPOSED' })
  await disposed
  t.equal(engine.state, 'closed')
})

t.test('the folder goes after the expansion: its files stay open', async (t) => {
  const from = copy('goes', () => {})
  const { engine } = await open(t)
  await engine.expand('tiny', { from })
  renameSync(from, `${from}-gone`)
  rmSync(`${from}-gone`, { recursive: true })
  t.equal((await engine.generate({ ...request, tierSet: 'max' })).text, (await plain.generate(request)).text)
})

t.test('the manifest of the model itself is not touched', async (t) => {
  const before = readFileSync(join(part, 'manifest.json'), 'utf8')
  const { engine } = await open(t)
  await engine.expand('tiny', { from: other })
  await engine.dispose()
  t.equal(readFileSync(join(part, 'manifest.json'), 'utf8'), before)
})
