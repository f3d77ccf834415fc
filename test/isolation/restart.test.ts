/** Workers that die while something else is under way. */
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import type { Engine, EngineEvent, EngineOptions, IsolationOptions } from 'tiered-moe'
import { convertModel, createEngine } from 'tiered-moe'
import { request as archived, contextLength, quick, tiers } from '../archive/archived-model.js'
import { items } from '../engine/items.js'
import { embedded } from '../fixtures/package.js'
import { until } from './until.js'

const model = 'tiny-shakespeare'
const request = { model, prompt: 'ROMEO:', maxTokens: 200, temperature: 0, ignoreEos: true }
const folder = t.testdir()
const REFUSALS = join(folder, 'refusals')
const MESSAGE = join(folder, 'message')
const checkpoint = 'models/tiny-shakespeare-moe-q8_0.gguf'

async function isolated(own: Partial<IsolationOptions>, options: EngineOptions = {}): Promise<Engine> {
  return createEngine({
    threads: 1,
    ...options,
    isolation: {
      mode: 'process',
      restartDelayBaseMs: 10,
      crashFolder: join(folder, 'crashes'),
      execArgv: ['--import', pathToFileURL(resolve('test/isolation/saboteur.mjs')).href],
      env: { REFUSALS, MESSAGE },
      ...own
    }
  })
}

const pidOf = (engine: Engine, index = 0) => engine.workers()[index]!.pid!
const kill = (engine: Engine, index = 0, signal: NodeJS.Signals = 'SIGKILL') =>
  process.kill(pidOf(engine, index), signal)
const isReady = (engine: Engine, index = 0) => engine.workers()[index]!.state === 'ready'
/** A worker tells its engine something that is not so. */
function say(engine: Engine, message: object, index = 0) {
  writeFileSync(MESSAGE, JSON.stringify({ jsonrpc: '2.0', ...message }))
  kill(engine, index, 'SIGHUP')
}
/** Until it serves again after `restarts` restarts. */
const back = (engine: Engine, index = 0, restarts = 1) =>
  until(() => isReady(engine, index) && engine.workers()[index]!.restarts >= restarts)
const whole = { model, tokens: new Int32Array(250).fill(3) }
/** A forward that ended at its deadline. It takes a few milliseconds: one that a busy machine let finish is tried once more. */
async function lateForward(engine: Engine): Promise<unknown> {
  let error: { code?: string } | undefined
  for (let tries = 0; error?.code !== 'INFERENCE_TIMEOUT' && tries < 50; tries++) {
    error = await engine.forward(whole, { timeoutMs: 1 }).then(
      () => undefined,
      (error) => error
    )
  }
  return error
}
const texts = (all: Awaited<ReturnType<typeof items>>) => all.map(({ text }) => text).join('')

t.test('a worker that refused a stream has nothing more to do with it', async (t) => {
  const engine = await isolated({ workers: 2, onCrash: 'fail' })
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  const { text } = await engine.generate(request)
  const refusal = `${REFUSALS}.${pidOf(engine)}`
  writeFileSync(refusal, '')
  const generator = engine.createGenerator(request)
  const begun = await items(generator, 4)
  rmSync(refusal)
  t.match(engine.workers(), [{ streams: 0 }, { streams: 1 }])
  kill(engine)
  await back(engine)
  t.equal(texts([...begun, ...(await items(generator))]), text)
})

t.test('a request of a worker that is given up', async (t) => {
  const journal = join(folder, 'given-up')
  const engine = await isolated({ workers: 2, maxRestarts: 0 }, { journal })
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  await engine.generate({ ...request, requestId: 'mine' })
  const busy = engine.createGenerator(request)
  await busy.next()
  t.match(engine.workers(), [{ streams: 1 }, { streams: 0 }])
  await t.rejects(
    engine.generate({ ...request, requestId: 'mine' }),
    { code: 'REQUEST_ALREADY_EXISTS', details: { running: false } },
    'whichever worker is free'
  )
  kill(engine)
  await until(() => engine.workers()[0]!.state === 'failed')
  await t.rejects(engine.resumeGenerator({ requestId: 'mine' }), { code: 'WORKER_RESTARTS_EXHAUSTED' })
})

