// Worker processes of an isolated engine are killed under load: SIGKILL, SIGSEGV, SIGABRT, and by the kernel for their memory in a control group.
// The host has to live, and every stream to end with the items of an undisturbed run (onCrash: resume) or with a typed error and a partial text that
// is the beginning of that run's (fail). Both modes, half of the deaths each.
//   node bench/crashes.mjs                     4 deaths
//   node bench/crashes.mjs --full              100 deaths
//   node bench/crashes.mjs --deaths N --seed S
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { createEngine, isEngineError } from '../dist/esm/index.js'
import { environment, percentile, printEnvironment, seededRandom, writeReport } from './harness.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    deaths: { type: 'string' },
    seed: { type: 'string', default: '1' }
  }
})
const seed = Number(options.seed)
const deaths = Number(options.deaths ?? (options.full ? 100 : 4))
const random = seededRandom(seed)
/** Streams at a time, of two workers, and milliseconds of load in which a death falls. */
const [concurrent, span] = [6, 150]
const work = mkdtempSync(join(tmpdir(), 'tiered-moe-crashes-'))
process.on('exit', () => rmSync(work, { recursive: true, force: true }))

/** A group whose limit is less than what a worker takes for the next tokens; undefined where none can be made. */
function tightGroup() {
  const folder = join('/sys/fs/cgroup/memory', `tiered-moe-crashes.${process.pid}`)
  try {
    mkdirSync(folder)
    if (existsSync(join(folder, 'memory.limit_in_bytes'))) {
      writeFileSync(join(folder, 'memory.limit_in_bytes'), String(2 ** 20))
      return folder
    }
    rmdirSync(folder)
  } catch {
    // Told below.
  }
  return undefined
}
const group = tightGroup()
if (!group) console.log('no memory control group of version 1 can be made (root): no death by the kernel')
process.on('exit', () => {
  try {
    if (group) rmdirSync(group)
  } catch {
    // The kernel lets it go when the last process has.
  }
})

const kinds = ['SIGKILL', 'SIGSEGV', 'SIGABRT', ...(group ? ['memory'] : [])]
const kill = (pid, kind) =>
  kind === 'memory' ? writeFileSync(join(group, 'cgroup.procs'), String(pid)) : process.kill(pid, kind)

const prompts = ['ROMEO:', 'First Citizen:\nBefore we', 'To be, or', 'KING', 'O', 'Enter the two']
const requestOf = (number) => ({
  model: 'tiny-shakespeare',
  prompt: prompts[number % prompts.length],
  maxTokens: 40 + (number % 5) * 30,
  temperature: number % 2,
  seed: number % 12,
  ignoreEos: true
})
const kindOfText = (number) => number % 60
/** Texts of runs that nothing disturbed, by what decides them. */
const texts = new Map()
async function undisturbed() {
  const engine = await createEngine()
  await engine.loadModel()
  const numbers = Array.from({ length: 60 }, (_, i) => i)
  const results = await Promise.all(numbers.map((number) => engine.generate(requestOf(number))))
  for (const [number, { text }] of results.entries()) texts.set(number, text)
  await engine.dispose()
}

const problems = []
const counts = { resumed: 0, failed: 0, whole: 0, refused: 0 }
const byKind = {}
const recoveries = []
let next = 0
let nextKind = 0

/** Streams one request after another until told to stop. */
async function consumer(engine, mode, running) {
  while (running.on) {
    const number = next++
    const expected = texts.get(kindOfText(number))
    let text = ''
    const died = engine.workers().map(({ restarts }) => restarts)
    try {
      for await (const item of engine.createGenerator(requestOf(number))) text += item.text
      if (text !== expected) problems.push(`request ${number} (${mode}) has another text: ${JSON.stringify(text)}`)
      const disturbed = engine.workers().some(({ restarts }, i) => restarts > died[i])
      counts[disturbed ? 'resumed' : 'whole']++
    } catch (error) {
      const code = isEngineError(error) ? error.code : String(error)
      if (code === 'SERVICE_UNAVAILABLE') {
        counts.refused++
        if (typeof error.details.retryAfterSeconds !== 'number') problems.push('a refusal without retryAfterSeconds')
        await sleep(10)
        continue
      }
      const typed = code === 'WORKER_CRASHED' || code === 'WORKER_OUT_OF_MEMORY'
      if (!typed || mode === 'resume') problems.push(`request ${number} (${mode}): ${code} ${error.message}`)
      else if (error.details.text !== text || !expected.startsWith(text)) {
        problems.push(`request ${number}: its partial text is not the beginning of the undisturbed one`)
      } else counts.failed++
    }
  }
}

