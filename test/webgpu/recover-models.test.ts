/** What engine.recover() does with several models: each is back as it was or not there at all, and a journal's requests go on. */
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Engine, EngineOptions, GenerationItem, LoadModelRequest } from 'tiered-moe'
import { convertModel, createEngine } from 'tiered-moe'
import { items } from '../engine/items.js'
import { embedded } from '../fixtures/package.js'
import { openGpu } from './adapter.js'
import { adapters, devices, watchDevices } from './devices.js'

const request = { prompt: 'ROMEO:', maxTokens: 10, temperature: 0, ignoreEos: true }
const turn = () => new Promise(setImmediate)
/** What does not depend on the request's id. */
const plain = (list: readonly GenerationItem[]) =>
  list.map(({ text, token, finishReason, usage }) => ({ text, token, finishReason, usage }))

async function open(options: EngineOptions): Promise<Engine> {
  const engine = await createEngine({ backend: 'webgpu', threads: 1, ...options })
  t.teardown(() => engine.dispose())
  return engine
}

/** The embedded model as files of their own in a folder. */
function copies<Id extends string>(folder: string, ...ids: Id[]): Record<Id, string> {
  const paths = ids.map((id) => [id, join(folder, `${id}.gguf`)] as const)
  for (const [, path] of paths) copyFileSync(embedded, path)
  return Object.fromEntries(paths) as Record<Id, string>
}

/** The next adapter is looked for when `let` is called; `asked` resolves when somebody looks. */
function holdAdapter(): { asked: Promise<void>; go: () => void } {
  let go: () => void = () => {}
  const held = new Promise<void>((resolve) => {
    go = resolve
  })
  const asked = new Promise<void>((resolve) => {
    adapters.before = () => {
      resolve()
      return held
    }
  })
  return { asked, go }
}

if (await openGpu(t)) {
  await watchDevices()

  t.test('all are back as they were, and the requests of a journal go on', async (test) => {
    const folder = test.testdir({})
    const files = { ...copies(folder, 'a'), b: join(folder, 'b') }
    await convertModel({ from: embedded, to: files.b, tiers: [{ name: 'all', placement: 'warm', experts: 'rest' }] })
    const engine = await open({ journal: join(folder, 'journal') })
    const core = { name: 'core', placement: 'warm' as const, experts: ['0-7'] }
    const load = { id: 'a', model: 'a.gguf', kvType: 'f32', tiers: [core, { name: 'rare' }] } satisfies LoadModelRequest
    const home = process.cwd()
    process.chdir(folder)
    await engine.loadModel(load).finally(() => process.chdir(home))
    // What a caller does with its own object is no concern of a later load.
    Object.assign(load, { model: files.b, kvType: 'f16' })
    core.experts[0] = '0-3'
    await engine.loadModel({ id: 'b', model: files.b })
    await engine.activateTierSet('a', ['rare'])

    const ids = ['a', 'b'] as const
    const expected = await Promise.all(
      ids.map((model) => items(engine.createGenerator({ ...request, model, requestId: `${model}, whole` })))
    )
    const running = ids.map((model) => engine.createGenerator({ ...request, model, requestId: model }))
    for (const generator of running) await items(generator, 3)
    await engine.swapExperts('b', [{ action: 'reinitialise', layer: 1, expert: 3, seed: 1 }])
    test.equal(
      (await engine.persistExperts('b')).length,
      1,
      'a manifest that it wrote itself is that of the same model'
    )
    const { text: swapped } = await engine.generate({ ...request, model: 'b' })
    const { asked, go } = holdAdapter()
    devices.at(-1)?.destroy()
    const recovered = engine.recover()
    await asked
    const lost = { code: 'GPU_DEVICE_LOST', retryable: true, details: { reason: 'recover' } }
    for (const model of ids) {
      await test.rejects(engine.generate({ ...request, model }), lost, `${model}: later, not never`)
      await test.rejects(engine.forward({ model, tokens: [1] }), lost)
      await test.rejects(engine.tokenize({ model, text: 'x' }), lost)
    }
    await test.rejects(engine.generate({ ...request, model: 'c' }), { code: 'MODEL_NOT_LOADED' })
    const resumed = ids.map((requestId) => engine.resumeGenerator({ requestId }))
    go()
    await recovered
    test.match(engine.listModels(), [
      { id: 'a', kvType: 'f32', tierSet: { tiers: ['rare'] } },
      { id: 'b', kvType: 'f16' }
    ])
    test.equal(engine.placement('a').expert(0, 7).tier, 'core')
    for (const [i, generator] of resumed.entries()) {
      test.same(plain(await items(await generator)), plain(expected[i]!), 'with the experts that it began with')
      await test.rejects(items(running[i]!), lost)
    }
    test.equal((await engine.generate({ ...request, model: 'b' })).text, swapped)

    const before = engine.backend.gpu!.submits
    const long = engine.createGenerator({ ...request, model: 'a', prompt: 'ROMEO: '.repeat(40) })
    const ended = test.rejects(items(long), lost)
    while (engine.backend.gpu!.submits === before) await turn()
    const again = engine.recover()
    // Its first steps, and no end of what the GPU does.
    for (let i = 0; i < 100; i++) await undefined
    const changes = [engine.unloadModel('b'), engine.activateTierSet('a', ['core'])]
    await Promise.all([again, ended, ...changes])
    test.match(engine.listModels(), [{ id: 'a', tierSet: { tiers: ['core'] } }], 'what is changed meanwhile counts')
    test.equal(engine.listModels().length, 1)
    test.equal(engine.state, 'active')
  })

  t.test('models that are not what they were are not there, and maintenance goes on', async (test) => {
    const folder = test.testdir({})
    const files = copies(folder, 'changed', 'removed', 'tiered')
    const tiers = join(folder, 'tiers.yaml')
    const writeTiers = (first: number) =>
      writeFileSync(tiers, `tiers: [{name: one, placement: hot, experts: [${first}]}, {name: two, placement: warm}]`)
    writeTiers(0)
    const told: unknown[] = []
    const engine = await open({ onError: ({ code }, { method, model }) => told.push([code, method, model]) })
    for (const [id, model] of Object.entries(files)) {
      await engine.loadModel({ id, model, ...(id === 'tiered' && { tiers }) })
    }
    await engine.freeze()
    const bytes = readFileSync(files.changed)
    bytes[bytes.length - 5000]! ^= 1
    writeFileSync(files.changed, bytes)
    rmSync(files.removed)
    writeTiers(1)
    const details = { model: 'changed', expected: { bytes: bytes.length }, actual: { bytes: bytes.length } }
    await test.rejects(engine.recover(), { code: 'MODEL_CHANGED', details })
    test.same(told, [
      ['MODEL_NOT_FOUND', 'recover', 'removed'],
      ['MODEL_CHANGED', 'recover', 'tiered'],
      ['MODEL_CHANGED', 'recover', undefined]
    ])
    test.same(engine.listModels(), [])
    test.match(engine.backend.gpu, { memoryBytes: 0, buffers: 0 }, 'nothing is held')
    test.equal(engine.state, 'frozen')
    await engine.thaw()
    test.equal(engine.state, 'warm')
    await test.rejects(engine.generate({ ...request, model: 'changed' }), { code: 'MODEL_NOT_LOADED' })
    await engine.loadModel({ id: 'changed', model: files.changed })
    test.equal(engine.state, 'active')
    test.equal((await engine.generate({ ...request, model: 'changed' })).tokens.length, 10)
  })
}
