// This package beside the best of llama.cpp on large files, cell by cell: a file with a number of threads. Each round of a cell is written as it
// ends (.bench/cells/), so that an interrupted run goes on; rounds of other native code do not count.
//   node bench/matrix.mjs --peer-source LLAMA_CPP               every file with 2 and 1 threads: hours (llama.cpp with llama-bench and
//                                                                llama-batched-bench built, as ../shared/peer/README.md says)
//   … --files olmoe-q4_0,qwen3-q8_0 --threads 2 --rounds 3      some of it
//   … --show                                                     what has been measured, whatever the commit
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import {
  environment,
  mebibytes,
  outputFolder,
  printEnvironment,
  printTable,
  root,
  showSpread,
  summarise
} from './harness.mjs'
import {
  firstOwn,
  firstPeer,
  measureBatched,
  measureLlamaBench,
  measureNode,
  measureOwn,
  sizes
} from './matrix-peers.mjs'
import { syntheticModel } from './models.mjs'
import { hasNodePeer, mayRunRealtime } from './peers.mjs'
import { compiled } from './programs.mjs'

const olmoe = { preset: 'olmoe-1b-7b', 'n-ctx': 8192 }
const qwen3 = { preset: 'qwen3-30b-a3b', 'n-layer': 12 }
/** `repacks`: llama.cpp does so with this type, which costs it memory and time at the start. `decode`: at least so many times as fast at depth 0. */
const files = {
  'olmoe-q4_0': { shape: olmoe, type: 'Q4_0', rounds: 7, repacks: true, decode: 1.1 },
  'olmoe-q8_0': { shape: olmoe, type: 'Q8_0', rounds: 3, repacks: false, decode: 1 },
  'olmoe-q4_k_m': { shape: olmoe, type: 'Q4_K_M', rounds: 3, repacks: true, decode: 1.3 },
  'qwen3-q4_0': { shape: qwen3, type: 'Q4_0', rounds: 7, repacks: true, decode: 1.1 },
  'qwen3-q8_0': { shape: qwen3, type: 'Q8_0', rounds: 3, repacks: false, decode: 1 },
  'qwen3-q4_k_m': { shape: qwen3, type: 'Q4_K_M', rounds: 3, repacks: true, decode: 1.3 },
  'qwen3-mxfp4': { shape: qwen3, type: 'MXFP4', rounds: 3, repacks: true, decode: 1.1 }
}
/** The deepest takes llama.cpp minutes: so many rounds have it. */
const deepRounds = 3

const { values: options } = parseArgs({
  options: {
    files: { type: 'string', default: Object.keys(files).join() },
    threads: { type: 'string', default: '2,1' },
    rounds: { type: 'string' },
    'peer-source': { type: 'string' },
    show: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false }
  }
})
const names = options.files.split(',')
const unknown = names.find((name) => !files[name])
if (unknown) throw new Error(`no file ${unknown}: ${Object.keys(files).join(', ')}`)
const folder = join(outputFolder, 'cells')
mkdirSync(folder, { recursive: true })
const stamp = environment()
printEnvironment(stamp)
const git = (...args) => execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim()
if (!options.show && git('status', '--porcelain', 'csrc'))
  throw new Error('csrc/ has changes: commit them, so that the figures say what they are of')
const nativeCode = git('rev-parse', 'HEAD:csrc')

const cellPath = (name, threads) => join(folder, `${name}-${threads}t.json`)
function readCell(name, threads) {
  const path = cellPath(name, threads)
  const cell = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : { rounds: [] }
  return options.show ? cell : { ...cell, rounds: cell.rounds.filter(({ native }) => native === nativeCode) }
}

/** One round: every contender once, in an order that turns with each round. */
async function round(index, request, peers) {
  const figures = { commit: stamp.commit, native: nativeCode, date: new Date().toISOString(), peers: {} }
  const turns = [
    async () => {
      figures.own = await measureOwn(request)
      figures.first = await firstOwn(request)
    },
    ...Object.entries(peers).map(([name, measure]) => async () => {
      figures.peers[name] = await measure(request)
    })
  ]
  for (const turn of index % 2 ? turns.reverse() : turns) await turn()
  return figures
}

