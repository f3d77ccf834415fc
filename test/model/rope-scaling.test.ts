/** RoPE scalings from a file's keys to logits, and biases of products. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine, isEngineError } from 'tiered-moe'
import { logOf } from '../../lib/kernels/rope-scaling.js'
import { readModel } from '../../lib/model/index.js'
import type { OpOf, Plan } from '../../lib/model/plan.js'
import { type MoeModelOptions, moeFile, moeModel } from '../fixtures/moe-model.js'
import { scaledRopes } from '../kernels/rope-scalings.js'
import { floatsOf, largestDifference } from './float-files.js'
import { naiveForward } from './naive-forward.js'
import { planLogits, sameBits } from './plan-logits.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'
const TOKENS = Array.from({ length: 40 }, (_, i) => (i * 37 + 5) % 270)

const scaled = (keys: Record<string, number | string | boolean>, more: MoeModelOptions = {}): MoeModelOptions => ({
  ...more,
  metadata: Object.fromEntries(Object.entries(keys).map(([key, value]) => [`olmoe.rope.${key}`, value]))
})
const ropeOf = (options: MoeModelOptions): OpOf<'rope'> =>
  readModel(moeFile(options)).plan.ops.find((op): op is OpOf<'rope'> => op.op === 'rope')!

t.test('logarithms', async (t) => {
  for (const x of [1e-300, 0.1, Math.SQRT1_2, 1, 1.5, 2, 32, 150_000, 1e12, 1e300]) {
    t.ok(Math.abs(logOf(x) - Math.log(x)) <= 4e-16 * Math.max(1, Math.abs(Math.log(x))), `ln ${x}`)
  }
  t.same([0, Infinity, -1, Number.NaN].map(logOf), [-Infinity, Infinity, Number.NaN, Number.NaN])
})

t.test('keys of a file', async (t) => {
  t.equal(ropeOf(scaled({ 'scaling.type': 'none', 'scaling.factor': 4 })).scaling, undefined)
  t.equal(ropeOf(scaled({ 'scaling.factor': 0 })).scaling, undefined)
  t.same(ropeOf(scaled({ 'scaling.factor': 4 })).scaling, { factor: 4, magnitude: 1 }, 'linear where no type is said')
  t.same(ropeOf(scaled({ scale_linear: 2.5 })).scaling, { factor: 2.5, magnitude: 1 }, 'the old key')
  const yarn = { 'scaling.type': 'yarn', 'scaling.factor': 32, 'scaling.original_context_length': 4096 }
  const gptOss = scaledRopes.find(({ name }) => name === 'yarn of gpt-oss')!
  const read = ropeOf(scaled(yarn, { headDim: 64, ropeBase: gptOss.base }))
  t.same(read.scaling, gptOss.scaling)
  t.ok(Math.abs(read.scaling!.magnitude - 1.3465735902799727) < 1e-15, '1 + 0.1 ln 32')
  t.same(read.scaling!.keep, { by: 'pair', all: 8, none: 18, most: 1 }, 'the bounds that its paper gives')
  const exact = scaledRopes.find(({ name }) => name === 'yarn of gpt-oss, not truncated')!
  const folder = scaled({ ...yarn, 'scaling.yarn_truncate': false }, { headDim: 64, ropeBase: 150_000 })
  t.same(ropeOf(folder).scaling, exact.scaling, 'what a folder says of gpt-oss')
  const of = (more: Record<string, number>) =>
    ropeOf(scaled({ ...yarn, ...more }, { headDim: 64, ropeBase: 150_000 })).scaling!
  t.equal(of({ 'scaling.attn_factor': 0.5 }).magnitude, 0.5 * read.scaling!.magnitude)
  t.equal(of({ 'scaling.yarn_ext_factor': 0 }).magnitude, 1)
  t.equal(of({ 'scaling.yarn_ext_factor': 0.5 }).keep?.most, 0.5)
  t.same(of({ 'scaling.yarn_ext_factor': -1 }), read.scaling, 'none was set')
  t.match(of({ 'scaling.yarn_beta_fast': 8, 'scaling.yarn_beta_slow': 2 }).keep, { all: 11, none: 16 })
  const contexts = moeModel(
    scaled({ 'scaling.type': 'yarn', 'scaling.factor': 2 }, { contextLength: 4096, headDim: 64 })
  )
  t.same(
    readModel(contexts.file).sizes.rope.scaling,
    readModel(
      moeModel(
        scaled(
          { 'scaling.type': 'yarn', 'scaling.factor': 2, 'scaling.original_context_length': 4096 },
          { headDim: 64 }
        )
      ).file
    ).sizes.rope.scaling,
    'the context is the original one where no other is said'
  )
  // DeepSeek's: scores are multiplied instead, by the square of 1 + 0.1 · m ln 40 with m = 10 · 0.0707
  const stretched = { ...yarn, 'scaling.factor': 40, 'scaling.yarn_log_multiplier': 0.0707 }
  const own = Object.entries(stretched).map(([key, value]) => [`deepseek2.rope.${key}`, value])
  const { sizes } = readModel(moeFile({ architecture: 'deepseek2', metadata: Object.fromEntries(own) }))
  t.equal(sizes.rope.scaling?.magnitude, 1)
  const factor = 1 + 0.0707 * Math.log(40)
  t.ok(Math.abs(sizes.attentionScale * Math.sqrt(12 + 8) - factor ** 2) < 1e-6)
  const llama3 = { 'scaling.type': 'llama3', 'scaling.factor': 8, 'scaling.original_context_length': 8192 }
  t.same(
    ropeOf(scaled(llama3, { headDim: 128, ropeBase: 500_000 })).scaling,
    scaledRopes.find(({ name }) => name === 'llama3')!.scaling
  )
  for (const wrong of [
    { ...yarn, 'scaling.yarn_beta_fast': 0 },
    { ...yarn, 'scaling.yarn_beta_slow': Number.NaN },
    { ...yarn, 'scaling.yarn_beta_slow': 1e-300, 'scaling.original_context_length': 2 ** 31 - 1 },
    { ...yarn, 'scaling.yarn_ext_factor': 2 },
    { ...yarn, 'scaling.yarn_attn_factor': 0.7 },
    { ...yarn, 'scaling.original_context_length': 0 },
    { ...yarn, 'scaling.yarn_log_multiplier': 0.1 },
    { ...yarn, freq_base: 1 },
    { ...llama3, 'scaling.low_freq_factor': 4 },
    { ...llama3, 'scaling.high_freq_factor': 'high' }
  ]) {
    const error = failure(() => readModel(moeFile(scaled(wrong))))
    t.equal(isEngineError(error) && error.code, 'METADATA_INVALID', JSON.stringify(wrong))
  }
})

function failure(work: () => unknown): unknown {
  try {
    work()
  } catch (error) {
    return error
  }
  return undefined
}

t.test('whole models against plain loops in float64', { skip }, async (t) => {
  const dir = t.testdir()
  const odd = { embedding: 52, heads: 6, kvHeads: 3, headDim: 10, feedForward: 37, experts: 7, vocab: 271 }
  const yarn = { 'scaling.type': 'yarn', 'scaling.factor': 4, 'scaling.original_context_length': 24 }
  const q = odd.heads * odd.headDim
  const kv = odd.kvHeads * odd.headDim
  const cases: { name: string; options: MoeModelOptions; biases?: boolean }[] = [
    { name: 'linear', options: scaled({ 'scaling.factor': 4 }, odd) },
    { name: 'yarn', options: scaled(yarn, odd) },
    { name: 'llama3', options: scaled({ ...yarn, 'scaling.type': 'llama3' }, odd) },
    {
      name: 'divisors',
      options: { ...odd, vectors: { 'rope_freqs.weight': { shape: [5], mean: 3, deviation: 0.5 } } }
    },
    {
      name: 'biases',
      options: {
        ...odd,
        layers: 1,
        vectors: {
          'blk.0.attn_q.bias': { shape: [q] },
          'blk.0.attn_k.bias': { shape: [kv] },
          'blk.0.attn_v.bias': { shape: [kv] },
          'blk.0.attn_output.bias': { shape: [odd.embedding] }
        }
      },
      biases: true
    }
  ]
  const plain = new Map<string, Float32Array>()
  for (const { name, options, biases = false } of cases) {
    const model = moeModel(options)
    const path = join(dir, `${name}.gguf`)
    writeFileSync(path, model.bytes)
    const bare = biases ? moeModel({ ...options, vectors: {} }) : model
    const { plan } = readModel(bare.file)
    const own = biases ? withBiases(plan) : plan
    const expected = naiveForward(own, floatsOf(model), TOKENS).flat()
    const [fast, slow] = [
      await planLogits(path, own, TOKENS),
      await planLogits(path, own, TOKENS, { isa: 'scalar', threads: 1, chunk: 7 })
    ]
    const worst = largestDifference(expected, fast)
    t.ok(worst < 1e-4, `${name}: largest difference ${worst.toExponential(1)}`)
    t.ok(sameBits(fast, slow), `${name}: the same bits in scalar code and in chunks`)
    plain.set(name, fast)
  }
  const first = plain.get('linear')!
  for (const [name, logits] of plain)
    if (name !== 'linear') t.notOk(sameBits(logits, first), `${name} is something else`)
})

/** The plan with a bias for each of its products. */
function withBiases(plan: Plan): Plan {
  const tensors = [...plan.tensors]
  const ops = plan.ops.map((op) => {
    if (op.op !== 'matmul') return op
    const parts = op.parts.map((part) => {
      const bias = part.weight.replace(/weight$/, 'bias')
      tensors.push({ name: bias, role: 'vector', shape: [plan.buffers[part.out]!] })
      return { ...part, bias }
    })
    return { ...op, parts }
  })
  return { ...plan, tensors, ops }
}

t.test('divisors that cannot divide', { skip }, async (t) => {
  const path = join(t.testdir(), 'zero.gguf')
  const zero = { shape: [8], mean: 0, deviation: 0 }
  writeFileSync(path, moeModel({ vectors: { 'rope_freqs.weight': zero } }).bytes)
  const engine = await createEngine({})
  await t.rejects(engine.loadModel({ model: path }), { code: 'VALIDATION_ERROR' })
  await engine.dispose()
})
