import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import type { Engine, EngineEvent, GenerationRequest, IsolationOptions } from 'tiered-moe'
import { createEngine, isEngineError } from 'tiered-moe'

const model = 'tiny-shakespeare'
const folder = t.testdir()
const crashFolder = join(folder, 'crashes')
const sabotage = join(folder, 'sabotage')
const saboteur = pathToFileURL(resolve('test/isolation/saboteur.mjs')).href
const isolation: IsolationOptions = {
  mode: 'process',
  restartDelayBaseMs: 10,
  maxRestarts: 50,
  crashFolder,
  execArgv: ['--import', saboteur],
  env: { SABOTAGE: sabotage }
}

const events: EngineEvent[] = []
let engine: Engine
t.before(async () => {
  engine = await createEngine({
    threads: 2,
    isolation,
    timeouts: { cleanupMs: 500 },
    onEvent: (event) => events.push(event)
  })
  await engine.loadModel()
})
t.teardown(() => engine.dispose())

const worker = (of = engine) => of.workers()[0]!
const kill = (signal: NodeJS.Signals, of = engine) => process.kill(worker(of).pid!, signal)

/** Until it serves again. */
async function served(of = engine) {
  while (worker(of).state !== 'ready') await new Promise((next) => setTimeout(next, 5))
}

const requests = ['ROMEO:', 'First Citizen:\n', 'To be', 'O'].map(
  (prompt, i): GenerationRequest => ({
    model,
    prompt,
    maxTokens: 50 + 10 * i,
    temperature: i % 2,
    seed: i,
    ignoreEos: true,
    topLogprobs: i
  })
)

/** All items of a request; `at` is called with their count. */
async function items(request: GenerationRequest, at: (count: number) => void = () => {}, of = engine) {
  const all = []
  for await (const item of of.createGenerator({ ...request })) {
    all.push({ ...item, requestId: undefined })
    at(all.length)
  }
  return all
}

let undisturbed: Awaited<ReturnType<typeof items>>[]
t.test('streams go on with the same items', async (t) => {
  undisturbed = await Promise.all(requests.map((request) => items(request)))
  for (const [signal, exitCode, reason] of [
    ['SIGSEGV', 139, 'signal'],
    ['SIGABRT', 134, 'abort']
  ] as const) {
    let killed = false
    const all = await Promise.all(
      requests.map((request) =>
        items(request, (count) => {
          if (count !== 20 || killed) return
          killed = true
          kill(signal)
        })
      )
    )
    for (const [i, own] of all.entries()) t.same(own, undisturbed[i], `${signal}: request ${i}`)
    const { lastCrash, state } = worker()
    t.equal(state, 'ready')
    t.match(lastCrash, { exitCode, signal, reason, outOfMemory: false })
    const record = JSON.parse(readFileSync(lastCrash!.crashRecord!, 'utf8'))
    t.match(record, { worker: 0, pid: lastCrash!.pid, exitCode, signal, requests: [String, String, String, String] })
    t.notMatch(JSON.stringify(record), /Citizen/, 'no prompt is written down')
  }
  t.equal(worker().restarts, 2)
  t.ok(events.some(({ event }) => event === 'streams_resumed'))
})

t.test('at the beginning of a request, and between requests', async (t) => {
  const early = requests.map((request) => items(request))
  kill('SIGKILL')
  for (const [i, own] of (await Promise.all(early)).entries()) t.same(own, undisturbed[i], `request ${i}`)
  kill('SIGKILL')
  while (worker().state === 'ready') await new Promise((next) => setTimeout(next, 1))
  await t.rejects(engine.generate(requests[3]!), {
    code: 'SERVICE_UNAVAILABLE',
    details: { reason: 'workers', retryAfterSeconds: Number, resourceInfo: { limit: 1 } }
  })
  t.equal(engine.state, 'recovering')
  t.match(engine.listModels(), [{ id: model }], 'what is known is told meanwhile')
  // A call that is not a request waits for the next worker.
  t.match(await engine.tokenize({ model, text: 'O' }), { tokens: [Number] })
  t.equal(engine.state, 'active')
})

t.test('while a model is loaded', async (t) => {
  const load = () =>
    engine.loadModel({ id: 'second' }, { onProgress: () => kill('SIGSEGV') }).then(
      () => undefined,
      (error) => error
    )
  let error = await load()
  // The model is there within milliseconds: a death that came later than that is tried once more.
  for (let tries = 1; !error && tries < 50; tries++) {
    const { pid } = worker()
    while (worker().pid === pid) await new Promise((next) => setTimeout(next, 5))
    await served()
    await engine.unloadModel('second')
    error = await load()
  }
  t.match(error, {
    code: 'WORKER_CRASHED',
    retryable: true,
    httpStatus: 502,
    exitCode: 1,
    details: { exitCode: 139, signal: 'SIGSEGV', reason: 'signal', crashRecord: String }
  })
  await served()
  t.same(
    engine.listModels().map(({ id }) => id),
    [model]
  )
  await engine.loadModel({ id: 'second', kvType: 'f32' })
})