t.test('an engine with more workers than the one before has its models in each', async (t) => {
  const journal = { path: join(folder, 'grown'), recover: 'load' as const }
  const one = await isolated({}, { journal })
  await one.loadModel()
  await one.activateTierSet(model, 'max')
  const { text } = await one.generate(request)
  await one.dispose()
  const two = await isolated({ workers: 2 }, { journal })
  t.teardown(() => two.dispose())
  t.match(two.recovered, { models: [{ id: model, error: undefined }] })
  const both = await Promise.all([two.generate(request), two.generate(request)])
  t.same(
    both.map((own) => own.text),
    [text, text]
  )
})

t.test('disposed of while it is started again', async (t) => {
  const events: string[] = []
  let gone: Promise<void> | undefined
  const engine: Engine = await isolated(
    {},
    {
      onEvent: ({ event }: EngineEvent) => events.push(event),
      onPhase: () => {
        if (engine?.state === 'recovering') gone ??= engine.dispose()
      }
    }
  )
  await engine.loadModel()
  kill(engine)
  await until(() => engine.state === 'recovering')
  await t.rejects(engine.tokenize({ model, text: 'O' }), { code: 'ENGINE_DISPOSED' })
  await gone
  t.equal(engine.workers()[0]!.state, 'stopped')
  t.equal(events.filter((event) => event === 'worker_ready').length, 1)
})

t.test('a load that one worker has done is done again where that dies before the other', async (t) => {
  const engine = await isolated({ workers: 2, heartbeatTimeoutMs: 60_000 })
  t.teardown(() => engine.dispose())
  kill(engine, 1, 'SIGSTOP')
  const load = engine.loadModel()
  await until(() => engine.listModels().length > 0)
  // Comes after the answer to the load.
  await engine.tokenize({ model, text: 'O' })
  kill(engine)
  await back(engine)
  kill(engine, 1, 'SIGCONT')
  await load
  const [first, second] = await Promise.all([engine.generate(request), engine.generate(request)])
  t.equal(first.text, second.text)
})

t.test('cancelled between the start of a process and its first request', async (t) => {
  let cancelled: Promise<unknown> | undefined
  const engine: Engine = await isolated(
    {},
    {
      onPhase: () => {
        if (engine?.state === 'recovering') cancelled ??= generator.return()
      }
    }
  )
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  const mine = { ...request, requestId: 'mine' }
  const generator = engine.createGenerator(mine)
  await items(generator, 4)
  kill(engine)
  await back(engine)
  t.ok(cancelled)
  t.ok((await engine.generate(mine)).text, 'its id is free')
})

t.test('a model is unloaded while there is no process', async (t) => {
  const engine = await isolated({})
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  kill(engine)
  await until(() => engine.state === 'recovering')
  await engine.unloadModel(model)
  t.same(engine.listModels(), [])
  await t.rejects(engine.unloadModel(model), { code: 'MODEL_NOT_LOADED' })
})

t.test('a maintenance that cannot begin everywhere begins nowhere', async (t) => {
  const engine = await isolated({ workers: 2, onCrash: 'fail' })
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  const [ending, dying] = [engine.createGenerator({ ...request, maxTokens: 60 }), engine.createGenerator(request)]
  await Promise.all([ending.next(), dying.next()])
  const frozen = engine.freeze()
  kill(engine, 1)
  await t.rejects(items(dying), { code: 'WORKER_CRASHED' })
  await items(ending)
  await t.rejects(frozen, { code: 'WORKER_CRASHED' })
  t.equal(engine.state, 'active')
})

t.test('the last start is without the streams that were there at every death', async (t) => {
  const engine = await isolated({ maxRestarts: 2 })
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  const { text } = await engine.generate(request)
  const generator = engine.createGenerator(request)
  const begun = await items(generator, 20)
  kill(engine)
  begun.push(...(await items(generator, 60)))
  kill(engine)
  const rest = items(generator)
  await t.rejects(rest, { code: 'WORKER_CRASHED', details: { text: String, usage: { completionTokens: Number } } })
  await back(engine, 0, 2)
  t.ok(text.startsWith(texts(begun)))
  t.equal((await engine.generate(request)).text, text)
})