async function measure(name, threads, path) {
  const file = files[name]
  const bin = (program) => join(options['peer-source'], 'build', 'bin', program)
  const peers = {
    'llama-bench': (request) => measureLlamaBench(bin('llama-bench'), request),
    'llama-batched-bench': (request) => measureBatched(bin('llama-batched-bench'), request),
    ...(hasNodePeer && mayRunRealtime() && { 'node-llama-cpp, chrt': (request) => measureNode(request, true) }),
    ...(hasNodePeer && { 'node-llama-cpp': (request) => measureNode(request, false) }),
    'its first token': (request) => firstPeer(compiled('peer_first', options['peer-source']), request)
  }
  const cell = { name, threads, ...readCell(name, threads), environment: stamp }
  const wanted = Number(options.rounds ?? file.rounds)
  while (cell.rounds.length < wanted) {
    const index = cell.rounds.length
    const depths = sizes.depths.slice(0, index < deepRounds ? undefined : -1)
    cell.rounds.push(await round(index, { path, threads, depths }, peers))
    writeFileSync(cellPath(name, threads), `${JSON.stringify(cell, null, 1)}\n`)
  }
}

/** What the issue asks of a cell: `[what, values of the rounds, the least that will do, or the most]`. */
function judged(name, threads, { rounds }) {
  const { decode, repacks } = files[name]
  const share = threads === 1 ? 0.9 : 1
  const best = ({ peers }, figure) => Math.max(...Object.values(peers).map((peer) => figure(peer) ?? 0))
  const ratio = (own, peer) => rounds.filter((r) => own(r.own)).map((r) => own(r.own) / best(r, peer))
  const ceiling = (depth) =>
    rounds
      .filter(({ own }) => own.decodeAt[depth])
      .map(({ own: { decodeAt, weightBytes, kvBytes } }) => {
        const { rate, bandwidth } = decodeAt[depth]
        return (rate * (weightBytes + kvBytes * (depth + sizes.decode / 2))) / bandwidth
      })
  const at = { 0: decode, 512: 1.3, 4096: 2 }
  const peerFirst = (r) => r.peers['its first token']
  return [
    [
      'prefill of 512',
      ratio(
        ({ prefill }) => prefill,
        ({ prefill }) => prefill
      ),
      4 * share
    ],
    ...sizes.depths.flatMap((depth) => [
      [
        `decode at ${depth}`,
        ratio(
          ({ decodeAt }) => decodeAt[depth]?.rate,
          ({ decodeAt }) => decodeAt?.[depth]
        ),
        at[depth] * share
      ],
      ['the same ÷ bandwidth', ceiling(depth), 0.85 * share]
    ]),
    [
      `${sizes.sequences} sequences`,
      ratio(
        ({ together }) => together.rate,
        ({ together }) => together
      ),
      2 * share
    ],
    [
      'first token, times as early',
      rounds.map((r) => peerFirst(r).seconds / r.first.seconds),
      (repacks ? 2 : 1.2) * share
    ],
    [
      'peak memory less cache',
      rounds.map((r) => (r.first.peakBytes - r.first.kvBytes) / (peerFirst(r).peakBytes - r.first.kvBytes)),
      repacks ? 0.65 : 1.1,
      'most'
    ]
  ]
}

let missed = 0
for (const name of names) {
  const { shape, type } = files[name]
  const path = !options.show && (await syntheticModel(`matrix-${name}.gguf`, { ...shape, type }))
  for (const threads of options.threads.split(',').map(Number)) {
    if (path) await measure(name, threads, path)
    const cell = readCell(name, threads)
    if (!cell.rounds.length) continue
    console.log(`\n${name}, ${threads} threads, ${cell.rounds.length} rounds`)
    const rows = judged(name, threads, cell).map(([what, values, limit, side]) => {
      const spread = summarise(values)
      const kept = side === 'most' ? spread.median <= limit : spread.median >= limit
      if (!kept) missed++
      return [what, showSpread(spread), `${side ?? 'least'} ${limit.toFixed(2)}`, kept ? 'kept' : 'MISSED']
    })
    printTable(['', 'ratio, or share', 'expected', ''], rows)
    const { own, first } = cell.rounds.at(-1)
    const decoded = Object.entries(own.decodeAt).map(
      ([depth, { rate, bandwidth }]) => `${rate.toFixed(1)} at ${depth} (${(bandwidth / 1e9).toFixed(1)} GB/s)`
    )
    console.log(
      `the last round, tokens/s: prefill ${own.prefill.toFixed(0)}, decode ${decoded.join(', ')}, together ${own.together.rate.toFixed(0)}; ` +
        `first token ${first.seconds.toFixed(2)} s, ${mebibytes(first.peakBytes)} MiB`
    )
  }
  if (path && !options.keep) rmSync(path)
}
console.log(missed ? `\n${missed} figures fall short` : '\nevery figure is kept')
if (missed && !options.show) process.exitCode = 1
