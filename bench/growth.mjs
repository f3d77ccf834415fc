// What a token costs as work grows: with the number of experts at equal active ones, with the length of the text, with the sequences of a step.
//   npm run bench:growth                 small shapes, up to 512 experts: that it works
//   npm run bench:growth -- --full       8 to 4,096 experts of 442 KB, depths 128 to 8,192 and 1 to 32 sequences of Qwen3-30B-A3B's shape cut to 12
//                                        layers; writes .bench/growth.svg (files of 13 GB in all are made, and removed)
//   … --pictures                         writes the picture of the README into docs/pictures
// The router's time is what routes cost when they are computed and not when the same ones are replayed; without it a token's time is to be the
// same within 10 % whatever the number of experts.
import { rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import {
  environment,
  percentile,
  printEnvironment,
  printTable,
  root,
  show,
  showSpread,
  summarise,
  writeReport
} from './harness.mjs'
import { syntheticModel } from './models.mjs'
import { runSteps } from './peers.mjs'
import { growthPlot } from './plot.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    threads: { type: 'string', default: String(availableParallelism()) },
    pictures: { type: 'boolean', default: false }
  }
})
const threads = Number(options.threads)
const limits = { flat: 0.1 }
const sizes = options.full
  ? {
      // The weights of a token's eight experts are small beside those that all tokens read, which no cache holds: they come from memory each time.
      experts: [8, 32, 128, 512, 2048, 4096],
      shape: { preset: 'olmoe-1b-7b', 'n-layer': 4, 'n-ff-exp': 128, type: 'Q4_0' },
      model: { preset: 'qwen3-30b-a3b', 'n-layer': 12, type: 'Q4_0' },
      depths: [128, 256, 512, 1024, 2048, 4096, 8192],
      sequences: [1, 2, 4, 8, 16, 32],
      steps: 160,
      rounds: 5
    }
  : {
      experts: [8, 64, 512],
      shape: {
        arch: 'olmoe',
        'n-layer': 2,
        'n-embd': 256,
        'n-ff-exp': 64,
        'n-vocab': 2048,
        'n-expert-used': 8,
        type: 'Q8_0'
      },
      model: { arch: 'qwen3moe', 'n-layer': 2, 'n-embd': 256, 'n-expert': 32, 'n-expert-used': 8, type: 'Q8_0' },
      depths: [128, 512],
      sequences: [1, 8],
      attempts: 1,
      steps: 32,
      rounds: 1
    }
const stamp = environment()
printEnvironment(stamp)

const made = []
process.on('SIGINT', () => process.exit(130))
process.on('exit', () => {
  for (const path of made) rmSync(path, { force: true })
})

async function modelOf(name, shape) {
  const path = await syntheticModel(`growth-${options.full ? 'full' : 'small'}-${name}.gguf`, shape)
  if (!path) process.exit(0)
  made.push(path)
  return path
}

/** The median, and the quartiles in place of the extremes: a step in a thousand that something else held up says nothing here. */
const quartiles = (times) => ({
  median: summarise(times).median,
  min: percentile(times, 0.25),
  max: percentile(times, 0.75)
})

// Every number of experts in turn, and that again: the memory's speed changes from minute to minute.
const experts = sizes.experts.map((count) => ({ count, rounds: [] }))
for (const one of experts) one.path = await modelOf(`${one.count}-experts`, { ...sizes.shape, 'n-expert': one.count })
for (let round = 0; round < sizes.rounds; round++) {
  for (const one of experts) {
    const { computed, replayed } = await runSteps('routes', one.path, { threads, decode: sizes.steps })
    one.rounds.push({ computed: summarise(computed).median, replayed: summarise(replayed).median })
  }
}
for (const one of experts) {
  const few = experts[0].rounds
  one.computed = summarise(one.rounds.map(({ computed }) => computed))
  one.replayed = summarise(one.rounds.map(({ replayed }) => replayed))
  one.router = summarise(one.rounds.map(({ computed, replayed }) => Math.max(0, 100 * (1 - replayed / computed))))
  one.ofFewest = summarise(one.rounds.map(({ replayed }, i) => replayed / few[i].replayed))
  rmSync(one.path)
}