async function campaign(mode, count) {
  const crashFolder = join(work, mode)
  const isolation = {
    mode: 'process',
    workers: 2,
    onCrash: mode,
    maxRestarts: 1000,
    restartDelayBaseMs: 10,
    restartDelayMaxMs: 10,
    crashFolder
  }
  const engine = await createEngine({ threads: 1, isolation })
  await engine.loadModel()
  const running = { on: true }
  const consumers = Array.from({ length: concurrent }, () => consumer(engine, mode, running))
  for (let death = 0; death < count; death++) {
    await sleep(random() * span)
    const index = Math.floor(random() * 2)
    const kind = kinds[nextKind++ % kinds.length]
    const before = engine.workers()[index]
    const began = performance.now()
    kill(before.pid, kind)
    while (engine.workers()[index].restarts === before.restarts || engine.workers()[index].state !== 'ready') {
      await sleep(2)
      if (performance.now() - began > 60_000) throw new Error(`no restart after a death by ${kind}`)
    }
    recoveries.push(performance.now() - began)
    byKind[kind] = (byKind[kind] ?? 0) + 1
    const { lastCrash } = engine.workers()[index]
    if (lastCrash.outOfMemory !== (kind === 'memory'))
      problems.push(`a death by ${kind} is ${JSON.stringify(lastCrash)}`)
    if (!existsSync(lastCrash.crashRecord)) problems.push('a death without a record')
  }
  running.on = false
  await Promise.all(consumers)
  const pids = engine.workers().map(({ pid }) => pid)
  await engine.dispose()
  for (const pid of pids) if (existsSync(`/proc/${pid}`)) problems.push(`process ${pid} is left`)
}

const stamp = environment()
printEnvironment(stamp)
/** What each open descriptor is of. */
const files = () =>
  readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return []
    }
  })
await undisturbed()
// Without a death: libuv opens a spare descriptor with the first pipe of a process and keeps it.
await campaign('resume', 0)
const before = files().length
const began = performance.now()
await campaign('resume', Math.ceil(deaths / 2))
await campaign('fail', Math.floor(deaths / 2))
const minutes = (performance.now() - began) / 60_000
// What the system has to close takes a moment on a busy machine.
for (let i = 0; i < 500 && files().length > before; i++) await sleep(10)
const left = files()
if (left.length > before) problems.push(`${left.length - before} files are left open, of ${left.join(', ')}`)
if (deaths >= 50 && counts.resumed === 0) problems.push('no stream was resumed')
if (deaths >= 50 && counts.failed === 0) problems.push('no stream failed')
const kindsText = Object.entries(byKind).map(([kind, times]) => `${times} by ${kind}`)
console.log(
  `${recoveries.length} deaths (${kindsText.join(', ')}) in ${minutes.toFixed(1)} minutes, seed ${seed}: the host lives; ` +
    `${counts.whole + counts.resumed} streams with the text of an undisturbed run, ${counts.resumed} of them over a death; ` +
    `${counts.failed} with a typed error and their partial text; ${counts.refused} refused with Retry-After; ` +
    `serving again after ${Math.round(percentile(recoveries, 0.5))} ms (p50), ${Math.round(percentile(recoveries, 0.99))} ms (p99)`
)
writeReport('crashes.json', { environment: stamp, deaths, seed, minutes, byKind, ...counts, recoveries, problems })
for (const problem of problems.slice(0, 20)) console.log(`FAILED ${problem}`)
process.exitCode = problems.length > 0 ? 1 : 0
