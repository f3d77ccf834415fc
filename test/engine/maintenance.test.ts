import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Engine, EngineError, Transition } from 'tiered-moe'
import { createEngine } from 'tiered-moe'
import { whileExpanding } from '../../lib/engine/maintenance.js'
import type { EngineParts } from '../../lib/engine/parts.js'
import { createError } from '../../lib/errors/index.js'
import { Lifecycle } from '../../lib/lifecycle.js'

const model = 'tiny-shakespeare'
const request = { model, prompt: 'ROMEO:', temperature: 0, maxTokens: 30, ignoreEos: true }

t.test('frozen: nothing new begins, what runs ends by itself, and thawed it goes on', async (t) => {
  const transitions: Transition[] = []
  const engine = await createEngine({ threads: 2, onTransition: (transition) => transitions.push(transition) })
  await t.rejects(engine.freeze(), { code: 'LIFECYCLE_INVALID_TRANSITION', details: { from: 'warm', to: 'frozen' } })
  await engine.loadModel()
  const seed = engine.routingSeed
  await t.rejects(engine.thaw(), { code: 'LIFECYCLE_INVALID_TRANSITION', details: { from: 'active' } })
  const expected = await engine.generate(request)
  const running = engine.createGenerator(request)
  await running.next()
  const late = engine.createGenerator(request)
  const frozen = engine.freeze({ reason: 'compaction', retryAfterSeconds: 7 })
  t.equal(engine.state, 'frozen')
  const refused = (error: EngineError) =>
    t.match(error, {
      code: 'ENGINE_FROZEN',
      httpStatus: 503,
      retryable: true,
      details: { retryAfterSeconds: 7 }
    })
  await engine.generate(request).catch(refused)
  await engine.forward({ model, tokens: [1] }).catch(refused)
  t.throws(() => engine.createGenerator(request), { code: 'ENGINE_FROZEN' })
  await t.rejects(late.next(), { code: 'ENGINE_FROZEN' }, 'nor does one begin that was made before')
  t.match(await late.next(), { done: true })
  t.match(await engine.tokenize({ model, text: 'x' }), { tokens: Array }, 'what is no request goes on')
  let text = ''
  for await (const item of running) text += item.text
  t.ok(expected.text.endsWith(text) && text.length > 10, 'the running one was left alone')
  await frozen
  await engine.unloadModel(model)
  await engine.loadModel()
  t.equal(engine.state, 'frozen', 'maintenance may load')
  await engine.thaw()
  t.equal((await engine.generate(request)).text, expected.text)
  await engine.freeze()
  await engine.unloadModel(model)
  await engine.thaw()
  t.equal(engine.state, 'warm', 'with no model it is warm')
  t.equal(engine.routingSeed, seed, 'the routing seed never changes')
  await engine.dispose()
  t.same(
    transitions.map(({ next }) => next),
    ['warm', 'active', 'frozen', 'active', 'frozen', 'warm', 'draining', 'closed']
  )
  t.equal(transitions[2]?.reason, 'compaction')
})

t.test('frozen with a deadline ends what runs, with its text', async (t) => {
  const engine = await createEngine({ threads: 2 })
  await engine.loadModel()
  const idle = engine.createGenerator(request)
  const first = await idle.next()
  await engine.freeze({ drainMs: 20 })
  const error = await idle.next().then(
    () => t.fail('it goes on'),
    (error: EngineError) => error
  )
  t.match(error, { code: 'ENGINE_FROZEN', details: { text: String, tokens: Array, usage: {} } })
  t.ok((error as EngineError & { details: { text: string } }).details.text.startsWith(first.value?.text ?? '?'))
  t.equal(engine.listModels()[0]?.activeSequences, 0)
  await engine.thaw()
  t.equal((await engine.generate(request)).tokens.length, 30)
  await t.rejects(engine.freeze({ drainMs: -1 }), { code: 'VALIDATION_ERROR' })
  await engine.dispose()
  await t.rejects(engine.freeze(), { code: 'ENGINE_DISPOSED' })
  await t.rejects(engine.thaw(), { code: 'ENGINE_DISPOSED' })
})

t.test('expanding: active again however it ends; told when the engine leaves it', async (t) => {
  const lifecycle = new Lifecycle()
  const parts = { lifecycle } as EngineParts
  await t.rejects(
    whileExpanding(parts, 'a tier', async () => {}),
    { code: 'LIFECYCLE_INVALID_TRANSITION' }
  )
  lifecycle.to('warm', 'test')
  lifecycle.to('active', 'test')
  t.equal(await whileExpanding(parts, 'a tier', async () => lifecycle.state), 'expanding')
  t.equal(lifecycle.state, 'active')
  const failure = createError('VALIDATION_ERROR', 'made by the test')
  await t.rejects(
    whileExpanding(parts, 'a tier', async () => Promise.reject(failure)),
    failure
  )
  t.equal(lifecycle.state, 'active')
  let aborted = false
  await whileExpanding(parts, 'a tier', async (signal) => {
    lifecycle.to('draining', 'test')
    aborted = signal.aborted
  })
  t.ok(aborted)
  t.equal(lifecycle.state, 'draining', 'the state is no longer its own')
})

t.test('thawed before its deadline: nothing is ended any more', async (t) => {
  const engine = await createEngine({ threads: 2 })
  await engine.loadModel()
  const idle = engine.createGenerator(request)
  await idle.next()
  const frozen = engine.freeze({ drainMs: 50 })
  await engine.thaw()
  await frozen
  await sleep(80)
  let tokens = 1
  for await (const { finishReason } of idle) if (finishReason === undefined) tokens++
  t.equal(tokens, 30)
  await engine.dispose()
})

t.test('a listener of the change may thaw it at once', async (t) => {
  const engine: Engine = await createEngine({
    threads: 2,
    onTransition: ({ next }) => {
      if (next === 'frozen') void engine.thaw()
    }
  })
  await engine.loadModel()
  await engine.freeze()
  t.equal(engine.state, 'active')
  t.equal((await engine.generate(request)).tokens.length, 30)
  await engine.dispose()
})