t.test('nonsense on the channel', async (t) => {
  let sent = false
  const own = await items(requests[1]!, (count) => {
    if (count === 20 && !sent) {
      sent = true
      kill('SIGUSR2')
    }
  })
  t.same(own, undisturbed[1])
  t.match(engine.listModels(), [{ id: model }, { id: 'second', kvType: 'f32' }], 'all models are there again')
  await engine.unloadModel('second')
  const died = events.filter(({ event }) => event === 'worker_died').at(-1)
  t.match(died, { fields: { code: 'WORKER_PROTOCOL_ERROR', reason: 'killed' } })
  const tokens = Array.from({ length: 200 }, (_, i) => i)
  const forward = () => engine.forward({ model, tokens, logits: 'last' })
  const logits = await forward()
  const again = forward()
  kill('SIGUSR2')
  t.same(await again, logits, 'a call that changes nothing is made again')
  t.match(events.filter(({ event }) => event === 'retry_backoff').at(-1), {
    level: 'warn',
    message: /; attempt 2 of 3 in 0\.1 s$/,
    fields: {
      method: 'forward',
      target: 'worker',
      attempt: 1,
      maxAttempts: 3,
      nextRetrySeconds: Number,
      schedule: [0.1, 0.2, 0.4]
    }
  })
})

t.test('aborts, deadlines, and a consumer that leaves', async (t) => {
  const abort = new AbortController()
  const generator = engine.createGenerator(requests[1]!, { signal: abort.signal })
  const got = [await generator.next(), await generator.next()].map(({ value }) => value!.token)
  abort.abort('enough')
  let error: unknown
  try {
    for await (const item of generator) got.push(item.token)
  } catch (caught) {
    error = caught
  }
  t.match(error, { code: 'CANCELLED', name: 'AbortError', cause: 'enough' })
  const { tokens, usage } = (error as { details: { tokens: number[]; usage: object } }).details
  t.same(got, tokens, 'everything up to then was handed out')
  t.match(usage, { promptTokens: Number, completionTokens: tokens.length })
  await t.rejects(engine.generate(requests[1]!, { timeoutMs: 1 }), {
    code: 'INFERENCE_TIMEOUT',
    details: { timeout: 1, deadline: 'request', text: String }
  })
  for await (const item of engine.createGenerator({ ...requests[0]!, requestId: 'again' })) if (item.token) break
  t.ok((await engine.generate({ ...requests[0]!, requestId: 'again', maxTokens: 3 })).text, 'its id is free again')
  t.equal(worker().streams, 0)
  await t.rejects(engine.generate(requests[0]!, { signal: AbortSignal.abort() }), { code: 'CANCELLED' })
  const loading = new AbortController()
  const load = engine.loadModel({ id: 'third' }, { signal: loading.signal, onProgress: () => loading.abort('no') })
  // Loaded in a few milliseconds, it may be there before the abort is.
  const ended = await load.catch((error: unknown) => error)
  if (ended && typeof ended === 'object' && 'descriptor' in ended) await engine.unloadModel('third')
  else t.match(ended, { code: 'CANCELLED', cause: 'no' })
  const throwing = engine.loadModel({ id: 'third' }, { onProgress: () => raise('mine') })
  await t.rejects(throwing, { message: 'mine' })
  t.notOk(engine.listModels().some(({ id }) => id === 'third'))
})

const raise = (message: string): never => {
  throw new RangeError(message)
}

t.test('what does not end is ended with its process', async (t) => {
  const abort = new AbortController()
  const { restarts } = worker()
  const generator = engine.createGenerator({ ...requests[0]!, maxTokens: 250 }, { signal: abort.signal })
  await generator.next()
  kill('SIGSTOP')
  abort.abort()
  const rest = (async () => {
    for await (const _ of generator);
  })()
  await t.rejects(rest, { code: 'CANCELLED' })
  await served()
  t.match(worker(), { restarts: restarts + 1, lastCrash: { reason: 'killed', exitCode: 137 } })
})

