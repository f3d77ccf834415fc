// Mutated inputs for every parser: no crash, no hang, no memory without bounds, and nothing thrown but typed errors.
//   node bench/fuzz/main.mjs              a short part, the same inputs each time
//   node bench/fuzz/main.mjs --full       1,000,000 and more (--seed N: others)
//   node bench/fuzz/main.mjs --mutant     parsers with a planted fault: each has to be noticed
//   node bench/fuzz/main.mjs --only manifest,gguf [--count N]
// The addon's parsers run under libFuzzer, which needs clang; without it they are a reported skip, under CI=1 a failure. What showed a fault is kept
// in .bench/fuzz/<name>-<seed>-<number>.
import { spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { environment, outputFolder, printEnvironment, printTable, root, writeReport } from '../harness.mjs'
import { mutants } from './mutants.mjs'
import { buildMutant, buildNative, findClang, nativeQuotas, runNative } from './native.mjs'
import { quotas } from './targets.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    mutant: { type: 'boolean', default: false },
    only: { type: 'string' },
    count: { type: 'string' },
    seed: { type: 'string', default: '1' }
  }
})
const seed = Number(options.seed)
const wanted = options.only?.split(',')
const isWanted = (name) => wanted === undefined || wanted.includes(name)
const countOf = ({ full, short }) => Number(options.count ?? (options.full ? full : short))
/** Inputs of one process: what leaks adds up, and is found, but not for ever. */
const batch = 10_000

/** One process with inputs first … first + count - 1 of a target: what child.mjs prints, and the failure that ended it. */
function feed(name, first, count, { args = [], env = {}, quiet = false } = {}) {
  const state = join(outputFolder, `fuzz-${process.pid}-${name}-${first}.state`)
  const child = spawn(
    process.execPath,
    ['--max-old-space-size=512', ...args, join(root, 'bench/fuzz/child.mjs'), name, seed, first, count, state].map(
      String
    ),
    { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, NODE_NO_WARNINGS: '1', ...env } }
  )
  let [out, err] = ['', '']
  child.stdout.on('data', (text) => (out += text))
  child.stderr.on('data', (text) => (err = (err + text).slice(-4000)))
  return new Promise((resolve) => {
    child.on('close', (status, signal) => {
      if (status === 0) return resolve({ count, ...JSON.parse(out.trim().split('\n').at(-1)) })
      const bytes = Buffer.alloc(4)
      const file = openSync(state, 'r')
      readSync(file, bytes, 0, 4, 0)
      closeSync(file)
      const number = bytes.readUInt32LE()
      if (!quiet)
        console.log(`${name}: input ${number} of seed ${seed} ended the process (${signal ?? status}): ${err.trim()}`)
      resolve({
        count: number - first,
        outcomes: {},
        faults: [{ number, reason: err.trim() || String(signal ?? status) }],
        peakBytes: 0,
        slowestMs: 0
      })
    })
  }).finally(() => rmSync(state, { force: true }))
}

/** All batches of the wanted targets, as many processes at a time as there are cores. */
async function feedAll() {
  const jobs = Object.entries(quotas)
    .filter(([name]) => isWanted(name))
    .flatMap(([name, quota]) => {
      const count = countOf(quota)
      return Array.from({ length: Math.ceil(count / batch) }, (_, i) => [
        name,
        i * batch,
        Math.min(batch, count - i * batch)
      ])
    })
  const results = new Map()
  const work = async () => {
    for (let job = jobs.shift(); job; job = jobs.shift()) {
      const [name, first, count] = job
      const started = performance.now()
      const result = { ...(await feed(name, first, count)), seconds: (performance.now() - started) / 1000 }
      results.set(name, [...(results.get(name) ?? []), result])
    }
  }
  await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, work))
  return results
}

