// Aborts at seeded moments, uniform over the measured time of load, prefill, reads of cold experts and decode: how soon native work stops, and what
// stays behind.
//   node bench/aborts.mjs                 80 aborts on the embedded model, and 40 on it as a tiered checkpoint under a memory budget
//   node bench/aborts.mjs --full          10,000 in all; 100 of them mid-prefill on the OLMoE-shaped file of 7 billion parameters (--model FILE)
// Fails where a counter (live bytes, handles, files of the addon, descriptors of the process) is not back exactly at its baseline, the engine stops
// working, or no abort came while an expert was being read; with --full also where a limit is passed.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { convertModel, createEngine } from '../dist/esm/index.js'
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
  return { ...engine.counters(), descriptors: descriptors() }
}

const descriptors = () => (process.platform === 'linux' ? readdirSync('/proc/self/fd').length : 0)

/** Loads, prefills and decodes; `onPhase` hears of each beginning. Returns when done or stopped by the signal. */
async function journey(path, { prompt, maxTokens, ...load }, signal, onPhase = () => {}) {
  onPhase('load')
  // Each abort comes to a prompt that is computed from its first token on.
  const { id } = await engine.loadModel({ model: path, id: 'aborted', prefixCache: false, ...load }, { signal })
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

/** Whether an expert of the model is on its way from its file. */
function readsExpert() {
  if (!engine.listModels().some(({ id }) => id === 'aborted')) return false
  return engine.modelStats('aborted').experts?.residency.includes(1) === true
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
  const during = readsExpert() ? 'expert read' : phase
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
  return { name, count, idle, phases: byPhase, durationMs: duration, p99, greatest: Math.max(...idle), slope: rise }
}

const stamp = environment()
printEnvironment(stamp)
const campaigns = []
const small = { prompt: randomTokens(180, 1000, 7), maxTokens: 60 }
const big = options.model ?? (options.full ? await bigModel() : undefined)
/** So many mid-prefill of the large model; of the others every third under a budget. */
const large = big ? (options.full ? 100 : 10) : 0
const count = Number(options.aborts ?? (options.full ? 10_000 - large : 120))
const budgeted = Math.floor(count / 3)
campaigns.push(
  await campaign(
    'embedded model',
    (signal, onPhase) => journey(embeddedModel, small, signal, onPhase),
    count - budgeted
  )
)

const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-aborts-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
const checkpoint = join(folder, 'checkpoint')
await convertModel({ from: embeddedModel, to: checkpoint, tiers: [{ name: 'cold', placement: 'cold' }] })
/** The least memory that works: nearly every token reads experts. */
const memory = await engine
  .loadModel({ model: checkpoint, memory: 1, contextLength: 256 })
  .then(() => 1)
  .catch(({ details }) => details.resourceInfo.required)
const tight = { ...small, memory, contextLength: 256 }
campaigns.push(
  await campaign(
    `tiered checkpoint in ${show(memory / 2 ** 20)} MiB`,
    (signal, onPhase) => journey(checkpoint, tight, signal, onPhase),
    budgeted
  )
)
if (!campaigns.at(-1).phases.includes('expert read')) problems.push('no abort came while an expert was being read')
if (big) {
  const { id } = await engine.loadModel({ model: big, contextLength: 1024, prefixCache: false })
  const long = { prompt: randomTokens(512, 1000, 8) }
  campaigns.push(await campaign(`prefill of ${id}`, (signal, onPhase) => prefillOnly(id, long, signal, onPhase), large))
  await engine.unloadModel(id)
}

const all = campaigns.flatMap(({ idle }) => idle)
const p99 = percentile(all, 0.99)
console.log(
  `\n${all.length} aborts in all: native idle after ${show(percentile(all, 0.5))} ms in the median, p99 ${show(p99)}`
)
if (options.full && p99 > limits.idleMs) problems.push(`p99 of all aborts is ${show(p99)} ms, over ${limits.idleMs}`)

const after = await sentence()
if (after.text !== before.text) problems.push(`the engine writes something else now: ${JSON.stringify(after.text)}`)
await engine.dispose()
writeReport('aborts.json', {
  environment: stamp,
  campaigns: campaigns.map(({ idle: _, ...figures }) => figures),
  aborts: all.length,
  p99,
  problems
})
for (const problem of problems) console.log(`FAILED ${problem}`)
if (!problems.length) console.log('\nthe engine goes on working, with the same text as before')
process.exitCode = problems.length ? 1 : 0
