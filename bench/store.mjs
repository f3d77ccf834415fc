// How fast the expert store reads, beside raw O_DIRECT reads of the same file, and what a look-up costs when everything is resident.
//   node bench/store.mjs [--folder PATH] [--gguf FILE] [--threads 1,2,4,8] [--reps 3] [--seconds 1]
// Blobs have OLMoE's shape (Q4_0, 3.4 MiB); 2 GiB of them are written to the folder first (default .bench), outside of what is measured.
// Raw reads and the store take turns, because a disk's rate drifts; the best of the turns is the figure, its spread is shown beside it.
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import {
  environment,
  outputFolder,
  printEnvironment,
  printTable,
  root,
  show,
  summarise,
  writeReport
} from './harness.mjs'

const { values: options } = parseArgs({
  options: {
    folder: { type: 'string', default: outputFolder },
    gguf: { type: 'string' },
    threads: { type: 'string', default: '1,2,4,8' },
    reps: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' }
  }
})
const parts =
  /^csrc\/(core\/(store\/.*|file_errors|memory|model_file|status|threads|tie_hash|gathered_files|gguf|gguf_header|gguf_keys|gguf_types)|quant\/.*)\.cpp$/

/** The store's own sources and the measuring program, compiled as the addon is. */
function build() {
  const program = join(outputFolder, 'store_rate')
  const sources = readFileSync(join(root, 'csrc/sources.txt'), 'utf8')
    .split('\n')
    .filter((line) => parts.test(line))
  const [compiler, ...before] = (process.env.CXX ?? 'g++').split(' ')
  mkdirSync(outputFolder, { recursive: true })
  const flags = ['-std=c++17', '-O3', '-ffp-contract=off', '-fno-math-errno', '-fno-exceptions', '-pthread', '-Icsrc']
  execFileSync(compiler, [...before, ...flags, 'bench/store_rate.cpp', ...sources, '-o', program], {
    cwd: root,
    stdio: 'inherit'
  })
  return program
}

function blobFile() {
  const path = join(options.folder, 'store-blobs.bin')
  const bytes = 2 ** 31
  if (existsSync(path) && statSync(path).size === bytes) return path
  const noise = randomBytes(2 ** 24)
  const file = openSync(path, 'w')
  for (let at = 0; at < bytes; at += noise.length) writeSync(file, noise)
  fsyncSync(file)
  closeSync(file)
  return path
}

const program = build()
const blobs = blobFile()
/** Lines of numbers: the last is the figure, the others say of what. */
function measure(what, file, ...more) {
  const out = execFileSync(program, [what, file, options.seconds, ...more], { encoding: 'utf8' })
  return out
    .trim()
    .split('\n')
    .map((line) => line.split(' ').map(Number))
}

const stamp = environment()
printEnvironment(stamp)
const figures = new Map()
const note = (key, value) => figures.set(key, [...(figures.get(key) ?? []), value])
const threads = options.threads.split(',')
for (let turn = 0; turn < Number(options.reps); turn++) {
  for (const [kib, count, rate] of measure('probe', blobs)) note(`raw reads of ${kib} KiB, ${count} threads`, rate)
  for (const [count, rate] of measure('blobs', blobs, ...threads)) note(`store on blobs, ${count} threads`, rate)
  if (!options.gguf) continue
  for (const [count, rate] of measure('gguf', options.gguf, ...threads)) note(`store on GGUF, ${count} threads`, rate)
}
const rows = [...figures].map(([name, rates]) => ({ name, ...summarise(rates) }))
const best = Math.max(...rows.filter(({ name }) => name.startsWith('raw')).map(({ max }) => max))
printTable(
  ['reads', 'GB/s, best', 'median', 'least', 'of the best raw rate'],
  rows.map(({ name, max, median, min }) => [
    name,
    show(max),
    show(median),
    show(min),
    `${Math.round((100 * max) / best)} %`
  ])
)
const [[whole, bookkeeping]] = measure('look-up', blobs)
console.log(
  `a demand when everything is resident: ${show(whole)} ns, of them counted as bookkeeping ${show(bookkeeping)} ns`
)
writeReport('store.json', { environment: stamp, rows, lookUp: { whole, bookkeeping } })
