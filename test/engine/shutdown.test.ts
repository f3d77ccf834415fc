import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { EngineError } from 'tiered-moe'
import { createEngine, verifyAuditLog } from 'tiered-moe'
import { boot } from '../../lib/engine/boot.js'
import { LocalEngine } from '../../lib/engine/local-engine.js'
import { createError } from '../../lib/errors/index.js'

const model = 'tiny-shakespeare'
const request = { model, prompt: 'ROMEO:', temperature: 0, maxTokens: 40, ignoreEos: true }

const recordsOf = (path: string): { event: string; data: Record<string, unknown> }[] =>
  readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))

t.test('the order of a shutdown, from the audit log', async (t) => {
  const audit = join(t.testdir(), 'audit')
  const order: string[] = []
  const parts = await boot({ threads: 2, audit, onError: ({ code }) => order.push(code) }, {})
  const engine = new LocalEngine(parts)
  parts.hooks.flush.push(
    async () => {
      order.push('flush')
      throw createError('FILE_WRITE_FAILED', 'made by the test')
    },
    async () => void order.push('flush too')
  )
  parts.hooks.release.push(async () => void order.push('release'))
  await engine.loadModel()
  const running = engine.generate(request).then(({ tokens }) => order.push(`ended with ${tokens.length}`))
  const loading = engine.loadModel({ id: 'second' }).catch((error: EngineError) => order.push(error.code))
  await engine.dispose({ drainMs: 60_000 })
  await Promise.all([running, loading])
  t.same(order, [
    'ENGINE_DISPOSED',
    'ENGINE_DISPOSED',
    'ended with 40',
    'flush',
    'FILE_WRITE_FAILED',
    'flush too',
    'release'
  ])
  const records = recordsOf(audit)
  const told = records.map(({ event, data }) =>
    [event, data.step ?? data.to ?? data.code ?? data.model ?? ''].join(' ')
  )
  t.same(told, [
    'run_started ',
    'routing_seed ',
    'engine_state warm',
    `model_loaded ${model}`,
    'engine_state active',
    'engine_state draining',
    'shutdown_step quiesce',
    'error ENGINE_DISPOSED',
    'shutdown_step drain',
    'error FILE_WRITE_FAILED',
    'shutdown_step flush',
    'shutdown_step persist',
    'shutdown_step release',
    'engine_state closed',
    'run_closed '
  ])
  t.match(await verifyAuditLog(audit), { closed: true, runs: 1 })
})

t.test('the same work has the same audit log', async (t) => {
  const dir = t.testdir()
  const hashes = []
  for (const threads of [1, 2]) {
    const audit = join(dir, `audit-${threads}`)
    const engine = await createEngine({ threads, audit })
    await engine.loadModel()
    await engine.generate(request)
    await engine.generate({ ...request, model: 'none' }).catch(() => {})
    await engine.generate(request, { timeoutMs: 0.001 }).catch(() => {})
    await engine.unloadModel(model)
    await engine.dispose()
    hashes.push((await verifyAuditLog(audit)).hash)
  }
  t.equal(hashes[0], hashes[1])
})

t.test('after the deadline, or when forced: a typed error with the text up to then', async (t) => {
  for (const forced of [false, true]) {
    const engine = await createEngine({ threads: 2, drainMs: forced ? 60_000 : 30 })
    await engine.loadModel()
    const idle = engine.createGenerator(request)
    await idle.next()
    const done = engine.dispose()
    t.equal(engine.state, 'draining')
    t.throws(() => engine.createGenerator(request), { code: 'ENGINE_DISPOSED' })
    if (forced) t.equal(engine.dispose({ drainMs: 0 }), done)
    await done
    const error = await idle.next().catch((error: EngineError) => error)
    t.match(error, { code: 'ENGINE_DISPOSED', details: { usage: { promptTokens: Number }, text: String } })
    t.ok((error as EngineError & { details: { tokens: number[] } }).details.tokens.length >= 1)
    t.equal(engine.state, 'closed')
  }
})

