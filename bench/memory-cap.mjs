// A model larger than memory: decoding under a memory control group, from cold files, beside llama.cpp's mmap under the same cap.
//   npm run bench:memory                                     a small synthetic model (CI); llama.cpp where node-llama-cpp is installed
//   npm run bench:memory -- --full --peer-source LLAMA_CPP   the OLMoE shape of 7 billion parameters, Q4_0, at 2 and 3 GiB
//   … --svg PATH                                             a picture of it beside the one in .bench
//   … --skewed                                               routing skewed as `synth_gguf.py --router-skew 1` makes it
// Both decode the same tokens, one a step; the first ones are left out, so that a cache is as full as it gets. Rounds alternate. Beside
// each round the rate of raw O_DIRECT reads of the same blobs is sampled. Needs root, for the control group.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { runInGroup } from './cgroup.mjs'
import { lastLine } from './children.mjs'
import {
  environment,
  mebibytes,
  percentile,
  printEnvironment,
  printTable,
  root,
  show,
  showSpread,
  summarise,
  writeReport
} from './harness.mjs'
import { oneTierCheckpoint, syntheticModel } from './models.mjs'
import { hasNodePeer } from './peers.mjs'
import { groupedBars } from './plot.mjs'
import { compiled } from './programs.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    skewed: { type: 'boolean', default: false },
    model: { type: 'string' },
    limits: { type: 'string' },
    rounds: { type: 'string' },
    decode: { type: 'string' },
    threads: { type: 'string', default: '2' },
    prefetch: { type: 'string', default: 'auto' },
    'peer-source': { type: 'string' },
    svg: { type: 'string' }
  }
})
const full = options.full || options.model !== undefined
const shape = full ? { preset: 'olmoe-1b-7b', type: 'Q4_0' } : { preset: 'olmoe-1b-7b', type: 'Q8_0', 'n-layer': 2 }
const name = `olmoe-${full ? '1b-7b-q4_0' : '2-layers-q8_0'}${options.skewed ? '-skewed' : ''}.gguf`
const model =
  options.model ?? (await syntheticModel(name, { ...shape, ...(options.skewed ? { 'router-skew': 1 } : {}) }))
if (!model) process.exit(0)
const limits = (options.limits ?? (full ? '2048,3072' : '640')).split(',').map((text) => Number(text) * 2 ** 20)
const rounds = Number(options.rounds ?? (full ? 5 : 1))
const settings = {
  threads: Number(options.threads),
  prompt: 8,
  decode: Number(options.decode ?? (full ? 64 : 24)),
  warm: full ? 16 : 8
}
/** What Node itself, the tokenizer and the threads take beside the model: the rest of a cap is the model's budget. */
const processBytes = 112 * 2 ** 20

const stamp = environment()
printEnvironment(stamp)
const checkpoint = await oneTierCheckpoint(model)
const blobs = readdirSync(join(checkpoint, 'experts'), { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
const disk = diskOf(checkpoint)
console.log(
  `${model.split('/').at(-1)}: ${mebibytes(statSync(model).size)} MiB; ${settings.threads} threads, ${settings.decode} tokens of which the first ${settings.warm} are left out; read-ahead of ${disk.name}: ${disk.readAhead} KiB`
)

/** The disk that a path lies on, as /sys names it. */
function diskOf(path) {
  try {
    const { dev } = statSync(path)
    const link = execFileSync('readlink', ['-f', `/sys/dev/block/${(dev >> 8) & 0xfff}:${dev & 0xff}`], {
      encoding: 'utf8'
    }).trim()
    const folder = existsSync(join(link, 'queue')) ? link : dirname(link)
    return {
      name: folder.split('/').at(-1),
      readAhead: Number(readFileSync(join(folder, 'queue', 'read_ahead_kb'), 'utf8'))
    }
  } catch {
    return { name: 'the disk', readAhead: 'unknown' }
  }
}

const makeCold = (paths) => {
  for (const path of paths) execFileSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])
}

function rawRate(blobBytes, seed) {
  const program = compiled('read_probe')
  const count = Math.max(16, Math.round((full ? 1.5e9 : 2e8) / blobBytes))
  return Number(
    execFileSync(program, ['8', String(blobBytes), String(count), String(seed), ...blobs], { encoding: 'utf8' })
  )
}

