// SIGTERM under load: a process with several generations under way is told to end, at a seeded moment of its work.
//   node bench/shutdown.mjs               3 runs of each case
//   node bench/shutdown.mjs --full        20 runs
// Fails where an accepted request neither finished nor got a typed error, where the process does not end as it should, or outlasts its drain
// deadline by more than the cleanup is allowed (5 s).
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import {
  environment,
  printEnvironment,
  printTable,
  root,
  seededRandom,
  showSpread,
  summarise,
  writeReport
} from './harness.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    runs: { type: 'string' },
    workers: { type: 'string', default: '8' },
    seed: { type: 'string', default: '1' }
  }
})
const runs = Number(options.runs ?? (options.full ? 20 : 3))
const random = seededRandom(Number(options.seed))
const cleanupMs = 5000
const problems = []

const cases = [
  { name: 'drain long enough', drainMs: 60_000, maxTokens: 120, signals: ['SIGTERM'], exit: 0 },
  { name: 'drain of 50 ms', drainMs: 50, maxTokens: 250, signals: ['SIGTERM'], exit: 0 },
  { name: 'no drain', drainMs: 0, maxTokens: 250, signals: ['SIGTERM'], exit: 0 },
  { name: 'SIGINT twice', drainMs: 60_000, maxTokens: 250, signals: ['SIGINT', 'SIGINT'], exit: 130 },
  { name: 'SIGTERM twice', drainMs: 60_000, maxTokens: 250, signals: ['SIGTERM', 'SIGTERM'], exit: 143 }
]

/** One child: what it said, how it ended, and the milliseconds from its last signal. */
function run({ drainMs, maxTokens, signals }) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [
      join(root, 'bench/shutdown-child.mjs'),
      String(drainMs),
      options.workers,
      String(maxTokens)
    ])
    let output = ''
    let sent = 0
    let signalled = 0
    const send = () => {
      signalled = performance.now()
      child.kill(signals[sent++])
    }
    child.stdout.on('data', (chunk) => {
      output += chunk
      if (sent === 0 && output.includes('ready\n')) {
        sent = -1
        void sleep(random() * 200).then(() => {
          sent = 0
          send()
        })
      } else if (sent === 1 && signals.length > 1 && output.includes('state draining')) send()
    })
    child.stderr.pipe(process.stderr)
    child.on('close', (code, signal) => {
      const ms = performance.now() - signalled
      resolve({ code: code ?? signal, ms, lines: output.split('\n').map((line) => line.split(' ')) })
    })
  })
}

const rows = []
const report = []
for (const which of cases) {
  const times = []
  const counts = { accepted: 0, finished: 0, failed: 0, refused: 0, unanswered: 0 }
  for (let i = 0, late = 0; i < runs; i++) {
    const { code, ms, lines } = await run(which)
    const ids = (word) => lines.filter(([first]) => first === word).map(([, id]) => id)
    const ended = new Set([...ids('finished'), ...ids('failed')])
    const unanswered = ids('accepted').filter((id) => !ended.has(id)).length
    // Drained before its second signal came, as the first alone has it: once more.
    if (which.signals.length > 1 && code === 0 && unanswered === 0 && late++ < 10) {
      i--
      continue
    }
    times.push(ms)
    for (const word of ['accepted', 'finished', 'failed', 'refused']) counts[word] += ids(word).length
    counts.unanswered += unanswered
    if (code !== which.exit) problems.push(`${which.name}: exit ${code}, not ${which.exit}`)
    if (which.exit === 0 && unanswered > 0) problems.push(`${which.name}: ${unanswered} requests got no answer`)
    if (which.exit === 0 && ms > which.drainMs + cleanupMs)
      problems.push(`${which.name}: ended after ${Math.round(ms)} ms`)
    const codes = new Set(lines.filter(([first]) => first === 'failed').map(([, , error]) => error))
    codes.delete('ENGINE_DISPOSED')
    if (codes.size > 0) problems.push(`${which.name}: requests failed with ${[...codes].join(', ')}`)
  }
  const exitMs = summarise(times)
  const { accepted, finished, failed, unanswered } = counts
  rows.push([which.name, which.exit, showSpread(exitMs), accepted, finished, failed, unanswered])
  report.push({ ...which, exitMs, ...counts })
}
const stamp = environment()
printEnvironment(stamp)
printTable(['case', 'exit', 'ms from the last signal', 'accepted', 'finished', 'typed errors', 'unanswered'], rows)
writeReport('shutdown.json', { environment: stamp, runs, cases: report, problems })
for (const problem of problems) console.log(`FAILED: ${problem}`)
process.exitCode = problems.length > 0 ? 1 : 0