async function shortOrFull() {
  const problems = []
  const rows = []
  const total = { inputs: 0 }
  const note = (name, inputs, seconds, peakBytes, slowest, outcomes) => {
    total.inputs += inputs
    rows.push([name, inputs, Math.round(inputs / seconds), Math.round(peakBytes / 2 ** 20), slowest, outcomes])
  }
  const natives = Object.keys(nativeQuotas).filter(isWanted)
  const clang = natives.length > 0 ? findClang() : undefined
  if (clang) {
    const programs = await buildNative(clang)
    const jobs = natives.map((name) => async () => {
      const started = performance.now()
      const { inputs, failure, peakBytes, features } = await runNative(name, programs[name], {
        seed,
        runs: countOf(nativeQuotas[name])
      })
      if (failure) problems.push(`${name}: ${failure}`)
      note(
        name,
        inputs,
        (performance.now() - started) / 1000,
        peakBytes,
        '',
        `${features} features of the code reached`
      )
    })
    const work = async () => {
      for (let job = jobs.shift(); job; job = jobs.shift()) await job()
    }
    await Promise.all([work(), work()])
  } else if (natives.length > 0) {
    const text = `no clang++ here: ${natives.join(', ')} were not fuzzed (Debian: clang)`
    if (process.env.CI) problems.push(text)
    else console.log(`SKIPPED ${text}`)
  }
  for (const [name, results] of await feedAll()) {
    const sum = (key) => results.reduce((all, own) => all + own[key], 0)
    const most = (key) => Math.max(...results.map((own) => own[key]))
    const outcomes = {}
    for (const own of results)
      for (const [code, times] of Object.entries(own.outcomes)) outcomes[code] = (outcomes[code] ?? 0) + times
    for (const { faults } of results)
      for (const { number, reason } of faults) problems.push(`${name}, input ${number} of seed ${seed}: ${reason}`)
    const shown = Object.entries(outcomes).sort(([, a], [, b]) => b - a)
    note(
      name,
      sum('count'),
      sum('seconds'),
      most('peakBytes'),
      most('slowestMs'),
      shown.map((own) => own.join(' ')).join(', ')
    )
  }
  printTable(['parser', 'inputs', 'per s', 'peak MiB', 'slowest ms', 'what came of them'], rows)
  return { problems, rows, inputs: total.inputs }
}

/** Each planted fault has to be noticed by its own target. */
async function plant() {
  const problems = []
  const chosen = mutants.filter(({ target }) => isWanted(target))
  const clang = findClang()
  if (clang && chosen.some(({ target }) => target in nativeQuotas)) await buildNative(clang)
  const lane = async (mutants) => {
    for (const { name, target, file, from, to, inputs } of mutants) {
      let seen
      if (target in nativeQuotas) {
        if (!clang) {
          if (process.env.CI) problems.push(`${name}: no clang++ here`)
          else console.log(`SKIPPED ${name}: no clang++ here`)
          continue
        }
        const program = await buildMutant(clang, target, file, (text) => replaced(text, from, to))
        const { failure } = await runNative(target, program, { seed, runs: inputs })
        seen = failure
      } else {
        const env = { TIERED_MOE_MUTANT: JSON.stringify({ file, from, to }) }
        const args = [`--import=${new URL('./plant.mjs', import.meta.url)}`]
        const { faults } = await feed(target, 0, inputs, { args, env, quiet: true })
        seen = faults[0]?.reason
      }
      console.log(`${name}: ${seen ? `noticed: ${seen.split('\n')[0]}` : 'NOT noticed'}`)
      if (!seen) problems.push(`${name} was not noticed`)
    }
  }
  // Those of one parser in C++ share its program and its corpus.
  await Promise.all([
    lane(chosen.filter(({ target }) => target in nativeQuotas)),
    lane(chosen.filter(({ target }) => !(target in nativeQuotas)))
  ])
  return { problems }
}

function replaced(text, from, to) {
  if (!text.includes(from)) throw new Error(`the planted fault has no place: ${from}`)
  return text.replace(from, to)
}

mkdirSync(outputFolder, { recursive: true })
const stamp = environment()
printEnvironment(stamp)
const started = performance.now()
const report = await (options.mutant ? plant() : shortOrFull())
const seconds = (performance.now() - started) / 1000
writeReport('fuzz.json', { environment: stamp, seed, seconds, ...report })
for (const problem of report.problems) console.log(`FAILED ${problem}`)
if (!options.mutant)
  console.log(
    `${report.inputs} mutated inputs of seed ${seed} in ${Math.round(seconds)} s: ${report.problems.length} faults`
  )
process.exitCode = report.problems.length ? 1 : 0
