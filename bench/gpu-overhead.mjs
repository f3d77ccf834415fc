// What a decoded token costs beside the GPU's work, with every expert on the GPU: time of the JavaScript thread apart from waiting for the
// device, submits, and memory that grows. A synthetic model of 16 layers, so narrow that the GPU has next to nothing to do.
//   node bench/gpu-overhead.mjs            200 tokens; nothing is judged but submits and growth
//   node bench/gpu-overhead.mjs --full     2,000 tokens; exit 1 above 1.5 ms a token as well
// All that is not waiting counts: encoding, Dawn's own calls, the sampler, the scheduler, the stream to the caller. Judged is the mean without
// the time in which others had the thread's core: it waits then, and a GPU in software computes on the same cores.
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { createEngine } from '../dist/esm/index.js'
import { watched } from './gpu-waits.mjs'
import { environment, percentile, printEnvironment, printTable, show, writeReport } from './harness.mjs'
import { syntheticModel } from './models.mjs'

const { values: options } = parseArgs({
  options: { full: { type: 'boolean', default: false }, tokens: { type: 'string' }, model: { type: 'string' } }
})
const limits = { msPerToken: 1.5, submitsPerToken: 2 }
const count = Number(options.tokens ?? (options.full ? 2000 : 200))
setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')

const shape = {
  'n-layer': 16,
  'n-embd': 64,
  'n-head': 4,
  'n-kv-head': 4,
  'head-dim': 16,
  'n-ff-exp': 64,
  'n-expert': 8
}
const model =
  options.model ??
  (await syntheticModel('gpu-overhead-16-layers.gguf', {
    arch: 'olmoe',
    ...shape,
    'n-expert-used': 2,
    'n-vocab': 512,
    'n-ctx': 4096,
    type: 'Q8_0'
  }))
if (model === undefined) process.exit(process.env.CI ? 1 : 0)

const stamp = environment()
printEnvironment(stamp)
const engine = await createEngine({ backend: 'webgpu', threads: 1 })
console.log(`adapter: ${engine.backend.device}`)
const { id } = await engine.loadModel({ model })

/** One generation: per token its time apart from waiting; submits of all; bytes of the GPU and of the process after it. */
async function generation(tokens, options) {
  const generator = engine.createGenerator({
    model: id,
    promptTokens: [11, 12, 13],
    maxTokens: tokens,
    temperature: 0,
    ignoreEos: true
  })
  await generator.next()
  const own = []
  const begin = engine.backend.gpu
  let [last, at] = [begin.waitedMs, performance.now()]
  const { collector, forCore, garbage } = await watched(async () => {
    for await (const item of generator) {
      if (item.done) continue
      const { waitedMs } = engine.backend.gpu
      const now = performance.now()
      own.push(now - at - (waitedMs - last))
      ;[last, at] = [waitedMs, now]
    }
  }, options)
  const end = engine.backend.gpu
  collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  const submits = (end.submits - begin.submits) / own.length
  return {
    own,
    collector,
    forCore,
    garbage,
    submits,
    waited: end.waitedMs - begin.waitedMs,
    gpuBytes: end.memoryBytes,
    buffers: end.buffers,
    heap: heapUsed + arrayBuffers
  }
}

// The first makes the KV cache as large as it gets, and every shape of a step.
const before = await generation(count)
const after = await generation(count)
const { garbage } = await generation(Math.min(count, 200), { garbage: true })
await engine.dispose()

const ms = percentile(after.own, 0.5)
const mean = after.own.reduce((sum, x) => sum + x, 0) / after.own.length
const each = (ms) => (ms === undefined ? undefined : ms / after.own.length)
const forCore = each(after.forCore)
const judged = mean - (forCore ?? 0)
const growth = after.heap - before.heap
printTable(
  [
    'tokens',
    'own ms a token: median',
    '95 %',
    'mean',
    'of it for a core',
    'of it collector',
    'judged',
    'waiting ms a token',
    'submits a token',
    'GPU bytes',
    'grew',
    'buffers grew',
    'heap grew'
  ],
  [
    [
      after.own.length,
      show(ms),
      show(percentile(after.own, 0.95)),
      show(mean),
      show(forCore),
      show(each(after.collector.own)),
      show(judged),
      show(after.waited / after.own.length),
      show(after.submits),
      after.gpuBytes,
      after.gpuBytes - before.gpuBytes,
      after.buffers - before.buffers,
      growth
    ]
  ]
)
console.log(
  `garbage a token: own ${show(garbage.own / 1024)} KB, waiting ${show(garbage.waiting / 1024)} KB; the collector while waiting: ${show(each(after.collector.waiting))} ms a token`
)
writeReport('gpu-overhead.json', {
  stamp,
  tokens: after.own.length,
  median: ms,
  mean,
  forCore,
  collector: { own: each(after.collector.own), waiting: each(after.collector.waiting) },
  garbage,
  judged,
  submits: after.submits,
  gpuBytes: after.gpuBytes,
  heapGrowth: growth
})
const problems = []
if (after.submits > limits.submitsPerToken) problems.push(`${after.submits} submits a token`)
if (after.gpuBytes !== before.gpuBytes || after.buffers !== before.buffers) problems.push('GPU memory grew')
// A tenth of a kilobyte for each token: statistics of the garbage collector move by more than nothing.
if (growth > 100 * count + 2 ** 20) problems.push(`the heap grew by ${growth} bytes`)
if (options.full && judged > limits.msPerToken) problems.push(`${judged} ms a token`)
for (const problem of problems) console.error(problem)
if (problems.length > 0) process.exitCode = 1
