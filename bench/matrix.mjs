// This package beside the best that llama.cpp does, cell by cell: a file with a number of threads.
//   npm run bench:matrix                                        a small file beside node-llama-cpp, if that is there: that it works
//   npm run bench:matrix -- --full --peer-source LLAMA_CPP      every large file with 2 threads and with 1: hours (a checkout of llama.cpp with
//                                                                llama-bench and llama-batched-bench built, as ../shared/peer/README.md says)
//   … --files olmoe-q4_0,qwen3-q8_0 --threads 2 --rounds 3      some of it
//   … --show                                                     what has been measured, of whatever code
//   … --pictures                                                 writes the README's picture into docs/pictures
// With --full each round of a cell is written as it ends (bench/matrix/, what the README's picture shows), so that an interrupted run goes on; rounds of
// other code, or of another processor, do not count.
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
  summarise,
  writeReport
} from './harness.mjs'
import {
  firstOwn,
  firstPeer,
  measureBatched,
  measureDeep,
  measureLlamaBench,
  measureNode,
  measureOwn,
  removeStates
} from './matrix-peers.mjs'
import { syntheticModel, trainedModel } from './models.mjs'
import { hasNodePeer, mayRunRealtime } from './peers.mjs'
import { groupedBars } from './plot.mjs'
import { compiled } from './programs.mjs'

const olmoe = { preset: 'olmoe-1b-7b', 'n-ctx': 8192 }
const qwen3 = { preset: 'qwen3-30b-a3b', 'n-layer': 12 }
const tiny = {
  rounds: 3,
  overNode: 5,
  sizes: { prompt: 128, decode: 120, depths: [0, 128], sequences: 8, shortPrompt: 16 }
}
/**
 * `repacks`: llama.cpp does so with this type, which costs it memory and time at the start. `decode`: at least so many times as fast at depth 0.
 * `trained`: the small trained model with weights of that type, beside node-llama-cpp alone: `overNode` times as fast in decoding, at least.
 */
const large = {
  files: {
    'olmoe-q4_0': { shape: olmoe, type: 'Q4_0', rounds: 7, repacks: true, decode: 1.1 },
    'olmoe-q8_0': { shape: olmoe, type: 'Q8_0', rounds: 3, repacks: false, decode: 1 },
    'olmoe-q4_k_m': { shape: olmoe, type: 'Q4_K_M', rounds: 3, repacks: true, decode: 1.3 },
    'qwen3-q4_0': { shape: qwen3, type: 'Q4_0', rounds: 7, repacks: true, decode: 1.1 },
    'qwen3-q8_0': { shape: qwen3, type: 'Q8_0', rounds: 3, repacks: false, decode: 1 },
    'qwen3-q4_k_m': { shape: qwen3, type: 'Q4_K_M', rounds: 3, repacks: true, decode: 1.3 },
    'qwen3-mxfp4': { shape: qwen3, type: 'MXFP4', rounds: 3, repacks: true, decode: 1.1 },
    'tiny-f32': { trained: 'f32', ...tiny },
    'tiny-q8_0': { trained: 'q8_0', ...tiny }
  },
  sizes: { prompt: 512, decode: 64, depths: [0, 512, 4096], sequences: 8, shortPrompt: 16 },
  threads: [2, 1]
}
const small = {
  files: { 'small-q4_0': { shape: { preset: 'tiny' }, type: 'Q4_0', rounds: 1, repacks: true, decode: 1.1 } },
  sizes: { prompt: 64, decode: 16, depths: [0, 64, 256], sequences: 4, shortPrompt: 8, attempts: 1 },
  threads: [2]
}

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    files: { type: 'string' },
    threads: { type: 'string' },
    rounds: { type: 'string' },
    'peer-source': { type: 'string' },
    show: { type: 'boolean', default: false },
    pictures: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false }
  }
})
const { files, sizes, ...defaults } = options.full ? large : small
const names = options.files?.split(',') ?? Object.keys(files)
const threadCounts = options.threads?.split(',').map(Number) ?? defaults.threads
const unknown = names.find((name) => !files[name])
if (unknown) throw new Error(`no file ${unknown}: ${Object.keys(files).join(', ')}`)
const stamp = environment()
printEnvironment(stamp)

