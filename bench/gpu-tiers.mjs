// A model with a part of its experts on the GPU: per budget of slots the speed, submits and uploads of a decoded token, and what the caches
// of the GPU and of host memory found.   node bench/gpu-tiers.mjs [--backend cuda] [--full] [--model PATH] [--tokens N] [--prefetch off]
// The text has to be the same at every budget, and on webgpu submits at most layers + 2 a token (1 where every expert has a slot): exit 1
// otherwise. On cuda every launch counts as a submit.
import { parseArgs } from 'node:util'
import { createEngine } from '../dist/esm/index.js'
import { environment, printEnvironment, printTable, show, writeReport } from './harness.mjs'

const { values: options } = parseArgs({
  options: {
    backend: { type: 'string', default: 'webgpu' },
    full: { type: 'boolean', default: false },
    tokens: { type: 'string' },
    model: { type: 'string' },
    prefetch: { type: 'string', default: 'auto' }
  }
})
const tokens = Number(options.tokens ?? (options.full ? 240 : 48))
const shares = options.full ? [1, 0.75, 0.5, 0.25, 0.125] : [1, 0.5, 0.25]
const source = options.model ? { model: options.model } : {}
const contextLength = 256

const stamp = environment()
printEnvironment(stamp)
const engine = await createEngine({ backend: options.backend, maxBatchTokens: 32 })
console.log(`adapter: ${engine.backend.device}`)

/** One generation under a budget; without one every expert has a slot. */
async function run(gpuMemory) {
  const request = {
    id: 'measured',
    contextLength,
    prefetch: options.prefetch,
    ...source,
    ...(gpuMemory && { gpuMemory })
  }
  const { descriptor } = await engine.loadModel(request)
  const { memory } = engine.listModels()[0]
  const generator = engine.createGenerator({
    model: 'measured',
    prompt: 'ROMEO:\n',
    maxTokens: tokens,
    temperature: 0,
    ignoreEos: true
  })
  const text = []
  let [begin, submits, before] = [0, 0, undefined]
  for await (const { token } of generator) {
    if (text.length === 0) {
      begin = performance.now()
      submits = engine.backend.gpu.submits
      before = engine.modelStats('measured').experts
    }
    text.push(token)
  }
  const decoded = text.length - 1
  const after = engine.modelStats('measured').experts
  const since = (read) => (after ? read(after) - read(before) : 0)
  const result = {
    layers: descriptor.layers,
    text: text.join(),
    memory,
    perSecond: decoded / ((performance.now() - begin) / 1000),
    submits: (engine.backend.gpu.submits - submits) / decoded,
    hitRate: after ? since(({ hits }) => hits) / since(({ uses }) => uses) : 1,
    uploads: since(({ uploads }) => uploads) / decoded,
    uploadedMiB: since(({ uploadedBytes }) => uploadedBytes) / decoded / 2 ** 20,
    waitMs: since(({ waitMs }) => waitMs) / decoded,
    hostHitRate: after?.host.uses ? after.host.hits / after.host.uses : 1
  }
  await engine.unloadModel('measured')
  return result
}

const rows = []
const report = []
const failures = []
const whole = await run()
for (const share of shares) {
  const { base, arena, keyValues, experts } = whole.memory
  const slots = Math.floor(experts.count * share)
  const result = share === 1 ? whole : await run(base + arena + keyValues + slots * experts.slot)
  const { text, memory: _, layers, ...figures } = result
  const most = options.backend === 'cuda' ? Number.POSITIVE_INFINITY : share === 1 ? 2 : layers + 2
  if (text !== whole.text) failures.push(`${100 * share} %: another text`)
  if (figures.submits > most) failures.push(`${100 * share} %: ${figures.submits} submits a token, at most ${most}`)
  report.push({ share, slots, ...figures })
  const percent = (part) => (100 * part).toFixed(1)
  rows.push([
    `${100 * share} %`,
    String(slots),
    show(figures.perSecond),
    figures.submits.toFixed(2),
    percent(figures.hitRate),
    figures.uploads.toFixed(2),
    figures.uploadedMiB.toFixed(3),
    figures.waitMs.toFixed(2),
    percent(figures.hostHitRate)
  ])
}
printTable(
  ['experts in slots', 'slots', 'tokens/s', 'submits', 'hits %', 'uploads', 'MiB uploaded', 'ms waited', 'host hits %'],
  rows
)
console.log('submits, uploads, bytes and waits are of one decoded token; hits and uploads from the second token on')
await engine.dispose()
writeReport('gpu-tiers.json', { ...stamp, tokens, prefetch: options.prefetch, budgets: report })
for (const failure of failures) console.log(`FAILED: ${failure}`)
process.exitCode = failures.length > 0 ? 1 : 0
