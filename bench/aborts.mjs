// Aborts at seeded moments, uniform over the measured time of load, prefill and decode: how soon native work stops, and what stays behind.
//   node bench/aborts.mjs                 100 aborts on the embedded model
//   node bench/aborts.mjs --full          1,000, and 100 mid-prefill on the OLMoE-shaped file of 7 billion parameters (--model FILE)
// Fails where a counter is not back at its baseline or the engine stops working; with --full also where a limit is passed.
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { createEngine } from '../dist/esm/index.js'
import {
  environment,
  percentile,
  printEnvironment,
  printTable,
  randomTokens,
  residentMemory,
  seededRandom,
  show,
  summarise,
  writeReport
} from './harness.mjs'
import { bigModel, embeddedModel } from './models.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    aborts: { type: 'string' },
    model: { type: 'string' },
    seed: { type: 'string', default: '1' },
    threads: { type: 'string' }
  }
})
const limits = { idleMs: 20, slopeBytes: 1024 }
setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')
const random = seededRandom(Number(options.seed))
const problems = []

const engine = await createEngine({ ...(options.threads && { threads: Number(options.threads) }) })
const { id: kept } = await engine.loadModel({})
const sentence = () =>
  engine.generate({ model: kept, prompt: 'JULIET:\n', maxTokens: 24, temperature: 0, ignoreEos: true })
const before = await sentence()

/** Counters once finalizers of what was dropped have run. */
async function settled() {
  for (let i = 0; i < 4; i++) {
    collect()
    await nextTurn()
  }
  return engine.counters()
}

/** Loads, prefills and decodes; `onPhase` hears of each beginning. Returns when done or stopped by the signal. */
async function journey(path, { prompt, maxTokens }, signal, onPhase = () => {}) {
  onPhase('load')
  const { id } = await engine.loadModel({ model: path, id: 'aborted' }, { signal })
  try {
    onPhase('prefill')
    const request = { model: id, promptTokens: prompt, maxTokens, temperature: 0, ignoreEos: true }
    let tokens = 0
    for await (const _ of engine.createGenerator(request, { signal })) {
      if (tokens++ === 0) onPhase('decode')
    }
  } finally {
    await engine.unloadModel(id)
  }
}

/** Prefill alone, of a model that stays loaded. */
async function prefillOnly(id, { prompt }, signal, onPhase = () => {}) {
  onPhase('prefill')
  for await (const _ of engine.createGenerator(
    { model: id, promptTokens: prompt, maxTokens: 1, temperature: 0 },
    { signal }
  ))
    break
}

/** Waits until a moment, to a fraction of a millisecond, without keeping the event loop busy before the last two. */
async function until(moment) {
  const early = moment - performance.now() - 2
  if (early > 0) await sleep(early)
  while (performance.now() < moment) await nextTurn()
}

async function aborted(run, duration, baselineJobs) {
  const controller = new AbortController()
  let phase = 'none'
  const start = performance.now()
  const finished = run(controller.signal, (name) => {
    phase = name
  }).then(
    () => 'completed',
    (error) => error.code ?? String(error)
  )
  await until(start + random() * duration)
  const during = phase
  const from = performance.now()
  controller.abort()
  while (engine.counters().activeJobs > baselineJobs) await nextTurn()
  const idleMs = performance.now() - from
  const outcome = await finished
  if (outcome !== 'CANCELLED' && outcome !== 'completed') problems.push(`abort during ${during}: ${outcome}`)
  return { phase: outcome === 'completed' ? 'after the end' : during, idleMs }
}

const difference = (now, then) =>
  Object.keys(then)
    .filter((key) => now[key] !== then[key])
    .map((key) => `${key} ${then[key]} -> ${now[key]}`)

/** Least-squares slope of the resident bytes over the second half, where caches are warm. */
function slope(values) {
  const part = values.slice(values.length >> 1)
  const meanX = (part.length - 1) / 2
  const meanY = part.reduce((sum, y) => sum + y, 0) / part.length
  const covariance = part.reduce((sum, y, x) => sum + (x - meanX) * (y - meanY), 0)
  return covariance / part.reduce((sum, _, x) => sum + (x - meanX) ** 2, 0)
}

/** `count` aborts of one kind of run; prints and returns the figures. */
async function campaign(name, run, count) {
  const durations = []
  for (let i = 0; i < 3; i++) {
    const start = performance.now()
    await run(undefined)
    durations.push(performance.now() - start)
  }
  const duration = summarise(durations).median
  const baseline = await settled()
  const results = []
  const resident = []
  for (let i = 0; i < count; i++) {
    results.push(await aborted(run, duration, baseline.activeJobs))
    // Wrappers of native objects go with the next collection; everything large has gone already.
    if (i % 10 === 9) {
      const changed = difference(await settled(), baseline)
      if (changed.length) problems.push(`${name}: after ${i + 1} aborts ${changed.join(', ')}`)
    }
    resident.push(residentMemory())
  }
  const changed = difference(await settled(), baseline)
  if (changed.length) problems.push(`${name}: at the end ${changed.join(', ')}`)

  const idle = results.map(({ idleMs }) => idleMs)
  const byPhase = [...new Set(results.map(({ phase }) => phase))]
  const p99 = percentile(idle, 0.99)
  const rise = slope(resident)
  console.log(`\n${name}: ${count} aborts over ${show(duration)} ms, seed ${options.seed}`)
  printTable(
    ['during', 'aborts', 'idle after, median ms', 'p99', 'greatest'],
    [...byPhase, undefined].map((phase) => {
      const part = results.filter((result) => phase === undefined || result.phase === phase).map(({ idleMs }) => idleMs)
      return [
        phase ?? 'all',
        part.length,
        show(percentile(part, 0.5)),
        show(percentile(part, 0.99)),
        show(Math.max(...part))
      ]
    })
  )
  console.log(
    `counters ${changed.length ? 'CHANGED' : 'back at their baseline'}: ${JSON.stringify(baseline)}${count >= 500 ? `; resident memory ${show(rise)} bytes per abort` : ''}`
  )
  if (options.full && p99 > limits.idleMs) problems.push(`${name}: p99 of ${show(p99)} ms is over ${limits.idleMs}`)
  if (options.full && count >= 500 && rise > limits.slopeBytes) problems.push(`${name}: ${show(rise)} bytes per abort`)
  return { name, count, durationMs: duration, p99, greatest: Math.max(...idle), slope: rise }
}

const stamp = environment()
printEnvironment(stamp)
const campaigns = []
const small = { prompt: randomTokens(180, 1000, 7), maxTokens: 60 }
const count = Number(options.aborts ?? (options.full ? 1000 : 100))
campaigns.push(
  await campaign('embedded model', (signal, onPhase) => journey(embeddedModel, small, signal, onPhase), count)
)
const big = options.model ?? (options.full ? await bigModel() : undefined)
if (big) {
  const { id } = await engine.loadModel({ model: big, contextLength: 1024 })
  const long = { prompt: randomTokens(512, 1000, 8) }
  campaigns.push(
    await campaign(
      `prefill of ${id}`,
      (signal, onPhase) => prefillOnly(id, long, signal, onPhase),
      options.full ? 100 : 10
    )
  )
  await engine.unloadModel(id)
}

const after = await sentence()
if (after.text !== before.text) problems.push(`the engine writes something else now: ${JSON.stringify(after.text)}`)
await engine.dispose()
writeReport('aborts.json', { environment: stamp, campaigns, problems })
for (const problem of problems) console.log(`FAILED ${problem}`)
if (!problems.length) console.log('\nthe engine goes on working, with the same text as before')
process.exitCode = problems.length ? 1 : 0