t.test('a consumer that is slow to take its last item is waited for', async (t) => {
  const engine = await createEngine({ threads: 2 })
  await engine.loadModel()
  const slow = engine.createGenerator({ ...request, maxTokens: 2 })
  await slow.next()
  while ((engine.listModels()[0]?.activeSequences ?? 0) > 0) await new Promise((resolve) => setTimeout(resolve, 5))
  let disposed = false
  const done = engine.dispose({ drainMs: 60_000 }).then(() => {
    disposed = true
  })
  await new Promise((resolve) => setTimeout(resolve, 20))
  t.notOk(disposed, 'computed, but not taken')
  t.match((await slow.next()).value, { token: Number })
  t.match((await slow.next()).value, { finishReason: 'length' })
  await done
  await t.rejects(engine.dispose({ drainMs: Number.NaN }), { code: 'VALIDATION_ERROR' })
})

interface Ended {
  code: number | null
  lines: string[][]
}

/** A child under load, sent `signals` one after another once it is ready. */
function underLoad(drainMs: number, maxTokens: number, signals: NodeJS.Signals[], audit = ''): Promise<Ended> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['bench/shutdown-child.mjs', `${drainMs}`, '6', `${maxTokens}`, audit])
    let output = ''
    let errors = ''
    let sent = 0
    child.stderr.on('data', (chunk) => {
      errors += chunk
    })
    child.stdout.on('data', (chunk) => {
      output += chunk
      if (sent === 0 && output.includes('ready\n')) child.kill(signals[sent++])
      else if (sent === 1 && signals[1] && output.includes('draining')) child.kill(signals[sent++])
    })
    child.on('close', (code) => {
      const lines = output.trimEnd().split('\n')
      resolve({ code, lines: [...lines, ...errors.split('\n')].map((line) => line.split(' ')) })
    })
  })
}

const idsOf = ({ lines }: Ended, ...words: string[]): string[] =>
  lines.flatMap(([word, id]) => (words.includes(word!) ? [id!] : [])).sort()

t.test('SIGTERM and SIGINT under load: every accepted request ends', async (t) => {
  const audit = join(t.testdir(), 'audit')
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    const ended = await underLoad(60_000, 60, [signal], audit)
    t.equal(ended.code, 0, JSON.stringify(ended.lines.slice(-3)))
    const accepted = idsOf(ended, 'accepted')
    t.ok(accepted.length >= 6)
    t.same(idsOf(ended, 'finished'), accepted, 'the drain was long enough for all')
    t.equal(idsOf(ended, 'refused').length, 6, 'nothing new was taken')
    const records = recordsOf(audit)
    t.match(records.find(({ event }) => event === 'signal_received')?.data, { signal: 'SIGTERM' })
    t.match(await verifyAuditLog(audit), { closed: true })
  }
})

t.test('a drain that is too short: typed errors with what there was', async (t) => {
  const ended = await underLoad(1, 250, ['SIGTERM'])
  t.equal(ended.code, 0, JSON.stringify(ended.lines.slice(-3)))
  const accepted = idsOf(ended, 'accepted')
  t.same(idsOf(ended, 'finished', 'failed'), accepted)
  for (const [, , code, tokens] of ended.lines.filter(([word]) => word === 'failed')) {
    t.equal(code, 'ENGINE_DISPOSED')
    t.ok(Number(tokens) > 0)
  }
})

t.test('a second signal ends it at once', async (t) => {
  for (const [signal, exit] of [
    ['SIGINT', 130],
    ['SIGTERM', 143]
  ] as const) {
    let ended = await underLoad(600_000, 250, ['SIGTERM', signal])
    // Drained before the second signal came, as the first alone has it: once more.
    for (let late = 0; ended.code === 0 && late < 10; late++) {
      t.same(idsOf(ended, 'finished'), idsOf(ended, 'accepted'))
      ended = await underLoad(600_000, 250, ['SIGTERM', signal])
    }
    t.equal(ended.code, exit)
    t.ok(idsOf(ended, 'finished', 'failed').length < idsOf(ended, 'accepted').length, 'nobody waited')
  }
})
