import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, rmdirSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Engine, GenerationRequest, IsolationOptions, MetricFamily } from 'tiered-moe'
import { createEngine } from 'tiered-moe'
import { items } from '../engine/items.js'
import { until } from './until.js'

const model = 'tiny-shakespeare'
const folder = t.testdir()
const isolation: IsolationOptions = {
  mode: 'process',
  restartDelayBaseMs: 10,
  crashFolder: join(folder, 'crashes'),
  streams: { maxActive: 3 }
}
const request: GenerationRequest = { model, prompt: 'ROMEO:', maxTokens: 60, temperature: 0, ignoreEos: true }
const isThere = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
const textOf = async (engine: Engine, own = request) => (await engine.generate(own)).text
// Engines of other tests clean up behind those that died.
process.env.TMPDIR = t.testdir()
const temporary = () => readdirSync(tmpdir()).filter((name) => name.startsWith('tiered-moe-workers-'))

let left: string[] = []
async function host(order: 'end' | 'wait'): Promise<{ child: ChildProcess; pid: number; exit: Promise<unknown[]> }> {
  const child = spawn(process.execPath, ['test/isolation/host.mjs', order], { stdio: ['ignore', 'pipe', 'inherit'] })
  const exit = once(child, 'exit')
  const [line] = await once(child.stdout!, 'data')
  return { child, pid: JSON.parse(String(line)).pid, exit }
}

t.test('a program ends by itself, and leaves no orphan when it is killed', async (t) => {
  const before = temporary()
  const [ended, killed] = await Promise.all([host('end'), host('wait')])
  t.same(await ended.exit, [0, null])
  killed.child.kill('SIGKILL')
  await until(() => !isThere(ended.pid) && !isThere(killed.pid))
  left = temporary().filter((name) => !before.includes(name))
  t.equal(left.length, 1, 'the one that was killed could not clean up')
})

t.test('two workers', async (t) => {
  const dead = join(tmpdir(), 'tiered-moe-workers-of-the-dead')
  mkdirSync(dead)
  writeFileSync(join(dead, 'lock'), '{"pid":1,"at":1}\n')
  const empty = join(tmpdir(), 'tiered-moe-workers-of-nobody')
  mkdirSync(empty)
  utimesSync(empty, 1, 1)
  const engine = await createEngine({ isolation: { ...isolation, workers: 2 }, memory: '1GiB' })
  t.teardown(() => engine.dispose())
  for (const name of [dead, empty, ...left.map((own) => join(tmpdir(), own))])
    t.notOk(existsSync(name), 'what dead engines left is gone')
  const own = temporary()
  await engine.loadModel()
  const text = await textOf(engine)
  const [first, second] = engine.workers()
  t.not(first!.pid, second!.pid)
  t.match(engine.workers(), [
    { index: 0, state: 'ready' },
    { index: 1, state: 'ready' }
  ])

  // Each has a prefix cache of its own, and what they keep is one sum.
  const idle = () => engine.listModels()[0]!.idlePrefixBytes
  const before = idle()
  const long = { ...request, prompt: 'First Citizen:\n'.repeat(30), maxTokens: 2 }
  const [{ usage }] = await Promise.all([engine.generate(long), engine.generate(long)])
  const shared = Math.floor((usage.promptTokens - 1) / 64) * 64
  t.ok(shared >= 64, `${usage.promptTokens} tokens`)
  await until(() => idle() - before === 2 * shared * engine.listModels()[0]!.kvBytesPerToken)
  t.equal((await engine.generate(long)).usage.cachedTokens, shared)
  t.match(engine.modelStats(model).prefixCache, { limitBytes: 2 ** 28, misses: 1 })

  const generators = Array.from({ length: 6 }, () => engine.createGenerator(request))
  for (const generator of generators) await generator.next()
  t.same(
    engine.workers().map(({ streams }) => streams),
    [3, 3],
    'the least busy one gets the next'
  )
  await t.rejects(engine.generate(request), {
    code: 'SERVICE_UNAVAILABLE',
    httpStatus: 503,
    details: { reason: 'streams', current: 6, limit: 6, retryAfterSeconds: 30, resourceInfo: { unit: 'streams' } }
  })
  process.kill(first!.pid!, 'SIGKILL')
  const rest = await Promise.all(generators.map((generator) => items(generator)))
  for (const all of rest)
    t.equal(
      all.map((item) => item.text).join(''),
      text.slice(text.length - all.map((item) => item.text).join('').length)
    )
  t.match(engine.workers(), [{ restarts: 1 }, { restarts: 0, pid: second!.pid }])
  t.equal(engine.state, 'active', 'one worker was always there')

  process.kill(second!.pid!, 'SIGKILL')
  await until(() => engine.workers()[1]!.state !== 'ready')
  t.equal(await textOf(engine), text, 'the other one serves')
  await t.rejects(engine.swapExperts(model, [{ layer: 0, expert: 0, from: { layer: 0, expert: 1 } }] as never), {
    code: 'VALIDATION_ERROR',
    details: { path: 'isolation.workers' }
  })
  const families = engine.metrics()
  const samples = (name: string) => families.find((family: MetricFamily) => family.name === name)!.samples
  t.match(samples('tiered_moe_worker_restarts_total'), [{ labels: { worker: '0' }, value: 1 }])
  t.same([...new Set(samples('tiered_moe_requests_total').map(({ labels }) => labels.worker))].sort(), ['0', '1'])
  await t.rejects(engine.loadModel({ model: join(folder, 'absent.gguf') }), { code: 'MODEL_NOT_FOUND' })
  await engine.unloadModel(model)
  t.throws(() => engine.createGenerator(request), { code: 'MODEL_NOT_LOADED', details: { loaded: [] } })
  const pids = engine.workers().map(({ pid }) => pid!)
  await engine.dispose()
  t.equal(engine.state, 'closed')
  t.notOk(pids.some(isThere), 'no process is left')
  t.equal(own.filter((name) => existsSync(join(tmpdir(), name))).length, own.length - 1, 'nor its folder')
  t.throws(() => engine.createGenerator(request), { code: 'ENGINE_DISPOSED' })
})

