/** What the addon's allocator holds stays within the memory that a model was given, at every moment from the begin of the load on. */
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { convertModel, createEngine, type LoadModelRequest } from 'tiered-moe'
import { addon } from '../checkpoint/checkpoints.js'
import { type MoeModelOptions, writeMoeModel } from '../fixtures/moe-model.js'
import { embedded } from '../fixtures/package.js'
import { writeTwins } from '../fixtures/safetensors.js'

const shapes: Record<string, MoeModelOptions> = {
  f32: { type: 'F32', layers: 2, experts: 16, vocab: 300 },
  f16: { type: 'F16', layers: 3, experts: 24, expertsUsed: 4, embedding: 96, vocab: 260 },
  odd: { type: 'Q8_0', experts: 12, embedding: 160, feedForward: 70, vocab: 271, tied: true },
  q4: { type: 'Q4_0', architecture: 'qwen3moe', experts: 32, embedding: 128, feedForward: 96, vocab: 290 },
  wide: { type: 'F32', experts: 8, embedding: 512, feedForward: 320, heads: 8, headDim: 64, layers: 1 }
}

type Model = Pick<LoadModelRequest, 'model' | 'quantize'>

/** The least memory that the model loads with: the error says it. */
async function leastMemory(model: Model): Promise<number> {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 32 })
  const error = await engine.loadModel({ ...model, memory: 1 }).catch((error) => error)
  await engine.dispose()
  return error.details.resourceInfo.required
}

/** Loads, computes in several ways at once, and gives the greatest live bytes of all that. */
async function peakOf(t: Test, model: Model, memory: number): Promise<number> {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 32 })
  const before = addon.counters().liveBytes
  addon.peakLiveBytes(true)
  const { id, descriptor } = await engine.loadModel({ ...model, memory })
  const promptTokens = Array.from({ length: 70 }, (_, i) => (i * 31) % Math.min(250, descriptor.vocab))
  const outcomes = await Promise.allSettled([
    engine.forward({ model: id, tokens: promptTokens, logits: 'all', captureRouting: true }),
    ...[1, 2, 3, 4, 5].map((seed) =>
      engine.generate({ model: id, promptTokens, maxTokens: 40, seed, ignoreEos: true, captureRouting: seed === 1 })
    )
  ])
  // Where the budget is the least, the KV caches of so many requests do not all fit beside it.
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected') t.match(outcome.reason, { code: 'RESOURCE_MEMORY_EXHAUSTED' })
  }
  // That of one does.
  const { tokens } = await engine.generate({ model: id, promptTokens, maxTokens: 40, ignoreEos: true })
  t.equal(tokens.length, 40)
  await engine.dispose()
  t.equal(addon.counters().liveBytes, before)
  return addon.peakLiveBytes(true) - before
}

for (const [name, shape] of Object.entries(shapes)) {
  t.test(name, async (t) => {
    const file = writeMoeModel(join(t.testdir(), 'model.gguf'), shape)
    const folder = join(t.testdirName, 'checkpoint')
    await convertModel({ from: file, to: folder })
    for (const model of [file, folder]) await checkPeaks(t, { model })
  })
}

async function checkPeaks(t: Test, model: Model): Promise<void> {
  const least = await leastMemory(model)
  for (const memory of [least, least + 100_000, least + 700_000]) {
    const peak = await peakOf(t, model, memory)
    t.ok(peak <= memory, `${peak} of ${memory} bytes`)
  }
}

t.test('safetensors files, put together and converted as they are read', async (t) => {
  const { wide, q4 } = shapes
  for (const [name, shape, quantize] of [
    ['wide', { ...wide, architecture: 'llama' }, 'Q4_0'],
    ['small', { ...q4, architecture: 'olmoe', type: 'BF16', headDim: 16, halfNorms: true }, 'Q8_0'],
    ['codes and scales', { ...wide, architecture: 'gpt-oss', type: 'BF16', mxfp4: true }, 'Q8_0']
  ] as const) {
    const { folder } = writeTwins(join(t.testdir(), name), shape, 2)
    await checkPeaks(t, { model: folder, quantize })
  }
})

t.test('the embedded model uses what it is given', async (t) => {
  const memory = 6 * 2 ** 20
  const peak = await peakOf(t, { model: embedded }, memory)
  t.ok(peak <= memory && peak > 0.9 * memory, `${peak} of ${memory} bytes`)
})

t.test('the peak is kept until it is restarted', async (t) => {
  const engine = await createEngine({ threads: 1 })
  addon.peakLiveBytes(true)
  await engine.loadModel()
  const { liveBytes } = addon.counters()
  await engine.dispose()
  t.ok(addon.peakLiveBytes() >= liveBytes && addon.peakLiveBytes(true) >= liveBytes)
  t.equal(addon.peakLiveBytes(), addon.counters().liveBytes)
})
