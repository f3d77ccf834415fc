import { spawnSync } from 'node:child_process'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine, type Transition } from 'tiered-moe'
import { writeMoeModel } from '../fixtures/moe-model.js'

const folder = t.testdir()
const file = (
  name: string,
  ...options: Parameters<typeof writeMoeModel> extends [string, ...infer Rest] ? Rest : never
) => writeMoeModel(join(folder, name), ...options)

t.test('the embedded model, by no name and by its name', async (t) => {
  const transitions: Transition[] = []
  const engine = await createEngine({ threads: 2, onTransition: (transition) => transitions.push(transition) })
  t.equal(engine.state, 'warm')
  const { id, descriptor } = await engine.loadModel()
  t.equal(id, 'tiny-shakespeare')
  t.match(descriptor, {
    id,
    architecture: 'olmoe',
    layers: 4,
    experts: 16,
    expertsUsed: 4,
    vocab: 1024,
    weightType: 'Q8_0'
  })
  t.equal(engine.state, 'active')
  const second = await engine.loadModel({ model: 'tiny-shakespeare', id: 'other', kvType: 'f32', contextLength: 100 })
  t.equal(second.id, 'other')
  t.match(engine.listModels(), [
    { id, kvType: 'f16', contextLength: 256, activeSequences: 0 },
    { id: 'other', kvType: 'f32', contextLength: 100 }
  ])
  t.ok(engine.listModels()[0]!.weightBytes > 7e6)
  t.match(engine.backend, { name: 'cpu', threads: 2 })
  t.ok(Object.keys(engine.backend.kernels).length > 0)
  await engine.unloadModel(id)
  await engine.unloadModel({ model: 'other' })
  await t.rejects(engine.unloadModel(id), { code: 'MODEL_NOT_LOADED', details: { model: id, loaded: [] } })
  await engine.dispose()
  t.same(
    transitions.map(({ next }) => next),
    ['warm', 'active', 'draining', 'closed']
  )
})

t.test('counters return to where they were', async (t) => {
  const engine = await createEngine({ threads: 2 })
  const before = engine.counters()
  const { id } = await engine.loadModel({ model: file('counted.gguf', { type: 'Q8_0' }) })
  t.ok(engine.counters().liveBytes > before.liveBytes)
  t.equal(engine.counters().openFiles, before.openFiles, 'the file is closed after loading')
  await engine.generate({ model: id, prompt: 'hello', maxTokens: 5 })
  await engine.unloadModel(id)
  t.same(engine.counters(), before)
  await engine.dispose()
})

t.test('one progress event per tensor, and a listener that throws ends the load', async (t) => {
  const engine = await createEngine({ threads: 2 })
  const before = engine.counters()
  const seen: string[] = []
  let last = 0
  await engine.loadModel(
    { model: file('progress.gguf') },
    {
      onProgress: ({ tensor, index, count, bytesDone, bytesTotal }) => {
        seen.push(tensor)
        t.ok(index < count && bytesDone >= last && bytesDone <= bytesTotal)
        last = bytesDone
      }
    }
  )
  t.equal(new Set(seen).size, seen.length)
  t.ok(seen.includes('blk.1.ffn_down_exps.weight') && seen.includes('output.weight'))
  await engine.unloadModel('progress')
  const mine = new RangeError('mine')
  const failing = () => {
    throw mine
  }
  t.equal(
    await engine.loadModel({ model: join(folder, 'progress.gguf') }, { onProgress: failing }).catch((e) => e),
    mine
  )
  t.same(engine.listModels(), [])
  t.same(engine.counters(), before)
  await engine.dispose()
})

t.test('what cannot be loaded', async (t) => {
  const engine = await createEngine({ threads: 2 })
  const before = engine.counters()
  const fails = async (options: object, expected: object) =>
    t.match(await engine.loadModel(options).catch((error) => error), expected)
  mkdirSync(join(folder, 'directory'))
  writeFileSync(join(folder, 'plain.txt'), 'not a model')
  symlinkSync('loop', join(folder, 'loop'))
  await fails({ model: join(folder, 'absent.gguf') }, { code: 'MODEL_NOT_FOUND', exitCode: 1, httpStatus: 404 })
  await fails({ model: 'no-such-name' }, { code: 'MODEL_NOT_FOUND' })
  await fails({ model: join(folder, 'loop') }, { code: 'FILE_READ_FAILED' })
  await fails({ model: join(folder, 'directory') }, { code: 'MODEL_FILE_INVALID' })
  await fails({ model: join(folder, 'plain.txt') }, { code: 'MODEL_FILE_INVALID' })
  const version = Buffer.alloc(64)
  version.write('GGUF')
  version.writeUInt32LE(9, 4)
  writeFileSync(join(folder, 'version.gguf'), version)
  await fails({ model: join(folder, 'version.gguf') }, { code: 'MODEL_VERSION_MISMATCH', details: { actual: 9 } })
  await fails(
    { model: file('dense.gguf', { metadata: { 'general.architecture': 'mamba' } }) },
    { code: 'ARCHITECTURE_UNSUPPORTED' }
  )
  await fails(
    { model: file('context.gguf'), contextLength: 129 },
    { code: 'VALIDATION_ERROR', details: { path: 'contextLength' } }
  )
  const long = file('long.gguf', { contextLength: 2 ** 31 - 1 })
  const error = await engine.loadModel({ model: long, contextLength: 2 ** 31 - 1 }).catch((error) => error)
  t.match(error, { code: 'RESOURCE_MEMORY_EXHAUSTED', details: { resourceInfo: { unit: 'bytes' } } })
  t.ok(error.details.resourceInfo.required > error.details.resourceInfo.available)
  t.match(error.details.alternatives[0], { change: 'contextLength' })
  // A tenth less than what fits: others take memory too.
  const contextLength = Math.floor(error.details.alternatives[0].value * 0.9)
  const fitting = await engine.loadModel({ model: long, contextLength })
  await engine.unloadModel(fitting.id)
  await fails({ model: 3 }, { code: 'VALIDATION_ERROR' })
  await fails({ model: 'a\0b' }, { code: 'VALIDATION_ERROR' })
  await fails({ path: 'x' }, { code: 'VALIDATION_ERROR', details: { path: 'path' } })
  await t.rejects(engine.loadModel({}, { timeoutMs: -1 }), { code: 'VALIDATION_ERROR' })
  t.equal(engine.state, 'active')
  t.same(engine.counters(), before)
  await engine.dispose()
})

