// Same bits on every CPU: one SHA-256 over sequence 0's logits must be equal for every instruction set, thread count, prompt chunk
// and batch, wherever its experts are (cold, warm, hot), whether its routes are captured or replayed, and whatever TierSets the others of
// its steps change to; with flat routing, and with hierarchical routing under each TierSet of its own. Prints what each cell really ran, and fails where that is not what the cell asked for.
//   npm run determinism                     pairs of settings, all types, and the deep file (under 5 minutes on 2 cores)
//   npm run determinism -- --full           the whole cross product
//   npm run determinism -- --types f32,q8_0 [--no-deep] [--no-hser]
//   npm run determinism -- --mutant         builds the addon with one reordered sum and checks that the comparison turns red
//   npm run determinism -- --record         writes the hashes into bench/determinism.json; every other run compares with it too
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { createTokenizer } from '../dist/esm/model/tokenizer.js'
import { native } from '../dist/esm/native.js'
import { axes, crossProduct, pairwise, places, routes, tierSets } from './cells.mjs'
import { runCell, tally, tierMask } from './determinism-run.mjs'
import { environment, outputFolder, printEnvironment, printTable, root, writeReport } from './harness.mjs'
import { checkpointOf, hierarchicalModel, syntheticModel, trainedModel } from './models.mjs'
import { openModel } from './runtime.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    types: { type: 'string', default: 'f32,f16,q8_0,q4_0' },
    hser: { type: 'boolean', default: true },
    deep: { type: 'boolean', default: true },
    mutant: { type: 'boolean', default: false },
    record: { type: 'boolean', default: false },
    seed: { type: 'string', default: '1' }
  },
  allowNegative: true
})
const recordedPath = join(root, 'bench', 'determinism.json')

/** Builds the addon with a reordered sum and expects a run with it to fail by a differing hash, and by nothing else. */
function checkMutant() {
  const folder = join(outputFolder, 'mutant')
  const run = (args, env = {}) =>
    spawnSync(process.execPath, args, {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, ...env },
      maxBuffer: 1 << 26
    })
  const built = run(['scripts/build-addon.mjs', '--out', folder, '--', '--defines=TMOE_TEST_REORDERED_SUM'])
  const addon = join(folder, 'tiered_moe.node')
  if (built.status !== 0 || !existsSync(addon)) {
    console.error(`the mutant did not build:\n${built.stderr}`)
    return 1
  }
  const result = run(['bench/determinism.mjs', '--types', options.types, '--no-deep', '--no-hser'], {
    TIERED_MOE_ADDON: addon
  })
  const differing = result.stdout.split('\n').filter((line) => line.includes('DIFFERS'))
  console.log(differing.slice(0, 4).join('\n'))
  const caught = result.status === 1 && differing.length > 0
  console.log(
    caught
      ? `mutant caught: ${differing.length} cells differ`
      : `the mutant passed (exit ${result.status})\n${result.stdout}${result.stderr}`
  )
  return caught ? 0 : 1
}

const cpu = native().cpuInfo()
const available = { ...axes, isa: axes.isa.filter((isa) => cpu.isas.includes(isa)) }
const rows = []
const hashes = {}
const kept = {}
let failures = 0
let skipped = 0

/** Opens the model with its experts in a place (cells.mjs). */
async function openPlaced({ name, path, tiers }, place, options) {
  const [from, share] = place.split(' ')
  if (from === 'memory') return openModel(path, options)
  const percent = Number.parseInt(share, 10)
  return openModel(from === 'file' ? path : await checkpointOf(name, path, tiers), { ...options, percent })
}

/** What the store did while a cell ran, and whether that is what its place asks for. */
function describeUse(place, before, after, { count, slots } = {}) {
  if (!after) return { text: '-', problems: place === 'memory' ? [] : ['experts are in memory'] }
  const [uses, misses] = ['uses', 'misses'].map((key) => after[key] - before[key])
  const problems = []
  if (slots < count && misses === 0) problems.push(`${slots} of ${count} experts fit, and none was missing`)
  if (slots === count && misses > 0) problems.push(`all experts fit, and ${misses} were missing`)
  if (after.residentBytes > after.budgetBytes) problems.push('more experts in memory than the budget allows')
  return { text: `${misses} of ${uses}`, problems }
}

/** Whether two captures are the same bits. */
const sameRoutes = (a, b) =>
  ['ids', 'weights'].every((key) => Buffer.from(a[key].buffer).equals(Buffer.from(b[key].buffer)))

/**
 * Runs all cells over one file; those of one instruction set, thread count and place share the loaded model. Sequence 0 may use the first
 * `firstTiers` tiers of a hierarchical model.
 */