t.test('what it says is what an engine of this process says', async (t) => {
  const hooks: string[] = []
  const [near, far] = await Promise.all([
    createEngine({ threads: 1 }),
    createEngine({
      threads: 1,
      isolation,
      onPhase: ({ phase }) => hooks.push(phase),
      onError: ({ code }) => hooks.push(code),
      logger: { debug() {}, info: (fields) => hooks.push((fields as { event: string }).event), warn() {}, error() {} }
    })
  ])
  t.teardown(() => Promise.all([near.dispose(), far.dispose()]))
  const both = [near, far] as const
  for (const engine of both) {
    await engine.loadModel()
    await engine.pinExperts(model, [{ layer: 1, expert: 2 }])
    await engine.generate({ ...request, requestId: 'one' })
  }
  await until(() => far.modelStats(model).activeSequences === 0 && hooks.includes('request_finished'))
  const seen = both.map((engine) => ({
    models: engine.listModels(),
    use: engine.modelStats(model),
    placement: { ...engine.placement(model), expert: engine.placement(model).expert(1, 2) },
    backend: engine.backend,
    seed: engine.routingSeed,
    recovered: engine.recovered.requests,
    state: engine.state,
    text: engine.metrics().find(({ name }) => name === 'tiered_moe_completion_tokens_total')
  }))
  t.strictSame(seen[1], seen[0])
  t.ok(far.counters().liveBytes > 1e6)
  t.throws(() => far.placement(model).expert(0, 99), { code: 'VALIDATION_ERROR' })
  t.throws(() => far.modelStats('absent'), { code: 'MODEL_NOT_LOADED' })
  t.throws(() => far.expertTrace(model), { code: 'VALIDATION_ERROR', details: { path: 'isolation' } })
  t.ok(
    ['configuration', 'model', 'request_finished'].every((name) => hooks.includes(name)),
    `${hooks}`
  )
  await t.rejects(far.detokenize({ model, tokens: [99999] }), { code: 'VALIDATION_ERROR' })
  await t.rejects(far.acknowledgeRequest({ requestId: 'one' }), { code: 'REQUEST_NOT_FOUND' })
  t.same(
    hooks.filter((name) => name.startsWith('VALIDATION')),
    ['VALIDATION_ERROR', 'VALIDATION_ERROR'].slice(0, hooks.filter((name) => name.startsWith('VALIDATION')).length)
  )
  t.equal(hooks.filter((name) => name === 'VALIDATION_ERROR').length, 1, 'a rejection is told once')
  t.equal(hooks.filter((name) => name === 'REQUEST_NOT_FOUND').length, 1)

  const routed = { model, tokens: [1, 2, 3], captureRouting: true as const }
  const [a, b] = await Promise.all(both.map((engine) => engine.forward(routed)))
  t.strictSame(b, a, 'arrays come whole')
  const capture = { ...request, maxTokens: 4, captureRouting: true, logits: true }
  const [c, d] = await Promise.all(both.map((engine) => items(engine.createGenerator(capture))))
  t.strictSame(
    d!.slice(0, -1),
    c!.slice(0, -1).map((item) => ({ ...item, routing: item.routing }))
  )
  const [e, f] = await Promise.all(both.map((engine) => engine.perplexity({ model, text: 'To be, or not to be' })))
  t.strictSame(f, e)

  const running = far.createGenerator({ ...request, requestId: 'two' })
  await running.next()
  await t.rejects(far.generate({ ...request, requestId: 'two' }), {
    code: 'REQUEST_ALREADY_EXISTS',
    details: { running: true }
  })
  const frozen = far.freeze({ retryAfterSeconds: 3 })
  t.throws(() => far.createGenerator(request), { code: 'ENGINE_FROZEN', details: { retryAfterSeconds: 3 } })
  t.equal((await items(running)).at(-1)!.finishReason, 'length', 'what has begun goes on')
  await frozen
  t.equal(far.state, 'frozen')
  process.kill(far.workers()[0]!.pid!, 'SIGKILL')
  await until(() => far.state === 'recovering')
  await until(() => far.state === 'frozen')
  await far.thaw()
  t.equal(far.state, 'active')
  const drained = far.createGenerator(request)
  await drained.next()
  const gone = far.dispose()
  t.equal(far.state, 'draining')
  await t.rejects(items(drained), {
    code: 'ENGINE_DISPOSED',
    details: { text: String, usage: { promptTokens: Number } }
  })
  await gone
  await far.dispose()
})

