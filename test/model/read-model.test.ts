import t from 'tap'
import { isEngineError } from '../../lib/errors/index.js'
import { readModel } from '../../lib/model/index.js'
import type { Plan, PlanOp } from '../../lib/model/plan.js'
import { encodeGguf, type MetadataEntry, TENSOR_TYPES } from '../fixtures/gguf.js'
import { type MoeModelOptions, moeFile, moeModel } from '../fixtures/moe-model.js'

const ARCHITECTURES = ['olmoe', 'qwen3moe', 'llama'] as const

const read = (options: MoeModelOptions = {}) => readModel(moeFile(options))

/** The typed error of a file, or undefined where it reads. */
function failure(options: MoeModelOptions) {
  try {
    read(options)
  } catch (error) {
    if (isEngineError(error)) return error
    throw error
  }
  return undefined
}

function only<Name extends PlanOp['op']>(plan: Plan, name: Name): Extract<PlanOp, { op: Name }>[] {
  return plan.ops.filter((op): op is Extract<PlanOp, { op: Name }> => op.op === name)
}

t.test('every operation of a plan fits its buffers and tensors', async (t) => {
  for (const architecture of ARCHITECTURES) {
    for (const tied of [false, true]) {
      const { plan } = read({ architecture, tied, embedding: 40, heads: 3, kvHeads: 1, headDim: 22, feedForward: 9 })
      const width = (buffer: string) => plan.buffers[buffer]!
      const shape = (name: string) => plan.tensors.find((tensor) => tensor.name === name)!.shape
      for (const op of plan.ops) {
        if (op.op === 'embed') t.same(shape(op.table), [width(op.out), plan.vocab])
        if (op.op === 'rmsNorm') t.equal(width(op.in) % shape(op.weight)[0]!, 0)
        if (op.op === 'matmul') {
          for (const { weight, out } of op.parts) t.same(shape(weight), [width(op.in), width(out)])
        }
        if (op.op === 'rope') t.equal(width(op.buffer), op.heads * op.headDim)
        if (op.op === 'attention') {
          t.equal(width(op.q), op.heads * op.headDim)
          t.equal(width(op.k), op.kvHeads * op.headDim)
          t.equal(width(op.v), op.kvHeads * op.valueDim)
          t.equal(width(op.out), op.heads * op.valueDim)
        }
        if (op.op === 'route') t.same(shape(op.weight), [width(op.in), 8])
        if (op.op === 'experts') {
          t.same(shape(op.gate), [width(op.in), 9, 8])
          t.same(shape(op.down), [9, width(op.out), 8])
        }
        if (op.op === 'logits') t.same(shape(op.weight), [width(op.in), plan.vocab])
      }
      const output = plan.tensors.find(({ name }) => name === 'output.weight')
      t.equal(output?.source, tied ? 'token_embd.weight' : undefined, 'a tied output reads the table')
      t.equal(new Set(plan.tensors.map(({ name }) => name)).size, plan.tensors.length)
    }
  }
})

t.test('what sets the architectures apart', async (t) => {
  const plans = Object.fromEntries(
    ARCHITECTURES.map((architecture) => [architecture, read({ architecture }).plan])
  ) as Record<(typeof ARCHITECTURES)[number], Plan>
  const norms = (plan: Plan) => only(plan, 'rmsNorm').length
  t.equal(norms(plans.olmoe), 2 * 4 + 1)
  t.equal(norms(plans.qwen3moe), 2 * 4 + 1)
  t.equal(norms(plans.llama), 2 * 2 + 1)
  const normWidth = (plan: Plan) => plan.tensors.find(({ name }) => name === 'blk.0.attn_q_norm.weight')?.shape
  t.same(normWidth(plans.olmoe), [64], 'over the row')
  t.same(normWidth(plans.qwen3moe), [16], 'over a head')
  t.same(
    ARCHITECTURES.map((a) => only(plans[a], 'rope')[0]!.pairs),
    ['neox', 'neox', 'interleaved']
  )
  t.same(
    ARCHITECTURES.map((a) => only(plans[a], 'route')[0]!.normalise),
    [false, true, true]
  )
  for (const plan of Object.values(plans)) {
    t.equal(only(plan, 'attention')[1]!.layer, 1)
    t.equal(only(plan, 'attention')[0]!.scale, 0.25)
    t.equal(plan.layers, 2)
    t.equal(plan.contextLength, 128)
  }
})

