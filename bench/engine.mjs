// Speed of a whole model, alone or beside llama.cpp on the same file in the same run.
//   npm run bench                                  the embedded model, small
//   npm run bench -- --model FILE --peer           beside node-llama-cpp (PEER_NODE_MODULES or `npm install` in bench/)
//   npm run bench -- --model FILE --peer-bin PATH  and beside the llama-bench at PATH
//   npm run bench -- --full --peer-bin PATH        on the OLMoE-shaped file of 7 billion parameters (made when absent, 3.9 GB)
// The peer's figure is the best of llama-bench (flash attention on, off) and node-llama-cpp under `chrt -r 1`; node-llama-cpp's default is
// quoted beside it. Runs alternate, and the read bandwidth is sampled beside each pair.
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { bandwidthSampler } from './bandwidth.mjs'
import {
  environment,
  mebibytes,
  printEnvironment,
  printTable,
  show,
  showSpread,
  summarise,
  writeReport
} from './harness.mjs'
import { bigModel, embeddedModel } from './models.mjs'
import { mayRunRealtime, runLlamaBench, runNodePeer, runOwn } from './peers.mjs'
import { groupedBars } from './plot.mjs'

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    full: { type: 'boolean', default: false },
    peer: { type: 'boolean', default: false },
    'peer-bin': { type: 'string' },
    runs: { type: 'string' },
    prompt: { type: 'string' },
    decode: { type: 'string' },
    threads: { type: 'string', default: String(availableParallelism()) },
    'kv-type': { type: 'string', default: 'f16' },
    isa: { type: 'string', default: 'auto' }
  }
})
const path = options.model ?? (options.full ? await bigModel() : embeddedModel)
if (!path) process.exit(1)
const small = path === embeddedModel
const settings = {
  path,
  prompt: Number(options.prompt ?? (small ? 128 : 512)),
  decode: Number(options.decode ?? 64),
  threads: Number(options.threads),
  kvType: options['kv-type'],
  isa: options.isa
}
const withPeer = options.peer || options['peer-bin'] !== undefined
const runs = Number(options.runs ?? (withPeer || options.full ? 5 : 3))

const realtime = withPeer && mayRunRealtime()
const contenders = [{ name: 'tiered-moe', run: () => runOwn(settings), own: true }]
if (withPeer) {
  const program = options['peer-bin']
  if (program) contenders.push({ name: 'llama-bench', run: () => runLlamaBench(program, settings), counts: true })
  if (realtime) contenders.push({ name: 'node-llama-cpp, chrt', run: () => runNodePeer(settings, true), counts: true })
  contenders.push({ name: 'node-llama-cpp', run: () => runNodePeer(settings, false), counts: !program && !realtime })
}

const figures = [
  { key: 'prefill', title: `prefill ${settings.prompt}` },
  { key: 'decode0', title: 'decode at 0' },
  { key: 'decodeDeep', title: `decode at ${settings.prompt}` }
]
const stamp = environment()
printEnvironment(stamp)
console.log(
  `${path.split('/').at(-1)}: ${settings.threads} threads, KV ${settings.kvType}, ${runs} alternating runs, tokens/s as median (least-greatest)`
)
if (withPeer && !options['peer-bin'])
  console.log('no --peer-bin: the peer is node-llama-cpp alone, without llama-bench')
if (withPeer && !realtime)
  console.log('chrt -r 1 is not allowed here: node-llama-cpp is measured in its default scheduling only')

const sampleBandwidth = bandwidthSampler(settings.threads)
const samples = []
for (let i = 0; i < runs; i++) {
  // Every other round goes backwards, so that no contender always runs on the warmer machine.
  const order = i % 2 ? [...contenders].reverse() : contenders
  const sample = { figures: {} }
  for (const contender of order) {
    if (contender.own) sample.bandwidth = sampleBandwidth?.()
    sample.figures[contender.name] = await contender.run()
  }
  samples.push(sample)
}

const own = samples.map((sample) => sample.figures['tiered-moe'])
/** The peer's best in one round: rule 1 of fair play. */
const best = (sample, key) =>
  Math.max(...contenders.filter(({ counts }) => counts).map(({ name }) => sample.figures[name][key]))
const columns = contenders.map(({ name }) => ({
  name,
  values: figures.map(({ key }) => summarise(samples.map((s) => s.figures[name][key])))
}))
const ratios = withPeer
  ? figures.map(({ key }) => summarise(samples.map((s, i) => own[i][key] / best(s, key))))
  : undefined
const weightBytes = own[0].weightBytesPerToken
const fraction = (key) => summarise(samples.map((s, i) => (own[i][key] * weightBytes) / s.bandwidth))

printTable(
  ['', ...contenders.map(({ name }) => name), ...(ratios ? ['ratio to the peer’s best'] : [])],
  figures.map(({ title }, i) => [
    title,
    ...columns.map(({ values }) => showSpread(values[i])),
    ...(ratios ? [showSpread(ratios[i])] : [])
  ])
)
for (const { name } of contenders) {
  const peaks = summarise(samples.map((s) => mebibytes(s.figures[name].peakBytes)))
  const loads = samples.map((s) => s.figures[name].loadSeconds).filter((x) => x !== undefined)
  const load = loads.length ? `, load ${showSpread(summarise(loads))} s` : ''
  console.log(`${name}: peak memory ${showSpread(peaks)} MiB${load}`)
}
console.log(`instruction set ${own[0].isa}; ${show(weightBytes / 1e6)} MB of weights read per decoded token`)
if (sampleBandwidth) {
  const bandwidth = summarise(samples.map((s) => s.bandwidth / 1e9))
  console.log(
    `read bandwidth ${showSpread(bandwidth)} GB/s; decode reads weights at ${showSpread(fraction('decode0'))} of it at depth 0, ${showSpread(fraction('decodeDeep'))} at ${settings.prompt}`
  )
}
const report = writeReport('engine.json', { environment: stamp, settings, runs, contenders: columns, ratios, samples })
const plot = groupedBars({
  title: path.split('/').at(-1),
  unit: 'tokens/s',
  groups: figures.map(({ title }) => title),
  series: columns
})
console.log(`written: ${report}, ${writeReport('engine.svg', plot)}`)
