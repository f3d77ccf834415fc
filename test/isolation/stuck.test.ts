/** Steps that get nowhere in a worker: the kernel freezes its compute threads. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import type { Engine, EngineEvent, IsolationOptions } from 'tiered-moe'
import { createEngine } from 'tiered-moe'
import { items } from '../engine/items.js'
import { until } from './until.js'

const model = 'tiny-shakespeare'
const request = { model, prompt: 'ROMEO:', maxTokens: 120, temperature: 0, ignoreEos: true }
const folder = t.testdir()
const THREADS = join(folder, 'threads')

const group = `/sys/fs/cgroup/freezer/tiered-moe-test.${process.pid}`
const canFreeze = (() => {
  try {
    mkdirSync(group)
    return existsSync(join(group, 'freezer.state'))
  } catch {
    return false
  }
})()
const thaw = () => writeFileSync(join(group, 'freezer.state'), 'THAWED')
t.teardown(() => {
  if (!canFreeze) return
  thaw()
  rmdirSync(group)
})
const skip = !canFreeze && 'no freezer control group (root, version 1)'

/** The threads of a worker's engine stand still. */
async function freeze(pid: number) {
  const others = readFileSync(`${THREADS}.${pid}`, 'utf8').split('\n')
  const own = readdirSync(`/proc/${pid}/task`).filter((thread) => !others.includes(thread))
  const sleeps = (thread: string) => / S /.test(readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8'))
  // Not while one has a lock that the JavaScript thread wants: it is as far ahead as it may be, and waits.
  let looks = 0
  await until(() => {
    looks = own.every(sleeps) ? looks + 1 : 0
    return looks >= 20
  })
  for (const thread of own) writeFileSync(join(group, 'tasks'), thread)
  writeFileSync(join(group, 'freezer.state'), 'FROZEN')
  // Where nobody is told of it, the test fails, and leaves nothing that cannot be killed.
  setTimeout(thaw, 20_000).unref()
}

async function isolated(own: Partial<IsolationOptions>, onEvent: (event: EngineEvent) => void = () => {}) {
  const engine = await createEngine({
    threads: 2,
    guards: { stepMs: 1000 },
    onEvent,
    isolation: {
      mode: 'process',
      restartDelayBaseMs: 10,
      heartbeatTimeoutMs: 60_000,
      crashFolder: join(folder, 'crashes'),
      execArgv: ['--import', pathToFileURL(resolve('test/isolation/saboteur.mjs')).href],
      env: { THREADS },
      ...own
    }
  })
  await engine.loadModel()
  return engine
}

/** A generation whose next step gets nowhere; what it gives in the end. */
async function frozen(engine: Engine) {
  const generator = engine.createGenerator(request)
  const begun = await items(generator, 4)
  await freeze(engine.workers()[0]!.pid!)
  const rest = items(generator)
  const ended = rest.then(
    (more) => [...begun, ...more],
    (error) => error
  )
  return { begun, ended }
}

// A task that is frozen cannot be killed (version 1): by then it has been.
const thawOnceTold = ({ event }: EngineEvent) => event === 'step_stuck' && thaw()

t.test('its worker is replaced, and the stream goes on', { skip }, async (t) => {
  const engine = await isolated({}, thawOnceTold)
  t.teardown(() => engine.dispose())
  const whole = await items(engine.createGenerator(request))
  const { ended } = await frozen(engine)
  const call = engine.forward({ model, tokens: [1, 2, 3] })
  const stuck = { code: 'RUNTIME_STEP_STUCK', details: { model, limitMs: 1000 } }
  await t.rejects(call, stuck, 'a call is not repeated')
  const texts = (all: typeof whole) => all.map(({ text }) => text)
  t.same(texts(await ended), texts(whole))
  const [{ restarts, lastCrash }] = engine.workers() as [ReturnType<Engine['workers']>[0]]
  t.ok(restarts >= 1)
  t.match(lastCrash, { reason: 'stuck', signal: 'SIGKILL', exitCode: 137, outOfMemory: false })
  const record = JSON.parse(readFileSync(lastCrash!.crashRecord!, 'utf8'))
  t.match(record, { reason: 'stuck', fault: /a step of tiny-shakespeare got nowhere for \d+ ms/, requests: [String] })
})

t.test('its stream ends with that, and its text', { skip }, async (t) => {
  let refused: Promise<unknown> | undefined
  const engine: Engine = await isolated({ onCrash: 'fail' }, (event) => {
    if (event.event === 'step_stuck') refused ??= engine.generate(request).catch((error) => error)
    thawOnceTold(event)
  })
  t.teardown(() => engine.dispose())
  const { begun, ended } = await frozen(engine)
  const error = await ended
  t.match(error, {
    code: 'RUNTIME_STEP_STUCK',
    httpStatus: 504,
    details: { worker: 0, reason: 'stuck', exitCode: 137, crashRecord: String, elapsedMs: Number }
  })
  t.match(await refused, { code: 'SERVICE_UNAVAILABLE', details: { reason: 'workers' } }, 'nothing is given to it')
  t.ok(error.details.text.startsWith(begun.map(({ text }) => text).join('')))
  await until(() => engine.workers()[0]!.state === 'ready')
  t.ok((await engine.generate(request)).text)
})

t.test('waited for: the other worker serves meanwhile', { skip }, async (t) => {
  const engine = await isolated({ onStuckStep: 'wait', workers: 2 })
  t.teardown(async () => {
    thaw()
    await engine.dispose()
  })
  const { ended } = await frozen(engine)
  t.match(await ended, { code: 'RUNTIME_STEP_STUCK', details: { crashRecord: undefined } })
  t.equal(engine.state, 'active')
  t.ok((await engine.generate(request)).text)
  t.match(engine.workers(), [
    { restarts: 0, lastCrash: null },
    { restarts: 0, lastCrash: null }
  ])
  thaw()
})