/** What the figures depend on, as git names it; a small run keeps nothing. */
function codeNow() {
  if (!options.full || options.show) return undefined
  const git = (...args) => execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim()
  const measuring = ['measure-steps.mjs', 'matrix-peers.mjs', 'peer_deep.cpp', 'peer_first.cpp']
  const parts = ['csrc/core', 'csrc/cpu', 'csrc/quant', ...measuring.map((name) => `bench/${name}`)]
  if (git('status', '--porcelain', ...parts)) throw new Error(`commit the changes of ${parts.join(', ')} first`)
  return parts.map((part) => git('rev-parse', '--short', `HEAD:${part}`)).join(' ')
}
const code = codeNow()
const folder = options.full ? join(root, 'bench', 'matrix') : join(outputFolder, 'cells')
mkdirSync(folder, { recursive: true })
const cellPath = (name, threads) => join(folder, `${name}-${threads}t.json`)
function roundsOf(name, threads) {
  const path = cellPath(name, threads)
  const rounds = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')).rounds : []
  if (options.show) return rounds
  return rounds.filter((round) => code !== undefined && round.code === code && round.cpu === stamp.cpu)
}

/** A cell's JSON, a line for each round. */
const cellText = (head, rounds) =>
  `${JSON.stringify(head).slice(0, -1)},"rounds":[\n${rounds.map((one) => JSON.stringify(one)).join(',\n')}\n]}\n`

