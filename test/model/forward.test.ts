import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine, type KvType } from 'tiered-moe'
import { readModel } from '../../lib/model/index.js'
import { TENSOR_TYPES } from '../fixtures/gguf.js'
import { type MoeModelOptions, moeModel } from '../fixtures/moe-model.js'
import { encodeWeights, fromF16 } from '../fixtures/weights.js'
import { naiveForward } from './naive-forward.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'
const ARCHITECTURES = ['olmoe', 'qwen3moe', 'llama'] as const
const TOKENS = Array.from({ length: 70 }, (_, i) => (i * 37 + 5) % 270)

/** Odd sizes: nothing is a multiple of 16 that need not be. */
const ODD: MoeModelOptions = {
  embedding: 52,
  heads: 6,
  kvHeads: 3,
  headDim: 10,
  feedForward: 37,
  experts: 7,
  expertsUsed: 3,
  vocab: 271
}

async function logitsOf(path: string, kvType: KvType, tokens = TOKENS): Promise<Float32Array> {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 33 })
  try {
    const { id } = await engine.loadModel({ model: path, kvType })
    return await engine.forward({ model: id, tokens, logits: 'all' })
  } finally {
    await engine.dispose()
  }
}

const same = (a: Float32Array, b: Float32Array) => Buffer.from(a.buffer).equals(Buffer.from(b.buffer))

t.test('whole models against plain loops in float64', { skip }, async (t) => {
  const dir = t.testdir()
  const models: MoeModelOptions[] = ARCHITECTURES.flatMap((architecture): MoeModelOptions[] => [
    { architecture },
    { architecture, ...ODD, tied: true, seed: 3 },
    { architecture, experts: 1, expertsUsed: 1, kvHeads: 1, layers: 1, seed: 4 },
    { architecture, seed: 6, hser: { tiers: { hot: [3, 2], warm: [4, 2], cold: [2, 3] }, k: [2, 1, 2] } },
    { architecture, ...ODD, expertsUsed: 7, seed: 7, layers: 3, hser: { tiers: { all: [5, 4, 3] }, k: [1, 2, 3] } },
    { architecture, expertsUsed: 8, layers: 3, seed: 5, metadata: { [`${architecture}.rope.dimension_count`]: 8 } }
  ])
  for (const [i, options] of models.entries()) {
    const { bytes, file, tensors } = moeModel(options)
    const path = join(dir, `${i}.gguf`)
    writeFileSync(path, bytes)
    const { plan } = readModel(file)
    const read = (name: string) => {
      const { data } = tensors.find((tensor) => tensor.name === name)!
      return new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength))
    }
    const expected = naiveForward(plan, read, TOKENS).flat()
    const actual = await logitsOf(path, 'f32')
    t.equal(actual.length, expected.length)
    const worst = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - actual[at]!)), 0)
    t.ok(worst < 1e-4, `${JSON.stringify(options)}: largest difference ${worst.toExponential(1)}`)
    const f16 = await logitsOf(path, 'f16')
    const off = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - f16[at]!)), 0)
    t.ok(off < 0.05 && off > 0, `with an f16 cache ${off.toExponential(1)}`)
  }
})

t.test('every weight type of every architecture', { skip }, async (t) => {
  const dir = t.testdir()
  for (const architecture of ARCHITECTURES) {
    for (const type of Object.keys(TENSOR_TYPES) as (keyof typeof TENSOR_TYPES)[]) {
      const sizes =
        TENSOR_TYPES[type][1] === 256 ? { embedding: 256, feedForward: 256 } : { embedding: 96, feedForward: 64 }
      const path = join(dir, `${architecture}-${type}.gguf`)
      writeFileSync(path, moeModel({ architecture, type, ...sizes }).bytes)
      const logits = await logitsOf(path, 'f16', TOKENS.slice(0, 8))
      t.ok(
        logits.every((value) => Number.isFinite(value) && Math.abs(value) < 1000),
        `${architecture} ${type}`
      )
    }
  }
})

t.test('F16 weights give the bits of the same numbers in F32', { skip }, async (t) => {
  const dir = t.testdir()
  const f16 = moeModel({ type: 'F16', ...ODD })
  const wide = moeModel({
    type: 'F16',
    ...ODD,
    editTensor: (tensor) => {
      if (tensor.typeId !== TENSOR_TYPES.F16[0]) return tensor
      const { data } = tensor
      const values = Float32Array.from({ length: data.length / 2 }, (_, i) =>
        fromF16(data[2 * i]! | (data[2 * i + 1]! << 8))
      )
      return { ...tensor, typeId: TENSOR_TYPES.F32[0], data: encodeWeights('F32', values) }
    }
  })
  writeFileSync(join(dir, 'f16.gguf'), f16.bytes)
  writeFileSync(join(dir, 'f32.gguf'), wide.bytes)
  t.ok(same(await logitsOf(join(dir, 'f16.gguf'), 'f32'), await logitsOf(join(dir, 'f32.gguf'), 'f32')))
})