async function inGroup(limit, files, command, args) {
  makeCold(files)
  const run = await runInGroup(limit, command, args, 1200)
  if (!run) return undefined
  if (run.status === 0) return { ...lastLine(run.output), chargedBytes: run.peakBytes, kills: run.kills }
  throw new Error(
    `${command} ${args[0]} ended with ${run.signal ?? run.status}, ${run.kills} out-of-memory kills: ${run.complaint.trim().split('\n').at(-1)}`
  )
}

const ownArgs = (memory, decode) => [
  join(root, 'bench', 'measure-capped.mjs'),
  checkpoint,
  String(memory),
  String(settings.threads),
  String(settings.prompt),
  String(decode),
  options.prefetch
]
const runOwn = (limit) =>
  inGroup(
    limit,
    [join(checkpoint, 'base.gguf'), ...blobs],
    process.execPath,
    ownArgs(limit - processBytes, settings.decode)
  )

const peerProgram = options['peer-source'] && compiled('peer_latency', options['peer-source'])
const withPeer = peerProgram !== undefined || (!full && hasNodePeer)
const runPeer = (limit, tokens) => {
  const list = join(root, '.bench', 'tokens.txt')
  writeFileSync(list, tokens.join(' '))
  return peerProgram
    ? inGroup(limit, [model], peerProgram, [model, list, String(settings.threads), '1'])
    : inGroup(limit, [model], process.execPath, [
        join(root, 'bench', 'measure-peer.mjs'),
        'tokens',
        model,
        list,
        String(settings.threads)
      ])
}

const measured = (seconds) => seconds.slice(-(settings.decode - settings.warm))
const total = (seconds) => seconds.reduce((sum, x) => sum + x, 0)
const mean = (seconds) => total(seconds) / seconds.length
const rate = (seconds) => 1 / mean(seconds)

const runResident = (memory) =>
  lastLine(execFileSync(process.execPath, ownArgs(memory, settings.decode), { encoding: 'utf8' }))
/** The mean time of a token with every expert in memory, outside of any group. */
const residentSeconds = () => mean(runResident('all').seconds)

/** What the expert store's own calls take of a step when it has every expert. */
function bookkeepingShare() {
  const { before, after, seconds } = runResident(statSync(model).size + 2 ** 30)
  const grown = (key) => after.experts[key] - before.experts[key]
  return { share: grown('bookkeepingMs') / 1000 / total(seconds), misses: grown('misses') }
}

const report = []
for (const limit of limits) {
  const samples = []
  for (let round = 0; round < rounds; round++) {
    const own = await runOwn(limit)
    if (!own) process.exit(0)
    const sample = { own, raw: rawRate(own.slot, round + 1), resident: residentSeconds() }
    if (withPeer) sample.peer = await runPeer(limit, [...own.promptTokens, ...own.tokens])
    samples.push(sample)
  }
  report.push(judge(limit, samples))
}

