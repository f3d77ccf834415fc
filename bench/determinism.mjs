// Same bits on every CPU: one SHA-256 over sequence 0's logits must be equal for every instruction set, thread count, prompt chunk
// and batch, wherever its experts are (cold, warm, hot), whether its routes are captured or replayed, and whatever TierSets the others of
// its steps change to; with flat routing, and with hierarchical routing under each TierSet of its own; and whether an expert was there from
// the start or replaced or merged while the model serves, beside requests of before that; whether its prompt's beginning was computed or taken over
// from the prefix cache; and whether a model is a GGUF file or a folder of safetensors files. Prints what each cell really ran, and fails where that
// is not what the cell asked for.
//   npm run determinism                     pairs of settings, all types, and the deep file (under 2 minutes on 2 cores)
//   npm run determinism -- --full           the whole cross product; of tiny architectures' places, TierSets and routes pairs (about half an hour on 2 cores)
//   npm run determinism -- --types f32,q8_0 [--no-deep] [--no-hser] [--no-swap] [--no-others] [--no-folder]
//     [--no-architectures]
//   npm run determinism -- --mutant         builds the addon with a reordered sum in one instruction set and checks that the comparison turns red
//   npm run determinism -- --record         writes the hashes into bench/determinism.json; every other run compares with it too
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { native } from '../dist/esm/native.js'
import { addonObjects, compile, hostCompiler, link } from '../scripts/objects.mjs'
import { axes, crossProduct, pairwise, places, placesInTurn, routes, swaps, tierSets } from './cells.mjs'
import { checkFile, columns } from './determinism-file.mjs'
import { swappedModel } from './determinism-swap.mjs'
import { folderTwins } from './folder-twins.mjs'
import { environment, outputFolder, printEnvironment, printTable, root, show, writeReport } from './harness.mjs'
import { hierarchicalModel, syntheticModel, trainedModel } from './models.mjs'
import { everyOtherType } from './random-types.mjs'
import { tinyArchitectures } from './tiny-architectures.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    types: { type: 'string', default: 'f32,f16,q8_0,q4_0' },
    hser: { type: 'boolean', default: true },
    deep: { type: 'boolean', default: true },
    swap: { type: 'boolean', default: true },
    others: { type: 'boolean', default: true },
    folder: { type: 'boolean', default: true },
    architectures: { type: 'boolean', default: true },
    mutant: { type: 'boolean', default: false },
    record: { type: 'boolean', default: false },
    seed: { type: 'string', default: '1' }
  },
  allowNegative: true
})
const recordedPath = join(root, 'bench', 'determinism.json')

