import { join } from 'node:path'
import t from 'tap'
import type { EngineEvent, EngineOptions, ErrorContext, Logger, MetricFamily, PhaseEvent } from 'tiered-moe'
import { createEngine, EngineError } from 'tiered-moe'
import { createError } from '../../lib/errors/index.js'
import { EventBuffer } from '../../lib/telemetry/event-buffer.js'
import { Metrics } from '../../lib/telemetry/metrics.js'
import { Telemetry } from '../../lib/telemetry/telemetry.js'

const model = 'tiny-shakespeare'
const prompt = 'ROMEO: a secret that is nobody else’s business'
const request = { model, prompt, temperature: 0, maxTokens: 5, ignoreEos: true }

interface Line {
  level: string
  fields: Record<string, unknown>
  message: string | undefined
}

/** A logger with pino's methods, and what it was given. */
function collect(): { logger: Logger; lines: Line[] } {
  const lines: Line[] = []
  const at = (level: string) => (fields: object, message?: string) =>
    void lines.push({ level, fields: fields as Record<string, unknown>, message })
  return { lines, logger: { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') } }
}

const sample = (metrics: MetricFamily[], name: string, labels: Record<string, string> = {}) =>
  metrics
    .find((family) => family.name === name)
    ?.samples.find((one) => Object.entries(labels).every(([key, value]) => one.labels[key] === value))

t.test('an engine says nothing by itself, and everything to a logger', async (t) => {
  const { logger, lines } = collect()
  const events: EngineEvent[] = []
  const engine = await createEngine({ threads: 2, logger, onEvent: (event) => void events.push(event) })
  t.same(lines, [], 'nothing in init')
  await engine.loadModel()
  await engine.generate({ ...request, requestId: 'r1' })
  const left = engine.createGenerator({ ...request, requestId: 'r2' })
  await left.next()
  await left.return()
  await engine.dispose()
  const of = (event: string) => lines.filter(({ fields }) => fields.event === event)
  t.same(
    of('engine_state').map(({ fields }) => fields.to),
    ['warm', 'active', 'draining', 'closed']
  )
  t.match(of('routing_seed'), [{ level: 'info', fields: { seed: /^[0-9a-f]{32}$/, source: 'default' } }])
  t.match(of('model_loaded'), [{ level: 'info', fields: { model, architecture: 'olmoe' }, message: /is loaded/ }])
  t.match(of('request_started'), [{ level: 'debug', fields: { requestId: 'r1' } }, {}])
  t.match(of('request_finished'), [
    { fields: { requestId: 'r1', finishReason: 'length', completionTokens: 5, steps: 5, durationMs: Number } },
    { fields: { requestId: 'r2', finishReason: undefined } }
  ])
  t.equal(of('shutdown_step').length, 5)
  t.notOk(JSON.stringify(lines).includes('secret'), 'no prompt text')
  t.ok(!lines.some(({ fields }) => 'error' in fields))
  t.equal(events.length, lines.length)
  t.ok(
    events.every(({ elapsedMs }, i) => elapsedMs >= (events[i - 1]?.elapsedMs ?? 0)),
    'in order'
  )
})

t.test('prompts are logged where that is asked for, 100 characters at most', async (t) => {
  const { logger, lines } = collect()
  const engine = await createEngine({ threads: 1, logger, telemetry: { logPrompts: true } })
  await engine.loadModel()
  await engine.generate({ ...request, prompt: 'Now is the winter of our discontent. '.repeat(5) })
  await engine.generate(request)
  await engine.dispose()
  const prompts = lines.flatMap(({ fields }) => (typeof fields.prompt === 'string' ? [fields.prompt] : []))
  t.equal(prompts.length, 2)
  t.equal(prompts[0]!.length, 100)
  t.equal(prompts[1], prompt)
})

t.test('an error is told once, at its level, without what users wrote', async (t) => {
  const { logger, lines } = collect()
  const hooked: [EngineError, ErrorContext][] = []
  const engine = await createEngine({ threads: 2, logger, onError: (...both) => void hooked.push(both) })
  await engine.loadModel()
  const failures: unknown[] = []
  const failing = async (work: () => unknown) => {
    try {
      await work()
      t.fail('it should fail')
    } catch (error) {
      failures.push(error)
    }
  }
  await failing(() => engine.generate({ ...request, model: 'none' }))
  await failing(() => engine.generate(prompt as never))
  await failing(() => engine.createGenerator({ ...request, messages: [{ role: 'user', content: 'a secret' }] }))
  await failing(() => engine.loadModel({ model: 'package.json', id: 'bad' }))
  await failing(() => engine.forward({ model, tokens: [99999] }))
  await failing(() => engine.generate({ ...request, requestId: 'late', maxTokens: 200 }, { timeoutMs: 3 }))
  const signal = AbortSignal.abort()
  await failing(() => engine.generate({ ...request, requestId: 'aborted' }, { signal }))
  await engine.dispose()
  await failing(() => engine.tokenize({ model, text: 'x' }))
  await new Promise(setImmediate)
  const errors = lines.filter(({ fields }) => 'code' in fields)
  t.same(
    errors.map(({ fields, level }) => `${level} ${fields.code}`),
    [
      'warn MODEL_NOT_LOADED',
      'warn VALIDATION_ERROR',
      'warn VALIDATION_ERROR',
      'error MODEL_FILE_INVALID',
      'warn VALIDATION_ERROR',
      'error INFERENCE_TIMEOUT',
      'info CANCELLED',
      'warn ENGINE_DISPOSED'
    ]
  )
  for (const { fields } of errors) {
    t.same(Object.keys(fields), ['code', 'message', 'details', 'model', 'requestId', 'timestamp'])
  }
  t.match(errors[5], { fields: { model, requestId: 'late', details: { text: { length: Number }, usage: {} } } })
  t.notOk(JSON.stringify(lines).includes('secret'))
  t.same(
    hooked.map(([error]) => error),
    failures.filter((error) => (error as EngineError).code !== 'CANCELLED'),
    'the hook has the errors themselves, but for aborts'
  )
  t.match(hooked[5]![1], { method: 'generate', model, requestId: 'late' })
})

t.test('a logger or a hook that throws is not the engine’s failure', async (t) => {
  const fault = () => {
    throw new RangeError('a logger')
  }
  const logger = { debug: fault, info: fault, warn: fault, error: fault }
  const engine = await createEngine({ threads: 1, logger, onEvent: fault, onError: fault, onPhase: fault })
  await engine.loadModel()
  t.equal((await engine.generate(request)).tokens.length, 5)
  await t.rejects(engine.loadModel(), { code: 'MODEL_ALREADY_LOADED' })
  await engine.dispose()
  for (const bad of [{ logger: {} }, { logger: console.log }, { telemetry: { bufferedEvents: 0 } }, { onError: 1 }]) {
    await t.rejects(createEngine(bad as EngineOptions), { code: 'VALIDATION_ERROR' })
  }
})

t.test('the buffer is bounded, keeps order, and says what it dropped', async (t) => {
  const { logger, lines } = collect()
  const telemetry = new Telemetry({ logger, bufferedEvents: 10 })
  for (let i = 0; i < 25; i++) telemetry.event('boot_phase', `${i}`, { i })
  t.same(lines, [], 'not before it is opened')
  telemetry.open()
  await new Promise(setImmediate)
  t.same(
    lines.filter(({ fields }) => 'i' in fields).map(({ fields }) => fields.i),
    Array.from({ length: 10 }, (_, i) => i + 15)
  )
  await telemetry.flush()
  t.match(
    lines.find(({ fields }) => fields.event === 'events_dropped'),
    { level: 'warn', fields: { count: 15 } }
  )
  t.match(sample(telemetry.metrics.read(), 'tiered_moe_events_dropped_total'), { value: 15 })
  telemetry.event('boot_phase', 'before the error', { i: 'last' })
  telemetry.error(createError('MODEL_FILE_INVALID', 'made by the test'))
  t.equal(lines.at(-1)?.level, 'error', 'an error is not kept waiting')
  t.equal(lines.at(-2)?.fields.i, 'last', 'nor does it overtake')
  t.equal(telemetry.error(7), 7, 'what is no error of ours is not told')
  const delivered: number[] = []
  const buffer = new EventBuffer<number>(4, (item) => delivered.push(item))
  buffer.push(1)
  buffer.flush()
  t.same(delivered, [])
})

t.test('metrics count what happened', async (t) => {
  const engine = await createEngine({ threads: 2 })
  await engine.loadModel()
  await Promise.all([engine.generate(request), engine.generate(request)])
  await engine.forward({ model, tokens: [1, 2, 3] })
  await engine.generate({ ...request, model: 'none' }).catch(() => {})
  const open = engine.createGenerator(request)
  await open.next()
  const during = engine.metrics()
  t.match(sample(during, 'tiered_moe_requests_active', { model }), { value: 1 })
  t.match(sample(during, 'tiered_moe_requests_waiting', { model }), { value: 0 })
  await open.return()
  const metrics = engine.metrics()
  const value = (name: string, labels?: Record<string, string>) => sample(metrics, `tiered_moe_${name}`, labels)?.value
  t.equal(value('requests_active'), 0)
  t.equal(value('requests_total', { outcome: 'length' }), 2)
  t.equal(value('requests_total', { outcome: 'abandoned' }), 1)
  t.ok(value('completion_tokens_total')! >= 11)
  t.equal(value('errors_total', { code: 'MODEL_NOT_LOADED' }), 1)
  t.equal(value('engine_state', { state: 'active' }), 1)
  t.equal(value('engine_state', { state: 'warm' }), 0)
  t.ok(value('weight_bytes', { model })! > 1e6)
  t.ok(value('live_bytes')! > 1e6)
  t.ok(value('load_seconds', { phase: 'base-parameters' })! > 0)
  const first = sample(metrics, 'tiered_moe_first_token_seconds')!
  t.equal(first.value, 3)
  t.ok(first.sum! > 0 && first.buckets!.at(-1)!.count === 3)
  await engine.unloadModel(model)
  t.equal(sample(engine.metrics(), 'tiered_moe_weight_bytes', { model }), undefined)
  for (const { name, help, type } of metrics) {
    t.match(name, type === 'counter' ? /^tiered_moe_\w+_total$/ : /^tiered_moe_\w+(?<!_total)$/)
    t.match(help, /\.$/)
  }
  t.same(JSON.parse(JSON.stringify(metrics)), metrics, 'plain data')
  await engine.dispose()
})

t.test('metrics of the experts of a model that is larger than its budget', async (t) => {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 32 })
  await engine.loadModel({ memory: '5MiB', contextLength: 96 })
  await engine.generate({ ...request, maxTokens: 20 })
  const stats = engine.modelStats(model).experts!
  const metrics = engine.metrics()
  const value = (name: string, labels: Record<string, string> = {}) =>
    sample(metrics, `tiered_moe_${name}`, { model, ...labels })?.value
  const demands = (outcome: string) => value('expert_demands_total', { outcome })!
  t.ok(demands('miss') > 0)
  t.equal(demands('miss'), stats.misses)
  t.same([demands('hit'), demands('late')], [stats.hits, stats.late])
  t.equal(demands('hit') + demands('late') + demands('miss'), stats.uses)
  t.equal(value('expert_evictions_total'), stats.evictions)
  t.equal(value('expert_read_bytes_total', { reason: 'demand' }), stats.demandBytes)
  t.ok(value('expert_resident_bytes')! > 0 && value('expert_resident_bytes')! <= value('expert_budget_bytes')!)
  const recall = value('prefetch_recall')!
  t.ok(recall >= 0 && recall <= 1)
  await engine.unloadModel(model)
  t.equal(sample(engine.metrics(), 'tiered_moe_expert_budget_bytes', { model }), undefined)
  await engine.dispose()
})