t.test('defaults and options of the metadata', async (t) => {
  const drop = (...keys: string[]) => Object.fromEntries(keys.map((key) => [key, undefined]))
  const bare = read({
    metadata: drop(
      'olmoe.attention.key_length',
      'olmoe.attention.value_length',
      'olmoe.rope.dimension_count',
      'olmoe.rope.freq_base'
    )
  })
  t.match(only(bare.plan, 'rope')[0], { headDim: 16, rotaryDim: 16, base: 10000 })
  t.equal(only(read({ metadata: { 'olmoe.rope.dimension_count': 8 } }).plan, 'rope')[0]!.rotaryDim, 8)
  t.equal(only(read({ metadata: { 'olmoe.attention.scale': 0.5 } }).plan, 'attention')[0]!.scale, 0.5)
  t.equal(only(read({ metadata: { 'olmoe.expert_weights_norm': true } }).plan, 'route')[0]!.normalise, true)
  t.ok(read({ metadata: { 'olmoe.rope.scaling.type': 'none', 'olmoe.rope.scaling.factor': 1 } }))
  const old = read({
    architecture: 'qwen3moe',
    metadata: { 'qwen3moe.expert_feed_forward_length': undefined, 'qwen3moe.feed_forward_length': 96 }
  })
  t.equal(old.descriptor.expertFeedForward, 48, 'an expert has its share of the whole width')
  const listless = read({ metadata: { ...drop('tokenizer.ggml.tokens'), 'olmoe.vocab_size': 300 } })
  t.equal(listless.plan.vocab, 300)
})

t.test('the descriptor adds up', async (t) => {
  for (const architecture of ARCHITECTURES) {
    const model = moeModel({ architecture, type: 'Q8_0', embedding: 64, feedForward: 64 })
    const { descriptor } = readModel(model.file)
    const total = model.file.tensors.reduce((sum, { bytes }) => sum + bytes, 0)
    t.equal(
      Object.values(descriptor.parts).reduce((sum, { bytes }) => sum + bytes, 0),
      total
    )
    t.equal(
      descriptor.parameters,
      model.file.tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
    )
    t.equal(descriptor.expertBytes, (3 * 64 * 64 * 34) / 32)
    t.equal(descriptor.weightType, 'Q8_0')
    t.match(descriptor, { architecture, layers: 2, experts: 8, expertsUsed: 2, vocab: 300, contextLength: 128 })
    t.equal(descriptor.activeParameters, descriptor.parameters - 0.75 * 2 * 8 * 3 * 64 * 64)
  }
})

t.test('hostile metadata', async (t) => {
  const NUMBERS: MetadataEntry['value'][] = [
    0,
    -1,
    1.5,
    2 ** 31,
    2 ** 53,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    'many',
    true,
    [1, 2]
  ]
  for (const key of [
    'block_count',
    'embedding_length',
    'attention.head_count',
    'attention.head_count_kv',
    'attention.key_length',
    'attention.value_length',
    'rope.dimension_count',
    'expert_count',
    'expert_used_count',
    'feed_forward_length',
    'context_length'
  ]) {
    for (const value of NUMBERS) {
      const error = failure({ metadata: { [`olmoe.${key}`]: value } })
      t.equal(error?.code, 'METADATA_INVALID', `${key} = ${value}`)
      t.match(error?.details, { key: `olmoe.${key}`, found: String, allowed: String })
    }
  }
  for (const [key, value] of [
    ['attention.head_count', 5],
    ['attention.head_count_kv', 3],
    ['attention.key_length', 15],
    ['attention.value_length', 8],
    ['rope.dimension_count', 18],
    ['rope.dimension_count', 7],
    ['expert_used_count', 9],
    ['block_count', 5000],
    ['embedding_length', 70000],
    ['attention.layer_norm_rms_epsilon', Number.NaN],
    ['attention.layer_norm_rms_epsilon', 0],
    ['attention.layer_norm_rms_epsilon', -1e-5],
    ['attention.layer_norm_rms_epsilon', undefined],
    ['rope.freq_base', 0],
    ['rope.freq_base', Number.NaN],
    ['rope.freq_base', -10000],
    ['rope.scaling.type', 'longrope'],
    ['rope.scaling.type', 3],
    ['rope.scaling.factor', 0.5],
    ['rope.scaling.factor', Number.NaN],
    ['rope.scale_linear', -2],
    ['rope.scaling.attn_factor', 0],
    ['attention.scale', Number.NaN],
    ['attention.clamp_kqv', 8],
    ['attention.temperature_scale', 0.1],
    ['attention.sliding_window', 4096],
    ['expert_weights_scale', 2.5],
    ['expert_weights_norm', 1],
    ['expert_gating_func', 2],
    ['expert_shared_count', 1],
    ['block_count', undefined],
    ['expert_count', undefined],
    ['context_length', undefined]
  ] as const) {
    t.equal(failure({ metadata: { [`olmoe.${key}`]: value } })?.code, 'METADATA_INVALID', `${key} = ${value}`)
  }
  t.equal(failure({ metadata: { 'split.count': 3 } })?.code, 'METADATA_INVALID')
  t.equal(failure({ metadata: { 'tokenizer.ggml.tokens': [] } })?.code, 'METADATA_INVALID')
  const noKeyLength = { 'olmoe.attention.key_length': undefined, 'olmoe.attention.value_length': undefined }
  t.equal(
    failure({ metadata: { ...noKeyLength, 'olmoe.attention.head_count': 6 } })?.details.key,
    'olmoe.attention.head_count'
  )
  t.match(failure({ metadata: { 'olmoe.expert_count': 'x'.repeat(500) } })?.message, /^.{1,200}$/)
})

