// Child process of bench/matrix.mjs and bench/growth.mjs: this package on one model, one JSON line.
//   node bench/measure-steps.mjs MODE MODEL JSON
// MODE and what JSON has beside `threads`:
//   speed   { prompt, decode, depths, sequences, shortPrompt }   tokens a second of a prompt, of decoding at depths and of sequences at once; the
//                                                                last two with the bandwidth beside them, the first with the int8 peak
//   first   { prompt }                                           the first token of a prompt, and what memory it took
//   decode  { decode, cases: { depth, sequences }[] }            milliseconds of every step, with the bandwidth beside them
//   routes  { decode }                                           the same with routes computed, and with the same routes replayed
// `attempts` (5): how often a figure is taken again where the bandwidth changed beside it. Random token ids, fixed by a seed; KV f16.
import { bandwidthSampler, int8PeakSampler } from './bandwidth.mjs'
import { peakMemory, randomTokens } from './harness.mjs'
import { greedy, openModel, operationsPerToken, weightBytesPerToken } from './runtime.mjs'

const [mode, path, json] = process.argv.slice(2)
const settings = JSON.parse(json)
const batch = 512
const { model, plan, tensors, cancel } = await openModel(path, { threads: settings.threads, maxBatchTokens: batch })
const milliseconds = async (work) => {
  const start = performance.now()
  await work()
  return performance.now() - start
}
const create = (maxTokens, options) => model.createSequence({ kvType: 'f16', maxTokens, ...options })
const item = (sequence, tokens, last = true) => ({
  sequence,
  tokens,
  logits: last ? 'last' : 'none',
  ...(last && { sampling: greedy })
})

/** Feeds random tokens up to a depth, in steps as long as they may be. */
async function fill(sequence, depth) {
  const ids = randomTokens(depth, plan.vocab, 2)
  for (let at = 0; at < depth; at += batch) {
    await model.step([item(sequence, ids.subarray(at, Math.min(depth, at + batch)), false)], cancel)
  }
}

/** Calls `use` with a function that resolves to the milliseconds of each of `steps` steps, in which each of `sequences` at `depth` gets a token. */
async function decoding(steps, { depth, sequences }, use) {
  const own = Array.from({ length: sequences }, () => create(depth + steps + 8))
  for (const sequence of own) await fill(sequence, depth)
  const ids = randomTokens(steps * sequences, plan.vocab, 3)
  const result = await use(async () => {
    for (const sequence of own) sequence.truncate(depth)
    const times = []
    for (let i = 0; i < steps; i++) {
      const items = own.map((sequence, s) => item(sequence, ids.subarray(i * sequences + s, i * sequences + s + 1)))
      times.push(await milliseconds(() => model.step(items, cancel)))
    }
    return times
  })
  for (const sequence of own) sequence.dispose()
  return result
}

const { attempts = 5 } = settings
const sampleBandwidth = bandwidthSampler(settings.threads)
/** The milliseconds of each step, with the read bandwidth beside them; again where that has changed meanwhile, as it does on a shared machine. */
const timesBeside = (steps, shape) =>
  decoding(steps, shape, async (run) => {
    for (let attempt = 1; ; attempt++) {
      const before = sampleBandwidth()
      const times = await run()
      const after = sampleBandwidth()
      const steady = Math.abs(after - before) <= 0.1 * before
      if (steady || attempt >= attempts) return { times, bandwidth: (before + after) / 2, steady }
    }
  })

/** The same as tokens a second. */
async function rateBeside(steps, shape) {
  const { times, ...beside } = await timesBeside(steps, shape)
  return { rate: (steps * shape.sequences * 1000) / times.reduce((sum, time) => sum + time, 0), ...beside }
}

/** Bytes of cache that one position takes. */
const kvBytes = plan.ops
  .filter(({ op }) => op === 'attention')
  .reduce((sum, { kvHeads, headDim, valueDim = headDim }) => sum + 2 * kvHeads * (headDim + valueDim), 0)

const modes = {
  async speed({ prompt, decode: steps, depths, sequences, shortPrompt }) {
    await decoding(steps, { depth: 0, sequences: 1 }, (run) => run())
    const decodeAt = {}
    for (const depth of depths) decodeAt[depth] = await rateBeside(steps, { depth, sequences: 1 })
    const sequence = create(prompt + 8)
    const tokens = randomTokens(prompt, plan.vocab, 1)
    const samplePeak = int8PeakSampler(settings.threads)
    const before = samplePeak()
    const prefill = (prompt * 1000) / (await milliseconds(() => model.step([item(sequence, tokens)], cancel)))
    const int8Peak = (before + samplePeak()) / 2
    sequence.dispose()
    const together = await rateBeside(steps, { depth: shortPrompt, sequences })
    const perToken = { weightBytes: weightBytesPerToken(plan, tensors), operations: operationsPerToken(plan), kvBytes }
    return { prefill, int8Peak, decodeAt, together, ...perToken }
  },

  async first({ prompt }) {
    const { items } = await model.step([item(create(prompt + 8), randomTokens(prompt, plan.vocab, 1))], cancel)
    return { token: items[0].token, peakBytes: peakMemory(), kvBytes: kvBytes * prompt }
  },

  async decode({ decode: steps, cases }) {
    await decoding(steps, { depth: 0, sequences: 1 }, (run) => run())
    const results = []
    for (const one of cases) results.push(await timesBeside(steps, one))
    return { results, weightBytes: weightBytesPerToken(plan, tensors), kvBytes }
  },

  /** The routes of a few tokens are computed, then the same are replayed in another sequence, and so on. */
  async routes({ decode: steps }) {
    const { layers, k } = model.routing
    const [computing, replaying] = [create(steps + 8, { captureRouting: true }), create(steps + 8)]
    const ids = randomTokens(steps, plan.vocab, 3)
    const few = 8
    const [computed, replayed] = [[], []]
    const one = async (times, ...args) => times.push(await milliseconds(() => model.step([...args], cancel)))
    for (let from = 0; from + few <= steps; from += few) {
      const [experts, weights] = [new Int32Array(few * layers * k), new Float32Array(few * layers * k)]
      for (let i = from; i < from + few; i++) await one(computed, item(computing, ids.subarray(i, i + 1)))
      computing.copyRoutes(from, few, experts, weights)
      for (let i = from; i < from + few; i++) {
        const [begin, end] = [(i - from) * layers * k, (i - from + 1) * layers * k]
        const forced = { forcedIds: experts.subarray(begin, end), forcedWeights: weights.subarray(begin, end) }
        await one(replayed, { ...item(replaying, ids.subarray(i, i + 1)), ...forced })
      }
    }
    return { computed, replayed }
  }
}

const figures = await modes[mode](settings)
process.stdout.write(`${JSON.stringify(figures)}\n`, () => process.exit(0))