t.test('no sign of life; partial text; given up in the end', async (t) => {
  const states: string[] = []
  const own = await createEngine({
    threads: 1,
    onTransition: ({ next }) => states.push(next),
    isolation: { ...isolation, onCrash: 'fail', maxRestarts: 2, heartbeatMs: 20, heartbeatTimeoutMs: 2000 }
  })
  t.teardown(() => own.dispose())
  await own.loadModel()
  await own.pinExperts(model, [{ layer: 0, expert: 1 }])
  await own.activateTierSet(model, 'max')
  let text = ''
  const stopped = (async () => {
    let count = 0
    for await (const item of own.createGenerator({ ...requests[0]!, maxTokens: 240 })) {
      text += item.text
      if (++count === 5) kill('SIGSTOP', own)
    }
  })()
  const error = await stopped.then(
    () => undefined,
    (caught) => caught
  )
  t.match(error, {
    code: 'WORKER_CRASHED',
    details: { reason: 'unresponsive', exitCode: 137, usage: { promptTokens: Number }, requestId: String }
  })
  t.equal(error.details.text, text, 'with what had come')
  t.equal(error.details.tokens.length, error.details.usage.completionTokens)
  await served(own)
  t.equal((await own.generate({ ...requests[0]!, maxTokens: 99 })).text.length > 0, true, 'its model is there again')

  writeFileSync(sabotage, 'exit')
  kill('SIGKILL', own)
  while (worker(own).state !== 'failed') await new Promise((next) => setTimeout(next, 10))
  rmSync(sabotage)
  const exhausted = {
    code: 'WORKER_RESTARTS_EXHAUSTED',
    severity: 'fatal',
    details: { attempts: 2, lastExitCode: 7, crashRecord: String }
  }
  await t.rejects(own.generate(requests[0]!), exhausted)
  await t.rejects(own.loadModel({ id: 'more' }), exhausted)
  t.equal(own.state, 'closed')
  const life = ['warm', 'active', 'recovering', 'active', 'recovering', 'closed']
  t.same(states, life)
})

t.test('processes that do not come up', async (t) => {
  t.teardown(() => rmSync(sabotage, { force: true }))
  writeFileSync(sabotage, 'exit')
  const crashed = await createEngine({ isolation }).then(
    () => undefined,
    (error) => error
  )
  t.ok(isEngineError(crashed))
  t.match(crashed, {
    code: 'WORKER_INIT_CRASHED',
    details: { exitCode: 7, signal: null, crashRecord: String, stderr: ['the saboteur was here'] }
  })
  writeFileSync(sabotage, 'hang')
  await t.rejects(createEngine({ isolation: { ...isolation, startTimeoutMs: 100 } }), {
    code: 'WORKER_START_TIMEOUT',
    exitCode: 124,
    details: { timeout: 100, duration: Number, pid: Number }
  })
  await t.rejects(createEngine({ isolation }, { signal: AbortSignal.timeout(100) }), { code: 'CANCELLED' })
  rmSync(sabotage)
  const { execPath } = process
  t.teardown(() => {
    process.execPath = execPath
  })
  process.execPath = join(folder, 'absent')
  await t.rejects(createEngine({ isolation }), {
    code: 'WORKER_BINARY_NOT_FOUND',
    details: { path: process.execPath }
  })
  process.execPath = resolve('package.json')
  await t.rejects(createEngine({ isolation }), { code: 'WORKER_SPAWN_FAILED', details: { errno: 'EACCES' } })
  process.execPath = execPath
  const told: string[] = []
  const refused = createEngine({
    isolation: { ...isolation, crashFolder: join(folder, 'none') },
    isa: 'neon',
    onError: ({ code }) => told.push(code),
    onEvent: ({ event }) => told.push(event)
  })
  await t.rejects(refused, { code: 'ISA_UNSUPPORTED' }, "the engine's own refusals")
  t.same(
    told.filter((own) => own === 'worker_died' || own.startsWith('WORKER_')),
    [],
    'which are no crashes'
  )
  t.notOk(existsSync(join(folder, 'none')))
  await t.rejects(createEngine({ isolation: 'thread' as 'process' }), {
    code: 'VALIDATION_ERROR',
    details: { path: 'isolation', found: '"thread"' }
  })
  await t.rejects(createEngine({ isolation: { mode: 'process', workers: 0 } }), {
    code: 'VALIDATION_ERROR',
    details: { path: 'workers' }
  })
})

t.test('an engine that cannot begin leaves nothing', async (t) => {
  const { TMPDIR } = process.env
  t.teardown(() => {
    if (TMPDIR === undefined) delete process.env.TMPDIR
    else process.env.TMPDIR = TMPDIR
  })
  process.env.TMPDIR = t.testdir()
  let made = false
  const timeouts = {
    get cleanupMs(): number {
      made ||= readdirSync(tmpdir()).length > 0
      return made ? raise('no more') : 1
    }
  }
  await t.rejects(createEngine({ isolation, timeouts }), { code: 'VALIDATION_ERROR' })
  t.ok(made)
  t.same(readdirSync(tmpdir()), [])
})

const skip = process.getuid?.() !== 0 && 'only root can be another user'
t.test('a user whom the system does not know has crash records too', { skip }, async (t) => {
  const script = `
    import { defaultCrashFolder } from './dist/esm/isolation/crash-record.js'
    console.log(defaultCrashFolder())`
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    uid: 12345,
    env: { ...process.env, NODE_OPTIONS: '' },
    encoding: 'utf8'
  })
  t.match(stdout, /tiered-moe-crashes-12345$/m)
})
