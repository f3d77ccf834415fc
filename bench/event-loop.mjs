// The event loop stays free: how late a 1 ms timer is while all cores prefill.
//   node bench/event-loop.mjs               the embedded model, a few seconds
//   node bench/event-loop.mjs --full        the OLMoE-shaped file of 7 billion parameters (or --model FILE); fails where a prefill is over the
//                                           limits; a load and an unload are shown beside it
import { openSync, readFileSync, readSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { PerformanceObserver } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import { createEngine } from '../dist/esm/index.js'
import { environment, percentile, printEnvironment, randomTokens, show, writeReport } from './harness.mjs'
import { bigModel, embeddedModel } from './models.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    model: { type: 'string' },
    seconds: { type: 'string' },
    threads: { type: 'string', default: String(availableParallelism()) }
  }
})
const limits = { p99: 2, greatest: 20 }
const path = options.model ?? (options.full ? await bigModel() : embeddedModel)
if (!path) process.exit(1)

/** Opens what the system keeps of this thread: nanoseconds that it computed and waited for a core (Linux, sched-stats). */
function openTimes() {
  try {
    return openSync(`/proc/self/task/${process.pid}/schedstat`, 'r')
  } catch {
    return undefined
  }
}
const times = openTimes()
const milliseconds = (buffer) =>
  buffer
    .toString('latin1')
    .split(' ', 2)
    .map((text) => Number(text) / 1e6)

/** Milliseconds that this machine's cores were given to other machines (proc_stat(5)). */
const stolenTime = () => (times === undefined ? 0 : Number(readFileSync('/proc/stat', 'utf8').split(/\s+/, 9)[8]) * 10)

/** Lateness in ms of every turn of a 1 ms timer while `work` runs, what became of the time of the latest turn, and V8's pauses. */
async function lateness(work) {
  const late = []
  const pauses = []
  const observer = new PerformanceObserver((list) => pauses.push(...list.getEntries().map(({ duration }) => duration)))
  observer.observe({ entryTypes: ['gc'] })
  const stolenBefore = stolenTime()
  let greatest = { late: -1 }
  // Without garbage: what is measured must not be this.
  let [before, after] = [Buffer.alloc(64), Buffer.alloc(64)]
  const sample = (into) => times !== undefined && readSync(times, into, 0, 64, 0)
  sample(before)
  let expected = performance.now() + 1
  let timer = setTimeout(function turn() {
    const own = Math.max(0, performance.now() - expected)
    late.push(own)
    sample(after)
    if (own > greatest.late) {
      const [from, to] = [before, after].map(milliseconds)
      greatest = { late: own, computed: to[0] - from[0], waited: to[1] - from[1] }
    }
    ;[before, after] = [after, before]
    expected = performance.now() + 1
    timer = setTimeout(turn, 1)
  }, 1)
  const value = await work()
  // What holds the thread at the very end makes one more turn late.
  await new Promise((resolve) => setTimeout(resolve, 10))
  clearTimeout(timer)
  observer.disconnect()
  return { value, late, greatest, pauses, stolen: stolenTime() - stolenBefore }
}

const engine = await createEngine({ threads: Number(options.threads) })
const load = await lateness(() => engine.loadModel({ model: path, prefixCache: false }))
const { id, descriptor } = load.value
const length = Math.min(512, Math.floor(descriptor.contextLength * 0.8))
const promptTokens = randomTokens(length, 1000, 5)
const prefill = () => engine.generate({ model: id, promptTokens, maxTokens: 1, temperature: 0 })

const stamp = environment()
printEnvironment(stamp)
await prefill()
const idle = await lateness(() => new Promise((resolve) => setTimeout(resolve, 1000)))
const seconds = Number(options.seconds ?? (options.full ? 20 : 3))
let prefills = 0
const busy = await lateness(async () => {
  for (const end = performance.now() + seconds * 1000; performance.now() < end; prefills++) await prefill()
})
const unload = await lateness(() => engine.unloadModel(id))
await engine.dispose()

const figures = ({ late, greatest, pauses, stolen }) => ({
  latest: greatest,
  stolen,
  pauses: pauses.length,
  greatestPause: Math.max(0, ...pauses),
  turns: late.length,
  median: percentile(late, 0.5),
  p99: percentile(late, 0.99),
  greatest: Math.max(...late)
})
const report = {
  environment: stamp,
  threads: Number(options.threads),
  load: figures(load),
  idle: figures(idle),
  busy: figures(busy),
  unload: figures(unload)
}
writeReport('event-loop.json', report)
for (const [name, f] of [
  ['load', report.load],
  ['idle', report.idle],
  [`${prefills} prefills of ${length} tokens on ${options.threads} threads`, report.busy],
  ['unload', report.unload]
]) {
  console.log(
    `${name}: ${f.turns} turns of a 1 ms timer, late by ${show(f.median)} ms (median), ${show(f.p99)} (p99), ${show(f.greatest)} (greatest)`
  )
  const { computed, waited } = f.latest
  const latest =
    times === undefined
      ? ''
      : `; in the latest turn this thread computed ${show(computed)} ms and waited ${show(waited)} ms for a core`
  console.log(
    `  ${f.pauses} pauses of the garbage collector, ${show(f.greatestPause)} ms at most; other machines had the cores for ${show(f.stolen)} ms${latest}`
  )
}
const over = report.busy.p99 > limits.p99 || report.busy.greatest > limits.greatest
console.log(
  `limits: p99 ${limits.p99} ms, greatest ${limits.greatest} ms: ${over ? 'passed over' : 'kept'}${options.full ? '' : ' (judged with --full)'}`
)
process.exitCode = options.full && over ? 1 : 0