/** Links the addon with a reordered sum in one instruction set, and expects a run with it to fail by a differing hash, and by nothing else. */
async function checkMutant() {
  const folder = join(outputFolder, 'mutant')
  const source = `csrc/cpu/isa_${process.arch === 'arm64' ? 'neon' : 'avx2'}.cpp`
  const objects = await addonObjects()
  const [changed] = await compile(hostCompiler, folder, [source], () => ['-DTMOE_TEST_REORDERED_SUM'])
  objects.set(source, changed)
  const addon = await link(hostCompiler, join(folder, 'tiered_moe.node'), [...objects.values()], '-shared')
  const only = ['--no-deep', '--no-hser', '--no-swap', '--no-others', '--no-folder', '--no-architectures']
  const result = spawnSync(process.execPath, ['bench/determinism.mjs', '--types', options.types, ...only], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, TIERED_MOE_ADDON: addon },
    maxBuffer: 1 << 26
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
const files = []
const kept = {}
let failures = 0
let skipped = 0

/** Runs the cells over a file. `recorded`: its hash is that of a file that is the same on every machine. */
async function check(file, cells, shape, { recorded = false } = {}) {
  const checked = await checkFile(file, cells, shape)
  failures += checked.failures
  files.push({ name: file.name, ...checked })
  if (recorded) kept[file.name] = checked.hash
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

if (options.mutant) process.exit(await checkMutant())

const started = performance.now()
const stamp = environment()
printEnvironment(stamp)
for (const isa of ['scalar', 'avx2', 'avx512']) {
  if (process.arch === 'x64' && !cpu.isas.includes(isa))
    console.log(`skipped ${isa}: this CPU has ${cpu.isas.join(', ')}`)
}
/** Two pages of KV cache and more than one chunk of each size; what --full has is twice that. */
const whole = options.full ? { prompt: 150, generate: 50 } : { prompt: 80, generate: 24 }
const short = { prompt: 40, generate: 10 }
const lengths = ({ prompt, generate }) => `KV f16, ${prompt} + ${generate} tokens`
/** What does not depend on where experts are is crossed with fewer of the kernels' settings. */
const few = { isa: available.isa, threads: [1, 3], chunk: [7, 'all'], batch: [3] }
let turn = 0
const placesNow = () => (options.full ? places : placesInTurn(turn++))
const seed = Number(options.seed)

/** Cells in which a prompt's beginning is in the prefix cache. */
const reusing = (places) => pairwise({ ...few, place: places, tierSet: tierSets, prefix: ['cached'] }, seed)
const twoPlaces = ['memory', 'checkpoint 50%']

/** The cells of a model of `name`; where its experts are and whose routes it takes needs no long text. */
async function checkModel(name, file, firstTiers) {
  const [long, brief] = [whole, short].map((shape) => ({ ...file, name: `${name}, ${lengths(shape)}` }))
  const cells = options.full
    ? crossProduct(available)
    : pairwise({ ...available, place: placesNow(), tierSet: tierSets, routes }, seed)
  const cached = reusing(options.full ? places : twoPlaces)
  await check(long, [...cells, ...cached], { ...whole, firstTiers }, { recorded: true })
  if (options.full)
    await check(brief, crossProduct({ ...few, place: places, tierSet: tierSets, routes }), { ...short, firstTiers })
}

/** Of a tiny file of an architecture: where experts are and whose routes are taken, which is the same code for all, is met in pairs only. */
async function checkArchitecture(name, path) {
  const placed = options.full ? { place: places, tierSet: tierSets, routes } : { place: twoPlaces }
  const cells = [...(options.full ? crossProduct(available) : []), ...pairwise({ ...available, ...placed }, seed)]
  const file = { path, name: `${name}, ${lengths(whole)}` }
  await check(file, [...cells, ...reusing(twoPlaces)], whole, { recorded: true })
}

for (const type of options.types.split(',')) {
  const { name, path } = await trainedModel(type)
  await checkModel(name, { path })
}
if (options.hser) {
  const path = await hierarchicalModel()
  for (const [set, firstTiers] of Object.entries({ 'all tiers': undefined, 'hot and warm': 2 }))
    await checkModel(`hierarchical q8_0, ${set}`, { path, tiers: null }, firstTiers)
}
if (options.architectures) {
  for (const { name, path } of await tinyArchitectures()) await checkArchitecture(name, path)
}
if (options.swap) {
  const { before, after, blobs } = await swappedModel()
  const choose = (axes) => (options.full ? crossProduct(axes) : pairwise({ ...axes, threads: available.threads }, seed))
  for (const [name, path, epoch, swap] of [
    ['before', before, 0, ['none', 'beside']],
    ['after', after, 1, swaps]
  ]) {
    const file = { name: `f32, ${name} a swap, ${lengths(short)}`, path, swapped: { from: before, blobs, epoch } }
    await check(file, choose({ ...few, place: placesNow(), swap }), short)
  }
  // Without this a swap that changes nothing would be equal too.
  const [old, now] = files.slice(-2)
  if (old.hash === now.hash) {
    failures++
    console.log(`NOT AS ASKED: ${now.name} has the hash of ${old.name}`)
  }
}
if (options.others) {
  const name = `every other weight type in one random file, ${lengths(short)}`
  const settings = { ...few, place: placesNow() }
  const cells = options.full ? crossProduct(settings) : pairwise({ ...settings, tierSet: tierSets }, seed)
  await check({ name, path: await everyOtherType() }, cells, short, { recorded: true })
}
if (options.folder) {
  for (const { name, folder, gguf } of await folderTwins()) {
    const axes = { ...few, place: placesNow() }
    const cells = options.full ? crossProduct(axes) : pairwise(axes, seed)
    for (const [what, path] of Object.entries({ 'a folder': folder, 'its GGUF twin': gguf }))
      await check({ name: `${name}, ${what}, ${lengths(short)}`, path }, cells, short, { recorded: true })
    const [one, other] = files.slice(-2)
    if (one.hash !== other.hash) {
      failures++
      console.log(`DIFFERS: ${one.name} has ${one.hash}, ${other.name} ${other.hash}`)
    }
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
  // Its weights depend on the numpy that made it, so its hash is not kept between machines.
  const lengths = { prompt: options.full ? 600 : 300, generate: 8, lastOnly: true }
  if (path) await check({ name: `olmoe, 2 layers, q4_0, depth ${lengths.prompt}`, path }, deep, lengths)
  else skipped++
}

const rows = files.flatMap((file) => file.rows)
printTable(columns, rows)
for (const { name, rows, milliseconds } of files) {
  const seconds = milliseconds.reduce((sum, ms) => sum + ms, 0) / 1000
  console.log(`${name}: ${rows.length} cells, ${show(seconds)} s of them`)
}
compareWithRecorded()
writeReport('determinism.json', { environment: stamp, full: options.full, files })
console.log(
  `${rows.length} cells in ${Math.round((performance.now() - started) / 1000)} s: ${rows.length - rows.filter((row) => row.at(-1) !== 'equal').length} equal, ${failures} failed, ${skipped} files skipped`
)
process.exitCode = failures || !rows.length ? 1 : 0