t.test('calls that change nothing are repeated where the channel broke', async (t) => {
  const errors: object[] = []
  const engine = await isolated(
    { restartDelayBaseMs: 500, onCrash: 'fail' },
    { onError: (error) => errors.push(error) }
  )
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  const expected = await engine.forward(whole)
  t.match(await lateForward(engine), { details: { timeout: 1, attempts: undefined } }, 'once')
  const again = engine.forward(whole)
  kill(engine, 0, 'SIGUSR2')
  t.same(await again, expected)
  const broken = {
    code: 'WORKER_PROTOCOL_ERROR',
    details: { reason: 'no frame where one should begin', exitCode: 137 }
  }
  t.match(
    errors.filter((error) => 'details' in error && (error.details as object) && 'worker' in (error.details as object)),
    [broken]
  )
})

t.test('paths are what they were, wherever the program works now', async (t) => {
  const here = process.cwd()
  const [there, elsewhere] = [join(folder, 'there'), join(folder, 'elsewhere')]
  mkdirSync(there)
  mkdirSync(elsewhere)
  copyFileSync(checkpoint, join(there, 'own.gguf'))
  t.teardown(() => process.chdir(here))
  const engine = await isolated({})
  t.teardown(() => engine.dispose())
  process.chdir(there)
  const { id } = await engine.loadModel({ model: 'own.gguf' })
  const { text } = await engine.generate({ ...request, model: id })
  process.chdir(elsewhere)
  kill(engine)
  await back(engine)
  t.equal((await engine.generate({ ...request, model: id })).text, text)
})

t.test('the circuit of an archive that cannot be reached stays open', async (t) => {
  const part = join(folder, 'part')
  await convertModel({ from: embedded, to: part, tiers })
  rmSync(join(part, 'experts/rare'), { recursive: true })
  const engine = await isolated({})
  t.teardown(() => engine.dispose())
  const breaker = { failureThreshold: 1, cooldownMs: 600_000 }
  const archive = { ...quick, url: 'http://127.0.0.1:9/', coldFolder: join(folder, 'cold'), breaker }
  await engine.loadModel({ model: part, id: archived.model, contextLength, archive })
  await t.rejects(engine.generate(archived))
  await t.rejects(engine.generate(archived), { code: 'CIRCUIT_BREAKER_OPEN' })
  kill(engine)
  await back(engine)
  await t.rejects(engine.generate(archived), { code: 'CIRCUIT_BREAKER_OPEN' })
})

const short = { ...request, maxTokens: 8 }
const notFrozen = { code: 'LIFECYCLE_INVALID_TRANSITION' }

t.test('what callers are at fault for costs no worker its requests', async (t) => {
  const engine = await isolated({})
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  for (let i = 0; i < 6; i++) await t.rejects(engine.thaw(), notFrozen)
  t.ok((await engine.generate(short)).text)
  for (let i = 0; i < 6; i++) t.match(await lateForward(engine), { code: 'INFERENCE_TIMEOUT' })
  t.ok((await engine.generate(short)).text)
})

t.test('a model that one worker could not load again is served by the other', async (t) => {
  const [path, id] = [join(folder, 'moved.gguf'), 'moved']
  copyFileSync(checkpoint, path)
  const engine = await isolated({ workers: 2 })
  t.teardown(() => engine.dispose())
  await engine.loadModel({ model: path, id })
  const { text } = await engine.generate({ ...short, model: id })
  const three = async () => {
    const all = await Promise.all([1, 2, 3].map(() => engine.generate({ ...short, model: id })))
    t.same(
      all.map((own) => own.text),
      [text, text, text]
    )
  }
  rmSync(path)
  kill(engine)
  await back(engine)
  await three()
  t.match(await engine.tokenize({ model: id, text: 'O' }), { tokens: [Number] })
  t.match(engine.listModels(), [{ id }])
  t.match(engine.placement(id), { layers: Number })
  copyFileSync(checkpoint, path)
  await engine.unloadModel(id)
  await engine.loadModel({ model: path, id })
  kill(engine, 1)
  await until(() => !isReady(engine, 1))
  await three()
})

t.test('a model that a resumed request brought back is asked of its worker', async (t) => {
  const options = { journal: { path: join(folder, 'demand'), syncMs: 0 } }
  const before = await isolated({ workers: 2 }, options)
  await before.loadModel()
  const { text } = await before.generate(short)
  const left = before.createGenerator({ ...request, requestId: 'left' })
  await items(left, 4)
  await before.dispose()
  const after = await isolated({ workers: 2 }, options)
  t.teardown(() => after.dispose())
  const resumed = await after.resumeGenerator({ requestId: 'left' })
  await items(resumed, 4)
  const both = await Promise.all([after.generate(short), after.generate(short)])
  t.same(
    both.map((own) => own.text),
    [text, text]
  )
  await resumed.return()
})

