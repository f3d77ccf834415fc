// Budgets hold: an engine under a random load, with TierSets, pins, models and the memory of the machine changing all the time.
//   npm run bench:soak                  20 seconds on the embedded model (CI), as a GGUF file and as a tiered checkpoint
//   npm run bench:soak -- --full        10 minutes on the OLMoE-shaped file of 7 billion parameters, likewise
//   npm run bench:soak -- --mutant      what the check is for is done: it has to notice a budget that is not kept, a leak, and growth
// Judged: the allocator's live bytes against what the models may hold, every moment of them (high-water marks); the peak of resident memory
// against that and a constant; file descriptors, threads and the addon's counters back where they were; no growth; under a memory control
// group of budget + constant, no out-of-memory kill. Without a group (root, cgroup v1 or v2) that part is skipped, and said to be.
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { convertModel } from '../dist/esm/index.js'
import { memoryGroup } from './cgroup.mjs'
import { lastLine, runToEnd } from './children.mjs'
import {
  environment,
  mebibytes,
  outputFolder,
  printEnvironment,
  printTable,
  root,
  show,
  writeReport
} from './harness.mjs'
import { bigModel, embeddedModel } from './models.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    mutant: { type: 'boolean', default: false },
    seconds: { type: 'string' },
    seed: { type: 'string', default: '1' },
    group: { type: 'boolean', default: true }
  },
  allowNegative: true
})
const MiB = 2 ** 20
/**
 * Beside the memory of its models: Node with its code, V8's heap (tokenizers, what calls have returned), threads' stacks, the huge page that a
 * store has begun. Measured: 45 MiB of code, up to 115 in all; the rest is room in a control group for files that are read.
 */
const processBytes = 160 * MiB
/** Growth of what remains beside the models after a collection, over a run: malloc's arenas and the samples of the run itself. */
const mostGrowth = 24 * MiB

/** Half of the experts are hot, a quarter is warm, a quarter cold. */
const tiersOf = (experts) => [
  { name: 'core', placement: 'hot', experts: [`0-${experts / 2 - 1}`] },
  { name: 'middle', placement: 'warm', experts: [`${experts / 2}-${(experts * 3) / 4 - 1}`] },
  { name: 'outer', placement: 'cold', experts: 'rest' }
]
async function checkpoint(name, from, tiers) {
  const folder = process.env.TIERED_MOE_BENCH_MODELS ?? join(outputFolder, 'models')
  mkdirSync(folder, { recursive: true })
  const to = join(folder, `${name}.checkpoint`)
  if (!existsSync(join(to, 'manifest.json'))) await convertModel({ from, to, tiers })
  return to
}

/** Bytes of the two models, of the guest and of the second's prefix cache, the beginning that prompts share, the sizes of requests. */
const scale = options.full
  ? {
      each: 1280 * MiB,
      guest: 8 * MiB,
      prefixes: 64 * MiB,
      common: 192,
      prompt: 256,
      text: 64,
      abortMs: 3000,
      seconds: 600,
      experts: 64,
      workers: 6
    }
  : {
      each: 8 * MiB,
      guest: 5.5 * MiB,
      prefixes: 0.5 * MiB,
      common: 70,
      prompt: 180,
      text: 60,
      abortMs: 150,
      seconds: 20,
      experts: 16,
      workers: 6
    }
const file = options.full ? await bigModel() : embeddedModel
if (!file) process.exit(0)
const tiers = tiersOf(scale.experts)
const memory = 2 * scale.each + scale.guest
const settings = {
  seed: Number(options.seed),
  seconds: Number(options.seconds ?? (options.mutant ? 6 : scale.seconds)),
  threads: 2,
  maxBatchTokens: 64,
  workers: scale.workers,
  memory,
  models: [
    { id: 'file', model: file, memory: scale.each, tiers, cachePolicy: 'adaptive', prefetch: 'auto' },
    {
      id: 'folder',
      model: await checkpoint(options.full ? 'olmoe-three-tiers' : 'tiny-three-tiers', file, tiers),
      memory: scale.each,
      prefixCache: scale.prefixes,
      cachePolicy: 'lru',
      prefetch: 'on'
    }
  ],
  guest: { model: embeddedModel, memory: scale.guest },
  size: scale,
  claim: 1
}

/** One run, in a control group of budget + constant where one can be made: {result, kills, group}. */
async function run(own = {}) {
  const group = options.group ? memoryGroup(memory + processBytes) : undefined
  // Pressure is for real where the group bounds it: something else takes all but this much, less than the engine wants free.
  const given = { ...settings, ...(group && { pressTo: 40 * MiB }), ...own }
  const args = ['--expose-gc', join(root, 'bench', 'soak-child.mjs'), JSON.stringify(given)]
  const ended = await (group
    ? group.run(process.execPath, args, given.seconds + 300)
    : runToEnd(process.execPath, args))
  group?.remove()
  return { ...ended, group: group !== undefined, result: ended.status === 0 ? lastLine(ended.output) : undefined }
}

