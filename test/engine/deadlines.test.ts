import t from 'tap'
import { createEngine } from '../../lib/create-engine.js'
import type { EngineError } from '../../lib/errors/index.js'
import type { Transition } from '../../lib/lifecycle.js'
import type { NativeAddon } from '../../lib/native.js'
import { native } from '../../lib/native.js'
import { replace } from '../fixtures/replace.js'

const model = 'tiny-shakespeare'
const request = { model, prompt: 'ROMEO:', temperature: 0, maxTokens: 200, ignoreEos: true }

/** Engines made from now on have steps that end, whatever cancels them, only when `release` is called. */
function stuckSteps(addon: NativeAddon): { stick(): void; release(): void; restore(): void } {
  const { createBackend } = addon
  let gate: Promise<void> | undefined
  let release = (): void => {}
  addon.createBackend = (options) => {
    const backend = createBackend(options)
    return replace(backend, {
      loadModel: async (...args) => {
        const loaded = await backend.loadModel(...args)
        return replace(loaded, {
          step: async (items, cancel) => {
            const result = await loaded.step(items, cancel)
            await gate
            return result
          }
        })
      }
    })
  }
  return {
    stick: () => {
      gate = new Promise((resolve) => {
        release = resolve
      })
    },
    release: () => {
      gate = undefined
      release()
    },
    restore: () => {
      addon.createBackend = createBackend
    }
  }
}

t.test('deadlines nest: request > inference > cleanup', async (t) => {
  for (const timeouts of [
    { requestMs: 10, inferenceMs: 10 },
    { inferenceMs: 10, cleanupMs: 11 },
    { requestMs: 10, cleanupMs: 20 },
    { requestMs: 0 },
    { cleanupMs: -1 },
    { other: 1 }
  ]) {
    await t.rejects(createEngine({ timeouts }), { code: 'VALIDATION_ERROR' }, JSON.stringify(timeouts))
  }
  const engine = await createEngine({ timeouts: { requestMs: 30_000, inferenceMs: 25_000, cleanupMs: 5000 } })
  await engine.loadModel()
  t.equal((await engine.generate({ ...request, maxTokens: 5 })).tokens.length, 5)
  await engine.dispose()
})

t.test('the engine’s deadlines hold for every call, but a call’s own counts before them', async (t) => {
  const engine = await createEngine({ threads: 2, timeouts: { requestMs: 1500 } })
  await engine.loadModel()
  const idle = engine.createGenerator(request)
  await idle.next()
  const patient = engine.createGenerator(request, { timeoutMs: 60_000 })
  await patient.next()
  await new Promise((resolve) => setTimeout(resolve, 1600))
  await t.rejects(idle.next(), {
    code: 'INFERENCE_TIMEOUT',
    details: { deadline: 'request', timeout: 1500, text: String }
  })
  t.match(await patient.next(), { value: { token: Number } })
  await engine.dispose()
  const other = await createEngine({ threads: 2, timeouts: { requestMs: 60_000, inferenceMs: 1500 } })
  await other.loadModel()
  const slow = other.createGenerator(request)
  await slow.next()
  await new Promise((resolve) => setTimeout(resolve, 1600))
  await t.rejects(slow.next(), { code: 'INFERENCE_TIMEOUT', details: { deadline: 'inference', timeout: 1500 } })
  await other.dispose()
})

t.test('a cancelled step that does not end: its request does, and the engine recovers', async (t) => {
  const steps = stuckSteps(native())
  // As native work would: a deadline alone keeps no process alive.
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => {
    clearInterval(alive)
    steps.restore()
  })
  const transitions: Transition[] = []
  const engine = await createEngine({
    threads: 2,
    timeouts: { cleanupMs: 20 },
    onTransition: (transition) => void transitions.push(transition)
  })
  await engine.loadModel()
  const expected = await engine.generate(request)
  for (const call of ['generate', 'forward'] as const) {
    steps.stick()
    const work = () =>
      call === 'generate'
        ? engine.generate(request, { timeoutMs: 10 })
        : engine.forward({ model, tokens: [1, 2, 3] }, { timeoutMs: 10 })
    const error = await work().catch((error: EngineError) => error)
    t.match(error, { code: 'INFERENCE_TIMEOUT' }, `${call} ends with the step still running`)
    t.equal(engine.state, 'recovering')
    steps.release()
    while (engine.state === 'recovering') await new Promise(setImmediate)
    t.equal(engine.state, 'active')
    t.equal((await engine.generate(request)).text, expected.text)
  }
  t.same(
    transitions.map(({ next }) => next),
    ['warm', 'active', 'recovering', 'active', 'recovering', 'active']
  )
  t.match(transitions[2]?.reason, /after its cancellation/)
  t.match(engine.counters(), { activeJobs: 0 })
  await engine.dispose()
})

t.test('a step that gets nowhere: who waits for it, and behind it, is told, and the engine recovers', async (t) => {
  const steps = stuckSteps(native())
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => {
    clearInterval(alive)
    steps.restore()
  })
  const events: string[] = []
  const engine = await createEngine({
    threads: 2,
    guards: { stepMs: 400 },
    onEvent: ({ event }) => void events.push(event)
  })
  await engine.loadModel()
  const expected = await engine.generate(request)
  const before = engine.counters()
  steps.stick()
  const stepped = engine.createGenerator({ ...request, requestId: 'stepped' })
  const behind = engine.createGenerator({ ...request, requestId: 'behind' })
  const first = stepped.next()
  await new Promise((resolve) => setTimeout(resolve, 20))
  const stuck = {
    code: 'RUNTIME_STEP_STUCK',
    severity: 'fatal',
    retryable: true,
    httpStatus: 504,
    exitCode: 124,
    details: { model, limitMs: 400, elapsedMs: Number, requests: ['stepped', 'behind'] }
  }
  const [one, other] = await Promise.allSettled([first, behind.next()])
  t.match([one, other], [{ reason: stuck }, { reason: stuck }])
  t.equal(engine.state, 'recovering')
  await t.rejects(engine.generate(request), { code: 'RUNTIME_STEP_STUCK' }, 'whoever comes is told at once')
  t.ok(events.includes('step_stuck'))
  steps.release()
  while ((engine.state as string) === 'recovering') await new Promise(setImmediate)
  t.equal((await engine.generate(request)).text, expected.text)
  t.same(engine.counters(), before)
  steps.stick()
  await t.rejects(engine.forward({ model, tokens: [1, 2, 3] }), { code: 'RUNTIME_STEP_STUCK' })
  steps.release()
  while ((engine.state as string) === 'recovering') await new Promise(setImmediate)
  t.equal((await engine.forward({ model, tokens: [1, 2, 3] })).length > 0, true)
  await engine.dispose()
})