t.test('a registry', async (t) => {
  const metrics = new Metrics()
  const times = metrics.histogram('t', 'Times.', [1, 10])
  for (const value of [0.5, 1, 5, 100]) times.observe(value, { a: 'x' })
  t.same(times.read().samples, [
    {
      labels: { a: 'x' },
      value: 4,
      sum: 106.5,
      buckets: [
        { le: 1, count: 2 },
        { le: 10, count: 3 }
      ]
    }
  ])
  const counter = metrics.counter('c', 'Counts.')
  counter.add(1, { a: 'x', b: 'y' })
  counter.add(2, { b: 'y', a: 'x' })
  t.same(counter.read().samples, [{ labels: { a: 'x', b: 'y' }, value: 3 }], 'labels have no order')
  t.equal(metrics.counter('c', 'Counts.'), counter)
  const remove = metrics.addSource(() => counter.set(7))
  t.equal(sample(metrics.read(), 'c', {})?.value, 3)
  remove()
  counter.forget({ a: 'x' })
  t.same(counter.read().samples, [{ labels: {}, value: 7 }])
})

t.test('phases: five of boot, five of each load, timed and in order', async (t) => {
  const phases: PhaseEvent[] = []
  const engine = await createEngine({ threads: 2, onPhase: (phase) => void phases.push(phase) })
  await engine.loadModel({ id: 'm' })
  await engine.dispose()
  t.same(
    phases
      .filter(({ status }) => status === 'started')
      .map(({ phase, model: id }) => (id ? `${phase} of ${id}` : phase)),
    [
      'configuration',
      'resources',
      'routing-seed',
      'telemetry',
      'model of m',
      'manifest of m',
      'base-parameters of m',
      'experts of m',
      'routers of m'
    ]
  )
  t.match(
    phases.filter(({ phase }) => phase === 'optimizer'),
    [{ status: 'skipped', reason: 'inference' }]
  )
  const finished = phases.filter(({ status }) => status === 'finished')
  t.equal(finished.length, 9)
  t.ok(finished.every(({ durationMs }) => durationMs! >= 0))
  const whole = finished.find(({ phase }) => phase === 'model')!.durationMs!
  const parts = finished.filter(({ model: id, phase }) => id && phase !== 'model')
  const sum = parts.reduce((total, { durationMs }) => total + durationMs!, 0)
  t.ok(sum <= whole, `the phases take ${sum} ms of ${whole} ms`)
})