const groups = '/sys/fs/cgroup/memory'
const own = join(groups, `tiered-moe-test.${process.pid}`)
const canGroup = (() => {
  try {
    mkdirSync(own)
    return existsSync(join(own, 'memory.limit_in_bytes'))
  } catch {
    return false
  }
})()
t.test('with a journal requests outlive the engine', async (t) => {
  const journal = join(folder, 'journal')
  const options = { threads: 1, isolation, journal: { path: journal, syncMs: 0, recover: 'load' as const } }
  // More than a worker computes ahead of whoever reads.
  const long = { ...request, maxTokens: 200 }
  const before = await createEngine(options)
  await before.loadModel()
  const text = await textOf(before, long)
  const left = before.createGenerator({ ...long, requestId: 'left' })
  await left.accepted()
  const begun = await items(left, 40)
  process.kill(before.workers()[0]!.pid!, 'SIGKILL')
  begun.push(...(await items(left, 10)))
  await before.dispose()
  const after = await createEngine(options)
  t.teardown(() => after.dispose())
  t.match(after.recovered, {
    requests: [{ state: 'finished' }, { requestId: 'left', state: 'running' }],
    models: [{ id: model }]
  })
  t.match(after.listModels(), [{ id: model }])
  const resumed = await after.resumeGenerator({ requestId: 'left', from: 50 })
  t.equal((await resumed.next()).value?.usage, undefined)
  const taken = await after.resumeGenerator({ requestId: 'left', from: 50 })
  const rest = await items(taken)
  await t.rejects(items(resumed), { code: 'CANCELLED' })
  t.equal([...begun, ...rest].map((item) => item.text).join(''), text)
  await after.acknowledgeRequest({ requestId: 'left' })
  await t.rejects(after.resumeGenerator({ requestId: 'left' }), { code: 'REQUEST_NOT_FOUND' })

  await t.test('killed by the kernel for its memory', { skip: !canGroup && 'no memory control group' }, async (t) => {
    const { pid } = after.workers()[0]!
    writeFileSync(join(own, 'memory.limit_in_bytes'), String(2 * 2 ** 20))
    writeFileSync(join(own, 'cgroup.procs'), String(pid))
    await t.rejects(after.loadModel({ id: 'more' }), { code: 'RESOURCE_MEMORY_EXHAUSTED' }, 'a load asks before')
    let error: unknown
    while (error === undefined) {
      error = await after.forward({ model, tokens: new Int32Array(200).fill(3), logits: 'all' }).then(
        () => undefined,
        (caught) => caught
      )
    }
    t.match(error, {
      code: 'WORKER_OUT_OF_MEMORY',
      exitCode: 137,
      details: { pid, exitCode: 137, signal: 'SIGKILL', reason: 'signal', alternatives: [] }
    })
    await until(() => after.workers()[0]!.state === 'ready')
    t.equal(await textOf(after, long), text, 'and it serves again')
    rmdirSync(own)
  })
})