t.test('a message without what belongs in it', async (t) => {
  const codes: string[] = []
  const engine = await isolated({}, { onError: ({ code }) => codes.push(code) })
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  const { text } = await engine.generate(request)
  const generator = engine.createGenerator(request)
  const begun = await items(generator, 4)
  say(engine, { method: 'heartbeat' })
  t.equal(texts([...begun, ...(await items(generator))]), text)
  await back(engine)
  t.match(engine.workers(), [{ restarts: 1, lastCrash: { reason: 'killed' } }])
  t.same(codes, ['WORKER_PROTOCOL_ERROR'])
})

t.test('an engine of a worker that closed by itself', { timeout: 60_000 }, async (t) => {
  const states: string[] = []
  const engine = await isolated({}, { onTransition: ({ next }) => states.push(next) })
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  say(engine, { method: 'transition', params: { next: 'closed', reason: 'recovery failed' } })
  await back(engine)
  t.match(engine.workers(), [{ lastCrash: { reason: 'closed', signal: 'SIGKILL' } }])
  t.ok((await engine.generate(short)).text)
  t.same(states, ['warm', 'active', 'recovering', 'active'])
})

t.test('a shutdown ends what does not end', { timeout: 60_000 }, async (t) => {
  const silent = { heartbeatTimeoutMs: 2 ** 31 - 1 }
  const options = { timeouts: { cleanupMs: 100 } }
  const [stuck, still] = await Promise.all([isolated(silent, options), isolated(silent, options)])
  say(stuck, { method: 'transition', params: { next: 'recovering', reason: 'a step goes on' } })
  await until(() => stuck.state === 'recovering')
  kill(stuck, 0, 'SIGSTOP')
  await stuck.dispose()
  t.match(stuck.workers(), [{ pid: null, state: 'stopped', lastCrash: { reason: 'killed' } }])
  kill(still, 0, 'SIGSTOP')
  const gone = still.dispose({ drainMs: 2 ** 31 - 1 })
  await still.dispose({ drainMs: 0 })
  await gone
  t.match(still.workers(), [{ pid: null, state: 'stopped', lastCrash: { reason: 'killed' } }])
})

t.test('maintenance ends, whatever became of the workers', async (t) => {
  const path = join(folder, 'frozen.gguf')
  copyFileSync(checkpoint, path)
  const one = await isolated({})
  t.teardown(() => one.dispose())
  await one.loadModel({ model: path, id: model })
  await one.freeze()
  rmSync(path)
  kill(one)
  await back(one)
  t.throws(() => one.createGenerator(short), { code: 'ENGINE_FROZEN' })
  await one.thaw()
  await t.rejects(one.thaw(), notFrozen)
  await one.loadModel()
  t.ok((await one.generate(short)).text)

  const two = await isolated({ workers: 2, heartbeatTimeoutMs: 60_000 })
  t.teardown(() => two.dispose())
  await two.loadModel()
  await two.freeze()
  kill(two, 1, 'SIGSTOP')
  const thawed = two.thaw()
  kill(two, 1)
  await t.rejects(thawed, { code: 'WORKER_CRASHED' })
  await back(two, 1)
  await Promise.all([two.generate(short), two.generate(short)])
  await t.rejects(two.thaw(), notFrozen)
})

t.test('a request that begins the moment an engine serves again', async (t) => {
  let begun: Promise<{ text: string }> | undefined
  const engine: Engine = await isolated(
    {},
    {
      onTransition: ({ previous, next }) => {
        if (previous === 'recovering' && next === 'active') begun ??= engine.generate(short)
      }
    }
  )
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  const { text } = await engine.generate(short)
  kill(engine)
  await until(() => begun !== undefined)
  t.equal((await begun)!.text, text)
})

t.test('accepted() of a stream that its worker’s death ended', async (t) => {
  let accepted: Promise<unknown> | undefined
  const engine = await isolated(
    { onCrash: 'fail' },
    {
      onTransition: ({ next }) => {
        if (next === 'recovering') accepted ??= generator.accepted().catch((error) => error)
      }
    }
  )
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  const generator = engine.createGenerator(request)
  await generator.next()
  kill(engine)
  await t.rejects(items(generator), { code: 'WORKER_CRASHED' })
  t.match(await accepted, { code: 'WORKER_CRASHED' })
})