t.test('an id is taken once, while loading too', async (t) => {
  const engine = await createEngine({ threads: 2 })
  const model = file('twice.gguf')
  const loads = await Promise.allSettled([engine.loadModel({ model }), engine.loadModel({ model })])
  t.match(loads, [{ status: 'fulfilled' }, { status: 'rejected', reason: { code: 'MODEL_ALREADY_LOADED' } }])
  await t.rejects(engine.loadModel({ model }), { code: 'MODEL_ALREADY_LOADED', details: { model: 'twice' } })
  await engine.dispose()
})

t.test('a load can be aborted, and has a deadline', async (t) => {
  const engine = await createEngine({ threads: 1 })
  const before = engine.counters()
  const model = file('large.gguf', {
    embedding: 256,
    headDim: 64,
    feedForward: 512,
    experts: 32,
    layers: 4,
    type: 'Q8_0'
  })
  const controller = new AbortController()
  const reason = new Error('enough')
  const onProgress = () => controller.abort(reason)
  const aborted = engine.loadModel({ model }, { signal: controller.signal, onProgress })
  await t.rejects(aborted, { code: 'CANCELLED', name: 'AbortError', cause: reason })
  await t.rejects(engine.loadModel({ model }, { signal: AbortSignal.abort() }), { code: 'CANCELLED' })
  const late = await engine.loadModel({ model }, { timeoutMs: 1 }).catch((error) => error)
  t.match(late, { code: 'MODEL_LOAD_TIMEOUT', name: 'TimeoutError', method: 'loadModel', timeout: 1, exitCode: 124 })
  t.same(engine.counters(), before)
  await engine.loadModel({ model })
  await engine.dispose()
})

t.test('what an engine cannot be made of', async (t) => {
  await t.rejects(createEngine({ gpu: { timeoutMs: 1000 } }), { code: 'VALIDATION_ERROR' }, 'only with webgpu')
  const cpu = await createEngine({ threads: 1 })
  await t.rejects(cpu.loadModel({ gpuMemory: '1GiB' }), { code: 'VALIDATION_ERROR' }, 'only with webgpu')
  await cpu.dispose()
  const foreign = process.arch === 'arm64' ? 'avx512' : 'neon'
  await t.rejects(createEngine({ isa: foreign }), { code: 'ISA_UNSUPPORTED' })
  await t.rejects(createEngine({ threads: 1.5 }), { code: 'VALIDATION_ERROR', details: { path: 'threads' } })
  const script =
    "import('tiered-moe').then(({ createEngine }) => createEngine()).catch((e) => console.log(e.code, e.details.tried.length))"
  const env = { ...process.env, TIERED_MOE_ADDON: join(folder, 'absent.node') }
  const { stdout } = spawnSync(process.execPath, ['-e', script], { env, encoding: 'utf8' })
  t.equal(stdout.trim(), `${'ADDON_UNAVAILABLE'} 1`)
})

t.test(
  'a load that is aborted when its last phase has ended leaves nothing, and the journal does not know it',
  async (t) => {
    const journal = join(t.testdir(), 'journal')
    const controller = new AbortController()
    const engine = await createEngine({
      threads: 1,
      journal,
      onPhase: ({ phase, status }) => {
        if (phase === 'routers' && status === 'finished') controller.abort()
      }
    })
    const before = engine.counters()
    await t.rejects(engine.loadModel({}, { signal: controller.signal }), { code: 'CANCELLED' })
    t.same(engine.counters(), before)
    await engine.dispose()
    const again = await createEngine({ threads: 1, journal })
    t.same(again.recovered.models, [])
    await again.dispose()
  }
)

t.test('an id is free when everything of its model is gone', async (t) => {
  const engine = await createEngine({ threads: 2 })
  await engine.loadModel()
  const unloading = engine.unloadModel('tiny-shakespeare')
  await t.rejects(engine.loadModel(), { code: 'MODEL_ALREADY_LOADED', message: /is being unloaded/ })
  await unloading
  await engine.loadModel()
  void engine.unloadModel('tiny-shakespeare')
  await engine.dispose()
  t.match(engine.counters(), { liveBytes: 0, activeJobs: 0 }, 'a shutdown waits for what is being unloaded')
})
