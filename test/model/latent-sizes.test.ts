/** What qwen2moe and deepseek2 read of a file's metadata, and what they refuse. */
import t from 'tap'
import { isEngineError } from '../../lib/errors/index.js'
import { readModel } from '../../lib/model/index.js'
import { type MoeModelOptions, moeFile } from '../fixtures/moe-model.js'

const read = (options: MoeModelOptions) => readModel(moeFile(options))

/** The code and key of the error of a file with other metadata. */
function refused(
  architecture: 'qwen2moe' | 'deepseek2',
  metadata: Record<string, number | string | undefined>,
  more = {}
) {
  const own = Object.fromEntries(Object.entries(metadata).map(([key, value]) => [`${architecture}.${key}`, value]))
  try {
    read({ architecture, layers: 3, metadata: own, ...more })
  } catch (error) {
    if (isEngineError(error)) return `${error.code} ${String(error.details.key ?? error.details.architecture)}`
    throw error
  }
  return 'read'
}

t.test('sizes of latent attention', async (t) => {
  const { plan, descriptor, sizes } = read({ architecture: 'deepseek2', layers: 3 })
  t.match(sizes.latent, { queryRank: 24, rank: 32, plain: 12, rotated: 8, value: 10, joined: false })
  t.match(descriptor, { layers: 3, expertLayers: 2, heads: 4, kvHeads: 1, headDim: 40, experts: 8 })
  t.equal(descriptor.parts.dense.tensors, 3 + 2 * 3)
  const attention = plan.ops.find((op) => op.op === 'attention')
  t.match(attention, { q: 'absorbed', k: 'k', v: 'k', kvHeads: 1, headDim: 40, valueDim: 32, scale: 1 / Math.sqrt(20) })
  t.equal(plan.ops.filter(({ op }) => op === 'route').length, 2, 'the first layer does not route')
  const older = read({ architecture: 'deepseek2', latent: { joined: true } })
  t.match(older.sizes.latent, { rank: 32, plain: 12, rotated: 8, value: 10, joined: true })
  t.same(
    older.plan.tensors
      .filter(({ source }) => source === 'blk.0.attn_kv_b.weight')
      .map(({ name, shape, cut }) => [name, shape, cut]),
    [
      ['blk.0.attn_k_b.weight', [12, 32, 4], { height: 22, first: 0, transposed: true }],
      ['blk.0.attn_v_b.weight', [32, 10, 4], { height: 22, first: 12, transposed: false }]
    ]
  )
})

t.test('numbers that cannot be', async (t) => {
  const wrong: [string, number | string | undefined][] = [
    ['attention.key_length_mla', 8],
    ['attention.key_length_mla', 0],
    ['attention.value_length_mla', 0],
    ['attention.value_length_mla', 5000],
    ['attention.kv_lora_rank', undefined],
    ['attention.kv_lora_rank', 0],
    ['attention.kv_lora_rank', 4096],
    ['attention.q_lora_rank', 2 ** 21],
    ['attention.q_lora_rank', '24'],
    ['attention.key_length', 41],
    ['attention.value_length', 31],
    ['attention.head_count_kv', 2],
    ['rope.dimension_count', 7],
    ['rope.dimension_count', 20],
    ['rope.dimension_count', undefined],
    ['leading_dense_block_count', 3],
    ['leading_dense_block_count', 1.5],
    ['feed_forward_length', 0],
    ['expert_shared_count', -1],
    ['expert_shared_count', 2 ** 20],
    ['expert_feed_forward_length', 0],
    ['expert_gating_func', 3],
    ['expert_group_count', 3],
    ['expert_group_count', 257],
    ['expert_group_count', 4],
    ['expert_weights_scale', -1],
    ['rope.scaling.yarn_log_multiplier', -1]
  ]
  for (const [key, value] of wrong) {
    const says = refused('deepseek2', { 'rope.scaling.type': 'yarn', [key]: value })
    t.match(says, /^METADATA_INVALID deepseek2\./, `${key} ${value}: ${says}`)
  }
  t.equal(
    refused('deepseek2', { 'attention.head_count': 512, 'attention.value_length_mla': 4096 }),
    'METADATA_INVALID deepseek2.attention.head_count',
    'values of all heads beyond the widest row'
  )
  const biased = { sigmoidGroups: { count: 4, used: 2 } }
  for (const none of [0, 1, undefined]) {
    const says = refused('deepseek2', { expert_gating_func: none }, biased)
    t.equal(says, 'METADATA_INVALID deepseek2.expert_gating_func', 'a softmax with biases of the selection')
  }
  const hser = { tiers: { hot: [4, 4] }, k: [1, 1, 2] }
  for (const metadata of [{ expert_gating_func: 2 }, { expert_group_count: 2, expert_group_used_count: 1 }]) {
    t.equal(refused('deepseek2', metadata, { hser }), 'METADATA_INVALID deepseek2.hser.tiers', 'two forms of routes')
  }
  t.equal(refused('deepseek2', { expert_count: 0 }), 'ARCHITECTURE_UNSUPPORTED deepseek2')
  t.equal(refused('deepseek2', { expert_count: undefined }), 'ARCHITECTURE_UNSUPPORTED deepseek2')
  t.equal(refused('qwen2moe', { leading_dense_block_count: 1 }), 'METADATA_INVALID qwen2moe.leading_dense_block_count')
  t.equal(
    refused('qwen2moe', { expert_shared_feed_forward_length: 2 ** 21 }),
    'METADATA_INVALID qwen2moe.expert_shared_feed_forward_length'
  )
  t.equal(
    refused('qwen2moe', { expert_shared_feed_forward_length: undefined }, { shared: 48 }),
    'read',
    'the width of a layer'
  )
})