const depths = sizes.depths.map((depth) => ({ depth, sequences: 1 }))
const together = sizes.sequences.map((sequences) => ({ depth: 16, sequences }))
const { results, weightBytes, kvBytes } = await runSteps('decode', await modelOf('model', sizes.model), {
  threads,
  decode: 32,
  attempts: sizes.attempts,
  cases: [...depths, ...together]
})
const context = depths.map(({ depth }, i) => {
  const { times, bandwidth } = results[i]
  const bytes = weightBytes + kvBytes * depth
  return { depth, time: quartiles(times), bandwidth, bound: (1000 * bytes) / bandwidth }
})
const batch = together.map(({ sequences }, i) => {
  const { times, bandwidth } = results[depths.length + i]
  return { sequences, time: quartiles(times), bandwidth }
})

printTable(
  ['experts', 'ms a token', 'with routes replayed', 'router %', 'without it, of that with the fewest'],
  experts.map((one) => [one.count, ...[one.computed, one.replayed, one.router, one.ofFewest].map(showSpread)])
)
const gigabytes = (bandwidth) => show(bandwidth / 1e9)
printTable(
  ['depth', 'ms a token', 'bandwidth, GB/s', 'its bytes by that, ms', 'share %'],
  context.map(({ depth, time, bandwidth, bound }) => [
    depth,
    showSpread(time),
    gigabytes(bandwidth),
    show(bound),
    show((100 * bound) / time.median)
  ])
)
printTable(
  ['sequences', 'ms a step', 'bandwidth, GB/s', 'tokens/s', 'of one'],
  batch.map(({ sequences, time, bandwidth }) => [
    sequences,
    showSpread(time),
    gigabytes(bandwidth),
    show((1000 * sequences) / time.median),
    show((sequences * batch[0].time.median) / time.median)
  ])
)

const ofMedian = (values) => values.map((value) => ({ median: value, min: value, max: value }))
const svg = growthPlot({
  title: 'What a token costs as work grows',
  note: `${threads} threads, ${stamp.cpu}, ${stamp.date.slice(0, 10)}, ${stamp.commit}: medians; lines from the least to the greatest round, and between quartiles`,
  panels: [
    {
      title: 'experts in each layer, 8 of them active',
      unit: 'ms a token',
      x: sizes.experts,
      series: [
        { name: 'as it is', values: experts.map(({ computed }) => computed) },
        { name: 'without the router', values: experts.map(({ replayed }) => replayed) }
      ]
    },
    {
      title: 'the router',
      unit: '% of a token',
      x: sizes.experts,
      series: [{ name: 'share', values: experts.map(({ router }) => router) }]
    },
    {
      title: 'tokens before it',
      unit: 'ms a token',
      x: sizes.depths,
      series: [
        { name: 'measured', values: context.map(({ time }) => time) },
        { name: 'its bytes by the bandwidth beside it', values: ofMedian(context.map(({ bound }) => bound)) }
      ]
    },
    {
      title: 'sequences in a step',
      unit: 'ms a token of each',
      x: sizes.sequences,
      series: [
        {
          name: 'step ÷ sequences',
          values: batch.map(({ sequences, time: { median, min, max } }) => ({
            median: median / sequences,
            min: min / sequences,
            max: max / sequences
          }))
        }
      ]
    }
  ]
})
console.log(`written: ${writeReport('growth.svg', svg)}`)
if (options.pictures) writeFileSync(join(root, 'docs', 'pictures', 'growth.svg'), svg)
writeReport('growth.json', {
  environment: stamp,
  full: options.full,
  threads,
  experts,
  context,
  batch,
  weightBytes,
  kvBytes
})
const furthest = Math.max(...experts.map(({ ofFewest }) => Math.abs(ofFewest.median - 1)))
console.log(
  `without the router a token's time differs by at most ${show(100 * furthest)} % (${100 * limits.flat} allowed; judged with --full)`
)
if (options.full && furthest > limits.flat) process.exitCode = 1
