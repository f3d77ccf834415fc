// Faults that are injected for real, and what came of each: the code, the HTTP status, the exit code, the recovery, and what was held before and
// after. All has to be as the row and the catalogue say.
//   npm run faults                        every fault that takes little time
//   npm run faults -- --full              those that take long too
//   npm run faults -- --only gpu,cut-off  some groups and rows
// Prints a table, writes .bench/faults.json (docs/faults.md is made from it: node scripts/docs-faults.mjs) and fails where anything differs.
import { fork } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { catalog } from '../dist/esm/errors/index.js'
import { loadGroups } from './faults/groups.mjs'
import { environment, printEnvironment, printTable, root, show, writeReport } from './harness.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    only: { type: 'string' },
    jobs: { type: 'string', default: String(Math.min(4, availableParallelism())) }
  }
})
const only = options.only?.split(',')
const sum = (numbers) => numbers.reduce((all, number) => all + number, 0)
const began = performance.now()
const groups = await loadGroups()
const home = mkdtempSync(join(tmpdir(), 'tiered-moe-faults-'))
process.once('exit', () => rmSync(home, { recursive: true, force: true }))
/** A group that does nothing for so long hangs. */
const patienceMs = 120_000

/** The outcomes of a group's rows, by id; a row without one was not reached. */
function run(group, ids) {
  return new Promise((resolve) => {
    const outcomes = new Map()
    let told = ''
    let cpuSeconds = 0
    const child = fork(
      join(root, 'bench/faults/group-child.mjs'),
      [group.name, join(home, group.name), ...(options.full ? ['--full'] : []), ...ids],
      {
        execArgv: ['--import', join(root, 'bench/faults/typescript.mjs')],
        stdio: ['ignore', 'pipe', 'pipe', 'ipc']
      }
    )
    const hear = (text) => {
      told = (told + text).slice(-2000)
    }
    child.stdout.on('data', hear)
    child.stderr.on('data', hear)
    let timer
    const wait = () => {
      clearTimeout(timer)
      timer = setTimeout(() => child.kill('SIGKILL'), patienceMs)
    }
    wait()
    child.on('message', (outcome) => {
      wait()
      if (outcome.id === undefined) cpuSeconds = outcome.cpuSeconds
      else outcomes.set(outcome.id, outcome)
    })
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ outcomes, ended: code ?? signal, told, cpuSeconds })
    })
  })
}

const wanted = groups
  .map((group) => {
    const all = group.rows.filter((row) => options.full || !row.full)
    const some = only && !only.includes(group.name)
    return { group, rows: some ? all.filter(({ id }) => only.includes(id)) : all, some }
  })
  .filter(({ rows }) => rows.length > 0)
const problems = []
const report = []
/** Seconds of processor time, by group. */
const cost = {}
const queue = [...wanted]
async function work() {
  for (let next = queue.shift(); next; next = queue.shift()) {
    const { group, rows, some } = next
    const { outcomes, ended, told, cpuSeconds } = await run(group, some ? rows.map(({ id }) => id) : [])
    if (ended !== 0) problems.push(`${group.name}: its process ended with ${ended}: ${told}`)
    cost[group.name] = cpuSeconds
    for (const { id, covers, inject, code, recovery, at } of rows) {
      const outcome = outcomes.get(id) ?? { problems: ['not reached'] }
      for (const problem of outcome.problems ?? []) problems.push(`${group.name} ${id}: ${problem}`)
      report.push({ group: group.name, id, covers, inject, code: code ?? null, at, recovery, ...outcome })
    }
  }
}
await Promise.all(Array.from({ length: Number(options.jobs) }, work))
report.sort(
  (a, b) => groups.findIndex(({ name }) => name === a.group) - groups.findIndex(({ name }) => name === b.group)
)

const back = ({ left = [] }, ...kinds) => (kinds.some((kind) => left.includes(kind)) ? 'NO' : 'yes')
const ran = report.filter(({ skipped }) => skipped === undefined)
const stamp = environment()
printEnvironment(stamp)
printTable(
  ['group', 'fault', 'code', 'HTTP', 'exit', 'memory', 'handles', 'files', 'recovery', 'ms'],
  report.map((row) =>
    row.skipped
      ? [row.group, row.id, `skipped: ${row.skipped}`]
      : [
          row.group,
          row.id,
          Object.values(row.seen ?? {})[0] ?? '(none)',
          row.http,
          row.exit,
          back(row, 'memory'),
          back(row, 'handles', 'processes'),
          back(row, 'files'),
          row.problems.length > 0 ? 'NOT AS STATED' : row.recovery,
          row.ms
        ]
  )
)
const least = 60
if (!only && ran.length < least) problems.push(`${ran.length} faults were injected, of at least ${least}`)
if (process.env.CI) {
  for (const { group, id, skipped } of report) if (skipped) problems.push(`${group} ${id}: skipped in CI: ${skipped}`)
}
const codes = new Set(ran.map(({ code }) => code).filter(Boolean))
console.log(
  `${ran.length} faults, ${codes.size} codes of ${Object.keys(catalog).length}, ${report.length - ran.length} skipped; ${show((performance.now() - began) / 1000)} s, of ${show(sum(Object.values(cost)))} s on one core (${Object.entries(
    cost
  )
    .map(([name, seconds]) => `${name} ${show(seconds)}`)
    .join(', ')})`
)
writeReport('faults.json', { environment: stamp, cpuSeconds: cost, rows: report, problems })
for (const problem of problems) console.log(`FAILED: ${problem}`)
process.exitCode = problems.length > 0 ? 1 : 0