t.test('each phase of a load can be cancelled', async (t) => {
  for (const at of ['manifest', 'base-parameters', 'experts', 'routers']) {
    const abort = new AbortController()
    const phases: PhaseEvent[] = []
    const engine = await createEngine({
      threads: 2,
      onPhase: (event) => {
        phases.push(event)
        if (event.phase === at && event.status === 'started') abort.abort()
      }
    })
    const before = engine.counters()
    await t.rejects(engine.loadModel({}, { signal: abort.signal }), { code: 'CANCELLED' }, at)
    t.ok(
      phases.some(({ status }) => status === 'failed'),
      `${at}: told as failed`
    )
    t.same(engine.listModels(), [])
    t.match(engine.counters(), { liveBytes: before.liveBytes, openFiles: 0, activeJobs: 0 }, at)
    t.equal(engine.state, 'warm')
    await engine.dispose()
  }
})

t.test('each step of booting can be cancelled, and gives back what it took', async (t) => {
  const probe = await createEngine({ threads: 1 })
  await probe.dispose()
  const before = probe.counters()
  for (const at of ['resources', 'routing-seed', 'telemetry']) {
    const abort = new AbortController()
    const boot = createEngine(
      {
        threads: 2,
        audit: join(t.testdir(), 'audit'),
        onPhase: ({ phase, status }) => {
          if (phase === at && status === 'started') abort.abort()
        }
      },
      { signal: abort.signal }
    )
    await t.rejects(boot, { code: 'CANCELLED', message: /createEngine/ }, at)
  }
  await t.rejects(createEngine({}, { signal: AbortSignal.abort() }), { code: 'CANCELLED' })
  await t.rejects(createEngine({ audit: t.testdirName }), EngineError)
  t.same(probe.counters(), before)
})

t.test('the routing seed: given, random, or always the same', async (t) => {
  const seedOf = async (routingSeed?: string) => {
    const engine = await createEngine({ threads: 1, ...(routingSeed !== undefined && { routingSeed }) })
    await engine.loadModel()
    const { text } = await engine.generate(request)
    await engine.dispose()
    return { seed: engine.routingSeed, text }
  }
  const given = 'ABCDEF0123456789abcdef0123456789'
  const [plain, again, own, random, other] = [
    await seedOf(),
    await seedOf(),
    await seedOf(given),
    await seedOf('random'),
    await seedOf('random')
  ]
  t.same(plain, again)
  t.equal(own.seed, given.toLowerCase())
  t.match(random.seed, /^[0-9a-f]{32}$/)
  t.equal(new Set([plain, own, random, other].map(({ seed }) => seed)).size, 4)
  t.equal(own.text, plain.text, 'it decides ties only')
  for (const routingSeed of ['', 'abc', 'g'.repeat(32)]) {
    await t.rejects(createEngine({ routingSeed }), { code: 'VALIDATION_ERROR' })
  }
})