/** MiB a minute, by least squares, of the last two thirds of [ms, value] pairs. */
function slope(series) {
  const late = series.slice(Math.floor(series.length / 3))
  const mean = (pick) => late.reduce((sum, one) => sum + pick(one), 0) / late.length
  const [x, y] = [mean(([at]) => at), mean(([, value]) => value)]
  const top = late.reduce((sum, [at, value]) => sum + (at - x) * (value - y), 0)
  const bottom = late.reduce((sum, [at]) => sum + (at - x) ** 2, 0)
  return { perMinute: (top / bottom) * 60_000, over: (top / bottom) * (late.at(-1)[0] - late[0][0]) }
}

/** What is wrong with a run, one line each. */
function judge({ status, signal, complaint, kills, result }) {
  if (!result) {
    const killed = kills > 0 ? ` (${kills} out-of-memory kills)` : ''
    return [`the process ended with ${signal ?? status}${killed}: ${complaint.trim().slice(-600)}`]
  }
  const problems = result.problems.map((problem) => `a request or a call failed: ${problem}`)
  const { excess, own, resident, allowed, before, after, counts } = result
  if (excess > 0) problems.push(`live bytes exceeded the budget by ${excess}`)
  if (resident > memory + processBytes)
    problems.push(
      `the peak of resident memory was ${mebibytes(resident)} MiB, beyond the budget of ${mebibytes(memory)} and ${mebibytes(processBytes)}`
    )
  if (own > processBytes) problems.push(`beside the models the process took ${mebibytes(own)} MiB`)
  for (const [what, value] of Object.entries(before)) {
    if (after[what] > value) problems.push(`${what}: ${after[what]} at the end, ${value} before`)
  }
  const grown = slope(result.remains).over
  if (grown > mostGrowth) problems.push(`what is not the models' grew by ${mebibytes(grown)} MiB`)
  if (kills > 0) problems.push(`${kills} out-of-memory kills`)
  if (allowed[1] > memory) problems.push(`models may take ${allowed[1]} bytes of the engine's ${memory}`)
  for (const what of ['finished', 'left', 'cached', 'forwards', 'activations', 'pins', 'loads']) {
    if (counts[what] === 0) problems.push(`nothing was tried of: ${what}`)
  }
  return problems
}

function print({ result, group, peakBytes }) {
  const { looks, live, tightest, allowed, resident, own, before, after, counts, failed, experts } = result
  const rate = slope(result.remains)
  printTable(
    ['', 'greatest', 'limit'],
    [
      [
        'live bytes, MiB',
        show(live / MiB),
        `${show(allowed[0] / MiB)}-${show(allowed[1] / MiB)} (as pressure allowed)`
      ],
      ['live bytes ÷ what was allowed then', tightest.toFixed(4), 1],
      ['resident, MiB', show(resident / MiB), mebibytes(memory + processBytes)],
      ["of that not the models', MiB", show(own / MiB), mebibytes(processBytes)],
      [
        'charged to the control group, MiB',
        group ? show(peakBytes / MiB) : '-',
        group ? mebibytes(memory + processBytes) : '-'
      ]
    ]
  )
  console.log(
    `${looks} looks; what remains beside the models after a collection changes by ${show(rate.perMinute / 1024)} KiB a minute`
  )
  const figures = (object) =>
    Object.entries(object)
      .map(([name, value]) => `${name} ${value}`)
      .join(', ')
  console.log(
    `before: ${figures(before)}; after: ${figures(after)}; at most ${result.files} files, ${result.threads} threads`
  )
  console.log(figures(counts))
  console.log(`ended early: ${figures(failed)}`)
  for (const [i, { hits, late, misses, evictions, pressureEvents, readErrors }] of experts.entries())
    console.log(`${settings.models[i].id}: ${figures({ hits, late, misses, evictions, pressureEvents, readErrors })}`)
}

const stamp = environment()
printEnvironment(stamp)
if (options.mutant) {
  const mutants = {
    'a budget that is a tenth smaller than what is used': [{ claim: 0.9 }, /^live bytes exceeded/],
    'a file that is never closed': [{ mutant: 'leak' }, /^openFiles: /],
    'memory that only grows': [{ mutant: 'growth', seconds: 9 }, /^what is not the models' grew/]
  }
  let missed = 0
  // Each by its own sentence: a process that ends for another reason has not been noticed.
  for (const [what, [own, sentence]] of Object.entries(mutants)) {
    const problems = judge(await run(own))
    const noticed = problems.find((problem) => sentence.test(problem))
    console.log(
      noticed ? `noticed: ${what} (${noticed})` : `MISSED: ${what} (${problems.join('; ') || 'no complaint'})`
    )
    if (!noticed) missed++
  }
  process.exit(missed ? 1 : 0)
}
const outcome = await run()
const problems = judge(outcome)
if (outcome.result) print(outcome)
const { series, remains, ...rest } = outcome.result ?? {}
writeReport('soak.json', {
  environment: stamp,
  settings,
  group: outcome.group,
  result: rest,
  remains,
  series,
  problems
})
for (const problem of problems) console.log(`FAILED: ${problem}`)
if (problems.length === 0)
  console.log(`budgets held for ${settings.seconds} s${outcome.group ? ', and nothing was killed' : ''}`)
process.exitCode = problems.length > 0 ? 1 : 0
