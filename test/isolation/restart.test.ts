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

async function isolated(own: Partial<IsolationOptions>, options: EngineOptions = {}): Promise<Engine> {
  return createEngine({
    threads: 1,
    ...options,
    isolation: {
      mode: 'process',
      restartDelayBaseMs: 10,
      crashFolder: join(folder, 'crashes'),
      execArgv: ['--import', pathToFileURL(resolve('test/isolation/saboteur.mjs')).href],
      env: { REFUSALS },
      ...own
    }
  })
}

const pidOf = (engine: Engine, index = 0) => engine.workers()[index]!.pid!
const kill = (engine: Engine, index = 0, signal: NodeJS.Signals = 'SIGKILL') =>
  process.kill(pidOf(engine, index), signal)
const isReady = (engine: Engine, index = 0) => engine.workers()[index]!.state === 'ready'
/** Until it serves again after `restarts` restarts. */
const back = (engine: Engine, index = 0, restarts = 1) =>
  until(() => isReady(engine, index) && engine.workers()[index]!.restarts >= restarts)
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
  const whole = { model, tokens: new Int32Array(250).fill(3) }
  const expected = await engine.forward(whole)
  const late = { code: 'INFERENCE_TIMEOUT', details: { timeout: 1, attempts: undefined } }
  await t.rejects(engine.forward(whole, { timeoutMs: 1 }), late, 'once')
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
  copyFileSync('models/tiny-shakespeare-moe-q8_0.gguf', join(there, 'own.gguf'))
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