/** One round: every contender once, in an order that turns with each round. */
async function round(index, request, peers) {
  const figures = { commit: stamp.commit, code, cpu: stamp.cpu, date: new Date().toISOString(), peers: {} }
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

const modelOf = async (name) => {
  const { trained, shape, type } = files[name]
  return trained ? (await trainedModel(trained)).path : syntheticModel(`matrix-${name}.gguf`, { ...shape, type })
}
const sizesOf = (name) => files[name].sizes ?? sizes
const withThreads = (threads) => `${threads} thread${threads === 1 ? '' : 's'}`

async function measure(name, threads, path) {
  const source = files[name].trained ? undefined : options['peer-source']
  const bin = (program) => join(source, 'build', 'bin', program)
  const peers = {
    ...(source && {
      'llama-bench': (request) => measureLlamaBench(bin('llama-bench'), request),
      'llama.cpp, deepest': (request) => measureDeep(compiled('peer_deep', source), request),
      'llama-batched-bench': (request) => measureBatched(bin('llama-batched-bench'), request),
      'its first token': (request) => firstPeer(compiled('peer_first', source), request)
    }),
    ...(hasNodePeer && mayRunRealtime() && { 'node-llama-cpp, chrt': (request) => measureNode(request, true) }),
    ...(hasNodePeer && { 'node-llama-cpp': (request) => measureNode(request, false) })
  }
  const rounds = roundsOf(name, threads)
  while (rounds.length < Number(options.rounds ?? files[name].rounds)) {
    rounds.push(await round(rounds.length, { path, threads, sizes: sizesOf(name) }, peers))
    writeFileSync(cellPath(name, threads), cellText({ name, threads, environment: stamp }, rounds))
  }
  return rounds
}

/** Our figure over the best of some of llama.cpp's forms, of each round that has both. */
function ratios(rounds, own, peer, forms) {
  return rounds
    .map((one) => {
      const figures = forms ? forms.map((form) => one.peers[form]).filter(Boolean) : Object.values(one.peers)
      return own(one) / Math.max(...figures.map((figure) => peer(figure) ?? Number.NaN).filter(Boolean))
    })
    .filter((ratio) => ratio > 0 && Number.isFinite(ratio))
}

/** What node-llama-cpp's users have without a setting, at its two depths; expected of one file only. */
function besideNode(name, rounds, share) {
  const { prompt } = sizesOf(name)
  const row = (what, own, peer, least) => ({
    what: `${what}, over node-llama-cpp's default`,
    values: ratios(rounds, own, peer, ['node-llama-cpp']),
    least
  })
  const decoding = (depth) =>
    row(
      `decode at ${depth}`,
      ({ own }) => own.decodeAt[depth]?.rate,
      ({ decodeAt }) => decodeAt[depth],
      files[name].overNode && files[name].overNode * share
    )
  const prefill = row(
    `prefill of ${prompt}`,
    ({ own }) => own.prefill,
    (figures) => figures.prefill
  )
  return [prefill, decoding(0), decoding(prompt)]
}

/** What is asked of a cell: `{ what, values of the rounds, least or most, bar: in the picture }`. */
function judged(name, threads, rounds) {
  const { decode, repacks, trained } = files[name]
  const share = threads === 1 ? 0.9 : 1
  if (trained) return besideNode(name, rounds, share)
  const [shallow, middle, deep] = sizes.depths
  const leastAt = { [shallow]: decode, [middle]: 1.3, [deep]: 2 }
  const ofCeiling = (depth) =>
    rounds.map(({ own: { decodeAt, weightBytes, kvBytes } }) => {
      const { rate, bandwidth } = decodeAt[depth]
      return (rate * (weightBytes + kvBytes * (depth + sizes.decode / 2))) / bandwidth
    })
  const ofPeer = (what, own, peer, least) => ({
    what,
    values: ratios(rounds, own, peer),
    least: least * share,
    bar: true
  })
  const peerFirst = rounds.filter(({ peers }) => peers['its first token'])
  const less = ({ peakBytes }, { first: { kvBytes } }) => peakBytes - kvBytes
  return [
    ofPeer(
      `prefill of ${sizes.prompt}`,
      ({ own }) => own.prefill,
      ({ prefill }) => prefill,
      4
    ),
    {
      what: 'its operations ÷ int8 peak',
      values: rounds
        .filter(({ own }) => own.int8Peak > 0)
        .map(({ own }) => (own.prefill * own.operations) / own.int8Peak),
      least: 0.4 * share
    },
    ...sizes.depths.flatMap((depth) => [
      ofPeer(
        `decode at ${depth}`,
        ({ own }) => own.decodeAt[depth]?.rate,
        ({ decodeAt }) => decodeAt?.[depth],
        leastAt[depth]
      ),
      { what: 'its bytes ÷ bandwidth', values: ofCeiling(depth), least: 0.85 * share }
    ]),
    ofPeer(
      `${sizes.sequences} sequences`,
      ({ own }) => own.together.rate,
      ({ together }) => together,
      2
    ),
    {
      what: 'first token, times as early',
      values: peerFirst.map(({ first, peers }) => peers['its first token'].seconds / first.seconds),
      least: (repacks ? 2 : 1.2) * share
    },
    {
      what: 'peak memory less cache',
      values: peerFirst.map((one) => less(one.first, one) / less(one.peers['its first token'], one)),
      most: repacks ? 0.65 : 1.1
    },
    ...besideNode(name, rounds, share)
  ]
}

const isKept = ({ least, most }, { median }) => (least ? median >= least : most ? median <= most : undefined)

function print(name, threads, rounds, figures) {
  console.log(`\n${name}, ${withThreads(threads)}, ${rounds.length} rounds`)
  printTable(
    ['', 'ratio, or share', ...(options.full ? ['expected', ''] : [])],
    figures.map(({ what, spread, least, most, kept }) => {
      const expected = least ? `at least ${least.toFixed(2)}` : most ? `at most ${most.toFixed(2)}` : ''
      const judgement = kept === undefined ? '' : kept ? 'kept' : 'MISSED'
      return [what, showSpread(spread), ...(options.full ? [expected, judgement] : [])]
    })
  )
  const { own, first } = rounds.at(-1)
  const decoded = Object.entries(own.decodeAt).map(
    ([depth, { rate, bandwidth }]) => `${rate.toFixed(1)} at ${depth} (${(bandwidth / 1e9).toFixed(1)} GB/s)`
  )
  console.log(
    `the last round, tokens/s: prefill ${own.prefill.toFixed(0)}, decode ${decoded.join(', ')}, together ${own.together.rate.toFixed(0)}; ` +
      `first token ${first.seconds.toFixed(2)} s, ${mebibytes(first.peakBytes)} MiB`
  )
}

let missed = 0
const bars = new Map(threadCounts.map((threads) => [threads, []]))
for (const name of names) {
  const path = options.show ? undefined : await modelOf(name)
  for (const threads of threadCounts) {
    const rounds = path ? await measure(name, threads, path) : roundsOf(name, threads)
    if (rounds.length === 0) continue
    const figures = judged(name, threads, rounds)
      .filter(({ values }) => values.length > 0)
      .map((figure) => {
        const spread = summarise(figure.values)
        return { ...figure, spread, kept: isKept(figure, spread) }
      })
    missed += figures.filter(({ kept }) => kept === false).length
    print(name, threads, rounds, figures)
    const inPicture = figures.filter(({ bar }) => bar)
    if (inPicture.length > 0) bars.get(threads).push({ name, figures: inPicture })
  }
  if (path && !files[name].trained && !options.keep) {
    rmSync(path)
    removeStates(path, sizes)
  }
}

for (const [threads, cells] of bars) {
  const kinds = cells[0]?.figures.map(({ what }) => what) ?? []
  if (kinds.length === 0) continue
  const svg = groupedBars({
    title: `Times as fast as the best of llama.cpp, ${withThreads(threads)}, ${stamp.cpu}`,
    unit: 'ratio',
    groups: cells.map(({ name }) => name),
    series: kinds.map((kind) => ({
      name: kind,
      values: cells.map(({ figures }) => figures.find(({ what }) => what === kind)?.spread)
    })),
    oneScale: true,
    note: 'medians of the rounds; lines from the least to the greatest'
  })
  console.log(`written: ${writeReport(`matrix-${threads}t.svg`, svg)}`)
  if (options.pictures) writeFileSync(join(root, 'docs', 'pictures', `matrix-${threads}t.svg`), svg)
}
if (options.full) {
  console.log(missed ? `${missed} figures fall short` : 'every figure is kept')
  if (missed && !options.show) process.exitCode = 1
} else {
  console.log('what depends on time is judged with --full')
}