async function checkFile(file, cells, { firstTiers, ...shape }) {
  const { name } = file
  const groups = new Map()
  for (const cell of cells) {
    const key = `${cell.isa} ${cell.threads} ${cell.place}`
    groups.set(key, [...(groups.get(key) ?? []), cell])
  }
  let reference
  for (const group of groups.values()) {
    const [{ isa, threads, place = 'memory' }] = group
    const opened = await openPlaced(file, place, { isa, threads, maxBatchTokens: 512 })
    try {
      const tokenizer = createTokenizer(opened.metadata)
      const kernels = opened.backend.kernels()
      const others = Object.entries(kernels).filter(([, resolved]) => resolved !== isa)
      const enabled = firstTiers && tierMask(opened, firstTiers)
      for (const { chunk, batch, tierSet = 'all', routes = 'routed' } of group) {
        const size = chunk === 'all' ? shape.prompt : chunk
        const before = opened.model.expertStats()
        const replay = routes === 'replayed' ? reference?.routes : undefined
        const capture = !reference || routes !== 'routed'
        const cell = await runCell(opened, tokenizer, {
          ...shape,
          chunk: size,
          batch,
          tierSet,
          enabled,
          capture,
          replay
        })
        const use = describeUse(place, before, opened.model.expertStats(), opened.budget)
        const problems = [...cell.problems, ...use.problems]
        if (opened.backend.isa !== isa) problems.push(`backend runs ${opened.backend.isa}`)
        for (const [kernel, resolved] of others) problems.push(`${kernel} is ${resolved}`)
        reference ??= cell
        const equal =
          cell.hash === reference.hash &&
          cell.tokens.join() === reference.tokens.join() &&
          (!capture || sameRoutes(cell.routes, reference.routes))
        if (!equal || problems.length) failures++
        const resolved = others.length
          ? others.map(([kernel, other]) => `${kernel}:${other}`).join(',')
          : `${Object.keys(kernels).length} x ${isa}`
        const verdict = problems.length ? `NOT AS ASKED: ${problems[0]}` : equal ? 'equal' : 'DIFFERS'
        const mates = batch > 1 ? tierSet : '-'
        const ran = tally(cell.rows)
        rows.push([
          name,
          isa,
          threads,
          chunk,
          batch,
          place,
          use.text,
          mates,
          replay ? 'replayed' : capture ? 'captured' : '-',
          resolved,
          ran,
          cell.hash.slice(0, 12),
          verdict
        ])
      }
    } finally {
      opened.dispose()
    }
  }
  hashes[name] = reference.hash
  // A synthetic file's weights depend on the numpy that made it, so its hash is not kept between machines.
  if (!shape.lastOnly) kept[name] = reference.hash
}

function compareWithRecorded() {
  const recorded = existsSync(recordedPath) ? JSON.parse(readFileSync(recordedPath, 'utf8')) : {}
  if (options.record) {
    writeFileSync(recordedPath, `${JSON.stringify({ ...recorded, ...kept }, null, 2)}\n`)
    return
  }
  for (const [name, hash] of Object.entries(kept)) {
    const same = recorded[name] === hash
    if (recorded[name] && !same) failures++
    console.log(
      `${name}: ${hash} ${recorded[name] ? (same ? 'as recorded in bench/determinism.json' : 'DIFFERS from bench/determinism.json') : 'not recorded yet'}`
    )
  }
}

if (options.mutant) process.exit(checkMutant())

const started = performance.now()
const stamp = environment()
printEnvironment(stamp)
for (const isa of ['scalar', 'avx2', 'avx512']) {
  if (process.arch === 'x64' && !cpu.isas.includes(isa))
    console.log(`skipped ${isa}: this CPU has ${cpu.isas.join(', ')}`)
}
const stored = {
  isa: available.isa,
  threads: [1, 3],
  chunk: [7, 'all'],
  batch: [3],
  place: places,
  tierSet: tierSets,
  routes
}
const choose = () =>
  options.full
    ? [...crossProduct(available), ...crossProduct(stored)]
    : pairwise({ ...available, place: places, tierSet: tierSets, routes }, Number(options.seed))
for (const type of options.types.split(',')) {
  const { name, path } = await trainedModel(type)
  await checkFile({ name: `${name}, KV f16, 150 + 50 tokens`, path }, choose(), { prompt: 150, generate: 50 })
}
if (options.hser) {
  const path = await hierarchicalModel()
  for (const [set, firstTiers] of Object.entries({ 'all tiers': undefined, 'hot and warm': 2 })) {
    const file = { name: `hierarchical q8_0, ${set}, KV f16, 150 + 50 tokens`, path, tiers: null }
    await checkFile(file, choose(), { prompt: 150, generate: 50, firstTiers })
  }
}
if (options.deep) {
  const shape = { preset: 'olmoe-1b-7b', 'n-layer': 2, 'n-vocab': 4096, type: 'Q4_0' }
  const path = await syntheticModel('olmoe-2-layers-q4_0.gguf', shape)
  const deep = options.full
    ? crossProduct({ isa: available.isa, threads: [1, 2], chunk: [64, 256], batch: [1, 3] })
    : available.isa.map((isa, i) => ({
        isa,
        threads: (i % 2) + 1,
        chunk: [256, 64][i % 2],
        batch: [1, 3][i % 2],
        place: ['memory', 'file 50%'][i % 2],
        tierSet: ['all', 'changing'][i % 2]
      }))
  if (path)
    await checkFile({ name: 'olmoe, 2 layers, q4_0, depth 600', path }, deep, {
      prompt: 600,
      generate: 8,
      lastOnly: true
    })
  else skipped++
}

printTable(
  [
    'file',
    'isa',
    'threads',
    'chunk',
    'batch',
    'experts',
    'missing',
    "mates' TierSet",
    'routes',
    'kernels',
    'expertMatmul rows of the steps',
    'sha-256',
    'logits'
  ],
  rows
)
compareWithRecorded()
writeReport('determinism.json', { environment: stamp, full: options.full, hashes, cells: rows })
console.log(
  `${rows.length} cells in ${Math.round((performance.now() - started) / 1000)} s: ${rows.length - rows.filter((row) => row.at(-1) !== 'equal').length} equal, ${failures} failed, ${skipped} files skipped`
)
process.exit(failures || !rows.length ? 1 : 0)