t.test('architectures that are not supported', async (t) => {
  for (const [metadata, code] of [
    [{ 'general.architecture': 'mamba' }, 'ARCHITECTURE_UNSUPPORTED'],
    [{ 'general.architecture': '__proto__' }, 'ARCHITECTURE_UNSUPPORTED'],
    [{ 'general.architecture': '' }, 'ARCHITECTURE_UNSUPPORTED'],
    [{ 'general.architecture': 7 }, 'METADATA_INVALID'],
    [{ 'general.architecture': undefined }, 'METADATA_INVALID']
  ] as const) {
    t.equal(failure({ metadata })?.code, code)
  }
  const dense = failure({ architecture: 'llama', metadata: { 'llama.expert_count': undefined } })
  t.equal(dense?.code, 'ARCHITECTURE_UNSUPPORTED')
  t.match(dense?.message, /dense/)
  t.same(dense?.details.supported, [
    'olmoe',
    'qwen2moe',
    'qwen3moe',
    'llama (Mixtral)',
    'granitemoe',
    'gpt-oss',
    'deepseek2'
  ])
  t.equal(failure({ architecture: 'llama', metadata: { 'llama.expert_count': 0 } })?.code, 'ARCHITECTURE_UNSUPPORTED')
})

t.test('tensors that do not fit the plan', async (t) => {
  const edit = (name: string, change: object | undefined): MoeModelOptions => ({
    editTensor: (tensor) => (tensor.name === name ? change && { ...tensor, ...change } : tensor)
  })
  const missing = failure(edit('blk.1.ffn_up_exps.weight', undefined))
  t.equal(missing?.code, 'TENSOR_MISSING')
  t.match(missing?.details, { tensor: 'blk.1.ffn_up_exps.weight', architecture: 'olmoe', expected: [64, 48, 8] })

  const shape = failure(edit('blk.0.attn_k.weight', { shape: [64, 31] }))
  t.equal(shape?.code, 'TENSOR_SHAPE_MISMATCH')
  t.match(shape?.details, { tensor: 'blk.0.attn_k.weight', expected: [64, 32], actual: [64, 31] })
  t.equal(failure({ metadata: { 'olmoe.expert_count': 7 } })?.code, 'TENSOR_SHAPE_MISMATCH')
  t.equal(failure({ metadata: { 'olmoe.block_count': 3 } })?.code, 'TENSOR_MISSING')

  const type = failure(edit('blk.0.attn_norm.weight', { typeId: TENSOR_TYPES.Q8_0[0] }))
  t.equal(type?.code, 'TENSOR_TYPE_UNSUPPORTED')
  t.match(type?.details, { tensor: 'blk.0.attn_norm.weight', type: 'Q8_0', supported: ['F32', 'F16', 'BF16'] })
  t.match(failure(edit('output.weight', { typeId: 10 }))?.details, { type: 'type 10' })

  const extra = failure(edit('blk.0.attn_q.weight', { name: 'blk.0.attn_q.bias' }))
  t.equal(extra?.code, 'TENSOR_MISSING')
  const fewer = failure({ metadata: { 'olmoe.block_count': 1 } })
  t.equal(fewer?.code, 'ARCHITECTURE_UNSUPPORTED', 'weights that the plan would leave out')
  t.equal(fewer?.details.count, 12)
})

t.test('the fixture is deterministic and whole', async (t) => {
  const one = moeModel({ type: 'Q4_0', seed: 5 })
  t.ok(one.bytes.equals(moeModel({ type: 'Q4_0', seed: 5 }).bytes))
  t.notOk(one.bytes.equals(moeModel({ type: 'Q4_0', seed: 6 }).bytes))
  t.ok(one.bytes.equals(encodeGguf(one)))
  for (const type of Object.keys(TENSOR_TYPES) as (keyof typeof TENSOR_TYPES)[]) {
    t.ok(readModel(moeModel({ type, embedding: 256, feedForward: 256, vocab: 300 }).file), type)
  }
})