/** Figures of one cap, printed. */
function judge(limit, samples) {
  const of = (pick) => summarise(samples.map(pick))
  const own = of(({ own }) => rate(measured(own.seconds)))
  const ownTail = of(({ own }) => percentile(measured(own.seconds), 0.99))
  const figures = { limit, own, ownTail }
  console.log(`\ncap ${mebibytes(limit)} MiB, ${samples.length} rounds`)
  const rows = [
    ['tiered-moe', showSpread(own), showSpread(ownTail), showSpread(of(({ own }) => mebibytes(own.chargedBytes)))]
  ]
  if (withPeer) {
    figures.peer = of(({ peer }) => rate(measured(peer.seconds)))
    figures.peerTail = of(({ peer }) => percentile(measured(peer.seconds), 0.99))
    figures.ratio = of(({ own, peer }) => rate(measured(own.seconds)) / rate(measured(peer.seconds)))
    figures.tailRatio = of(
      ({ own, peer }) => percentile(measured(peer.seconds), 0.99) / percentile(measured(own.seconds), 0.99)
    )
    const label = peerProgram ? 'llama.cpp, mmap' : 'node-llama-cpp, mmap'
    rows.push([
      label,
      showSpread(figures.peer),
      showSpread(figures.peerTail),
      showSpread(of(({ peer }) => mebibytes(peer.chargedBytes)))
    ])
    rows.push(['ratio', showSpread(figures.ratio), showSpread(figures.tailRatio), ''])
  }
  printTable(['', 'tokens/s', 'p99 of a token, s', 'memory charged, MiB'], rows)

  const grown =
    (pick) =>
    ({ own }) =>
      pick(own.after.experts) - pick(own.before.experts)
  const perToken = settings.decode - 1
  const misses = of(grown((s) => s.misses))
  const share = (pick) => (sample) => grown(pick)(sample) / grown((s) => s.uses)(sample)
  figures.hitRate = of(share((s) => s.hits))
  figures.lateRate = of(share((s) => s.late))
  figures.demand = of(({ own: { before, after, slot } }) => {
    const missed = after.experts.misses - before.experts.misses
    return missed ? (after.experts.demandBytes - before.experts.demandBytes) / (missed * slot) : 1
  })
  figures.wasted = of((sample) => {
    const wasted = grown((s) => s.prefetchWastedBytes)(sample)
    return wasted / Math.max(1, grown((s) => s.demandBytes + s.prefetchBytes)(sample))
  })
  const bytes = grown((s) => s.demandBytes + s.prefetchBytes)
  figures.limitRatio = of(
    (sample) => mean(sample.own.seconds) / Math.max(bytes(sample) / perToken / sample.raw, sample.resident)
  )
  console.log(
    `of the experts wanted ${showSpread(figures.hitRate)} were in memory, ${showSpread(figures.lateRate)} on their way; ${show(misses.median / perToken)} misses a token; demand bytes are ${showSpread(figures.demand)} of the misses' blobs (limit 1.02)`
  )
  console.log(`prefetched and not used: ${showSpread(figures.wasted)} of all bytes read (limit 0.1)`)
  console.log(
    `a token takes ${showSpread(figures.limitRatio)} of the greater of its bytes at the raw rate (${showSpread(of(({ raw }) => raw / 1e9))} GB/s) and its time with everything in memory (${showSpread(of(({ resident }) => resident * 1000))} ms; limit 1.15)`
  )
  return figures
}

const bookkeeping = bookkeepingShare()
console.log(
  `\nwith every expert in the store (${bookkeeping.misses} misses) looking up, referencing and evicting take ${show(100 * bookkeeping.share)} % of a step (limit 2)`
)

const plot = groupedBars({
  title: `Decode of ${model.split('/').at(-1)}, ${mebibytes(statSync(model).size)} MiB, under a memory cap`,
  unit: 'tokens/s',
  oneScale: true,
  groups: limits.map((limit) => `${mebibytes(limit)} MiB`),
  series: [
    { name: 'tiered-moe', values: report.map(({ own }) => own) },
    ...(withPeer ? [{ name: 'llama.cpp, mmap', values: report.map(({ peer }) => peer) }] : [])
  ]
})
writeReport(`memory-cap${options.skewed ? '-skewed' : ''}.svg`, plot)
if (options.svg) writeFileSync(options.svg, plot)
console.log(
  `\nwritten: ${writeReport(`memory-cap${options.skewed ? '-skewed' : ''}.json`, { environment: stamp, settings, report, bookkeeping })}`
)
const wanted = [
  { limit: 2048, ratio: 8 },
  { limit: 3072, ratio: 4 }
]
let failed = 0
const hold = (what, kept) => {
  console.log(`${kept ? 'kept' : 'MISSED'}: ${what}`)
  if (!kept) failed++
}
for (const figures of report) {
  const cap = `${mebibytes(figures.limit)} MiB`
  const goal = wanted.find(({ limit }) => limit === mebibytes(figures.limit))
  if (full && goal && figures.ratio)
    hold(`${cap}: decode at least ${goal.ratio} × llama.cpp`, figures.ratio.median >= goal.ratio)
  if (full && figures.tailRatio) hold(`${cap}: p99 of a token at least 5 × better`, figures.tailRatio.median >= 5)
  hold(`${cap}: demand bytes at most 1.02 of the misses' blobs`, figures.demand.max <= 1.02)
  hold(`${cap}: prefetched and not used at most 10 % of all bytes`, figures.wasted.median <= 0.1)
  if (full) hold(`${cap}: a token at most 1.15 of its lower bound`, figures.limitRatio.median <= 1.15)
}
const { share, misses } = bookkeeping
hold("with every expert in memory at most 2 % of a step in the store's calls", misses === 0 && share <= 0.02)
if (!full) console.log('what depends on time beside other work is judged with --full')
process.exitCode = failed ? 1 : 0
