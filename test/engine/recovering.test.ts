import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from '../../lib/create-engine.js'
import { boot } from '../../lib/engine/boot.js'
import { LocalEngine } from '../../lib/engine/local-engine.js'
import { Recovery } from '../../lib/engine/recovery.js'
import { createError } from '../../lib/errors/index.js'
import type { Transition } from '../../lib/lifecycle.js'
import { native } from '../../lib/native.js'
import { replace } from '../fixtures/replace.js'

const model = 'tiny-shakespeare'

t.test('a broken invariant: the engine recovers, and goes on with the same weights', async (t) => {
  const addon = native()
  const { createBackend } = addon
  let broken = false
  addon.createBackend = (options) => {
    const backend = createBackend(options)
    return replace(backend, {
      loadModel: async (...args) => {
        const loaded = await backend.loadModel(...args)
        return replace(loaded, {
          step: async (items, cancel) => {
            if (broken) throw createError('RUNTIME_INVARIANT_VIOLATED', 'made by the test')
            return loaded.step(items, cancel)
          }
        })
      }
    })
  }
  t.teardown(() => {
    addon.createBackend = createBackend
  })
  const transitions: Transition[] = []
  const engine = await createEngine({ threads: 2, onTransition: (transition) => transitions.push(transition) })
  await engine.loadModel()
  const request = { model, prompt: 'ROMEO:', temperature: 0, maxTokens: 20 }
  const expected = await engine.generate(request)
  const idle = engine.createGenerator(request)
  await idle.next()
  broken = true
  const results = await Promise.allSettled([engine.generate(request), engine.generate(request)])
  for (const result of results) {
    t.match(result, {
      status: 'rejected',
      reason: { code: 'RUNTIME_INVARIANT_VIOLATED', severity: 'fatal', scope: 'engine' }
    })
  }
  await t.rejects(idle.next(), { code: 'RUNTIME_INVARIANT_VIOLATED' }, 'one that was idle has ended too')
  broken = false
  t.equal(engine.state, 'active')
  t.same(
    transitions.map(({ next }) => next),
    ['warm', 'active', 'recovering', 'active']
  )
  t.equal((await engine.generate(request)).text, expected.text)
  await engine.dispose()
})

t.test('a recovery that fails closes the engine, and dispose gives everything back', async (t) => {
  const before = native().counters()
  const codes: string[] = []
  const parts = await boot({ threads: 2, onError: ({ code }) => codes.push(code) }, {})
  const engine = new LocalEngine(parts)
  await engine.loadModel()
  const [loaded] = parts.models.all()
  loaded!.endRequests = () => Promise.reject(createError('RUNTIME_NAN_DETECTED', 'made by the test'))
  const recovery = new Recovery(parts)
  recovery.begin(createError('RUNTIME_INVARIANT_VIOLATED', 'made by the test'))
  t.equal(engine.state, 'recovering')
  await recovery.running
  t.equal(engine.state, 'closed')
  t.same(codes, ['RUNTIME_INVARIANT_VIOLATED', 'RUNTIME_NAN_DETECTED'])
  await t.rejects(engine.generate({ model, prompt: 'x' }), { code: 'ENGINE_DISPOSED' })
  await engine.dispose()
  t.equal(engine.state, 'closed')
  t.same(native().counters(), before)
})

t.test('a recovery under maintenance does not end the maintenance', async (t) => {
  const parts = await boot({ threads: 1 }, {})
  const engine = new LocalEngine(parts)
  await engine.loadModel()
  await engine.freeze()
  const recovery = new Recovery(parts)
  recovery.begin(createError('RUNTIME_INVARIANT_VIOLATED', 'made by the test'))
  await recovery.running
  t.equal(engine.state, 'frozen')
  await engine.thaw()
  t.equal(engine.state, 'active')
  await engine.dispose()
})

t.test('a generator that is dropped gives its sequence back', async (t) => {
  const script = join(t.testdir(), 'dropped.mjs')
  writeFileSync(
    script,
    `const { createEngine } = await import(process.argv[2])
    const engine = await createEngine({ threads: 2 })
    await engine.loadModel()
    await engine.generate({ model: '${model}', prompt: 'ROMEO:', maxTokens: 10 })
    const before = JSON.stringify(engine.counters())
    for (let i = 0; i < 5; i++) await engine.createGenerator({ model: '${model}', prompt: 'ROMEO:' }).next()
    const held = engine.listModels()[0].activeSequences
    for (let i = 0; i < 50 && engine.listModels()[0].activeSequences > 0; i++) {
      globalThis.gc()
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    const waiting = engine.createGenerator({ model: '${model}', prompt: 'ROMEO:', seed: 1 }).next()
    for (let i = 0; i < 3; i++) globalThis.gc()
    console.log(held, JSON.stringify(engine.counters()) === before || engine.counters(), (await waiting).done)
    process.exit()`
  )
  const entry = join(process.cwd(), 'dist/esm/index.js')
  const { stdout, stderr } = spawnSync(process.execPath, ['--expose-gc', script, entry], { encoding: 'utf8' })
  t.match(stdout, /^5 /, stderr)
  t.match(stdout, / false\n$/, 'a call that waits keeps its generator')
})
