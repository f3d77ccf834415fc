/** Published configurations and tensor names of architectures, as what converters to GGUF make of them. */
import t from 'tap'
import { findFolderArchitecture, folderMetadata } from '../../lib/safetensors/architectures.js'
import { parseConfig } from '../../lib/safetensors/config.js'
import { gatherTensors } from '../../lib/safetensors/gather.js'
import type { PlacedTensor } from '../../lib/safetensors/shards.js'

const configOf = (values: object) => parseConfig(Buffer.from(JSON.stringify(values)), 'config.json', 'config.json')

function metadataOf(values: object): Record<string, unknown> {
  const config = configOf(values)
  return Object.fromEntries(
    [...folderMetadata(findFolderArchitecture(config), config)].map(([key, { value }]) => [key, value])
  )
}

/** Tensors one after another, in BF16. */
function gathered(values: object, shapes: Record<string, number[]>) {
  const config = configOf(values)
  let offset = 0
  const tensors = Object.entries(shapes).map(([name, shape]): PlacedTensor => {
    const bytes = 2 * shape.reduce((product, size) => product * size, 1)
    offset += bytes
    return { name, dtype: 'BF16', shape, offset: offset - bytes, bytes, file: 0 }
  })
  const made = gatherTensors(findFolderArchitecture(config), config, tensors, false, 'folder')
  return made.map(({ name, shape, halfHead, parts }) => [name, shape, halfHead, parts.map((part) => part.offset)])
}

const qwen = {
  model_type: 'qwen2_moe',
  architectures: ['Qwen2MoeForCausalLM'],
  hidden_act: 'silu',
  hidden_size: 2048,
  intermediate_size: 5632,
  max_position_embeddings: 8192,
  moe_intermediate_size: 1408,
  norm_topk_prob: false,
  num_attention_heads: 16,
  num_experts: 60,
  num_experts_per_tok: 4,
  num_hidden_layers: 24,
  num_key_value_heads: 16,
  rms_norm_eps: 1e-6,
  rope_theta: 1e6,
  shared_expert_intermediate_size: 5632,
  sliding_window: 32768,
  use_sliding_window: false,
  decoder_sparse_step: 1
}
const granite = {
  model_type: 'granitemoe',
  architectures: ['GraniteMoeForCausalLM'],
  attention_bias: false,
  attention_multiplier: 0.015625,
  embedding_multiplier: 12,
  hidden_act: 'silu',
  hidden_size: 1024,
  intermediate_size: 512,
  logits_scaling: 6,
  max_position_embeddings: 4096,
  num_attention_heads: 16,
  num_experts_per_tok: 8,
  num_hidden_layers: 24,
  num_key_value_heads: 8,
  num_local_experts: 32,
  residual_multiplier: 0.22,
  rms_norm_eps: 1e-6,
  rope_scaling: null,
  rope_theta: 10000
}
const deepseek = {
  model_type: 'deepseek_v2',
  architectures: ['DeepseekV2ForCausalLM'],
  attention_bias: false,
  first_k_dense_replace: 1,
  hidden_act: 'silu',
  hidden_size: 2048,
  intermediate_size: 10944,
  kv_lora_rank: 512,
  max_position_embeddings: 163840,
  moe_intermediate_size: 1408,
  moe_layer_freq: 1,
  n_group: 1,
  n_routed_experts: 64,
  n_shared_experts: 2,
  norm_topk_prob: false,
  num_attention_heads: 16,
  num_experts_per_tok: 6,
  num_hidden_layers: 27,
  num_key_value_heads: 16,
  q_lora_rank: null,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  rms_norm_eps: 1e-6,
  rope_scaling: {
    beta_fast: 32,
    beta_slow: 1,
    factor: 40,
    mscale: 0.7,
    mscale_all_dim: 0.7,
    original_max_position_embeddings: 4096,
    type: 'yarn'
  },
  rope_theta: 10000,
  routed_scaling_factor: 1,
  scoring_func: 'softmax',
  topk_group: 1,
  topk_method: 'greedy',
  v_head_dim: 128
}

const v3 = {
  model_type: 'deepseek_v3',
  architectures: ['DeepseekV3ForCausalLM'],
  scoring_func: 'sigmoid',
  topk_method: 'noaux_tc'
}
const gptOss = {
  model_type: 'gpt_oss',
  architectures: ['GptOssForCausalLM'],
  attention_bias: true,
  experts_per_token: 4,
  head_dim: 64,
  hidden_act: 'silu',
  hidden_size: 2880,
  initial_context_length: 4096,
  intermediate_size: 2880,
  layer_types: ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention'],
  max_position_embeddings: 131072,
  num_attention_heads: 64,
  num_experts_per_tok: 4,
  num_hidden_layers: 4,
  num_key_value_heads: 8,
  num_local_experts: 32,
  quantization_config: { modules_to_not_convert: ['lm_head'], quant_method: 'mxfp4' },
  rms_norm_eps: 1e-5,
  rope_scaling: {
    beta_fast: 32,
    beta_slow: 1,
    factor: 32,
    original_max_position_embeddings: 4096,
    rope_type: 'yarn',
    truncate: false
  },
  rope_theta: 150000,
  sliding_window: 128,
  swiglu_limit: 7
}

t.test('metadata', async (t) => {
  t.match(metadataOf(qwen), {
    'general.architecture': 'qwen2moe',
    'qwen2moe.context_length': 8192,
    'qwen2moe.expert_feed_forward_length': 1408,
    'qwen2moe.expert_shared_feed_forward_length': 5632,
    'qwen2moe.expert_count': 60,
    'qwen2moe.expert_used_count': 4,
    'qwen2moe.expert_weights_norm': false,
    'qwen2moe.rope.freq_base': 1e6
  })
  t.match(metadataOf(granite), {
    'general.architecture': 'granitemoe',
    'granitemoe.feed_forward_length': 512,
    'granitemoe.expert_count': 32,
    'granitemoe.embedding_scale': 12,
    'granitemoe.residual_scale': 0.22,
    'granitemoe.logit_scale': 6,
    'granitemoe.attention.scale': 0.015625
  })
  const lite = metadataOf(deepseek)
  t.match(lite, {
    'general.architecture': 'deepseek2',
    'deepseek2.attention.key_length': 192,
    'deepseek2.attention.value_length': 128,
    'deepseek2.attention.kv_lora_rank': 512,
    'deepseek2.rope.dimension_count': 64,
    'deepseek2.leading_dense_block_count': 1,
    'deepseek2.expert_shared_count': 2,
    'deepseek2.expert_gating_func': 1,
    'deepseek2.expert_weights_scale': 1,
    'deepseek2.rope.scaling.type': 'yarn',
    'deepseek2.rope.scaling.factor': 40,
    'deepseek2.rope.scaling.original_context_length': 4096
  })
  t.equal(Math.fround(lite['deepseek2.rope.scaling.yarn_log_multiplier'] as number), Math.fround(0.07))
  t.notOk('deepseek2.attention.q_lora_rank' in lite || 'deepseek2.expert_group_count' in lite)
  const grouped = { n_group: 8, topk_group: 4, topk_method: 'noaux_tc', q_lora_rank: 1536, routed_scaling_factor: 2.5 }
  t.match(metadataOf({ ...deepseek, ...v3, ...grouped }), {
    'deepseek2.expert_gating_func': 2,
    'deepseek2.expert_group_count': 8,
    'deepseek2.expert_group_used_count': 4,
    'deepseek2.attention.q_lora_rank': 1536,
    'deepseek2.expert_weights_scale': 2.5
  })
})

t.test('metadata of gpt-oss', async (t) => {
  t.match(metadataOf(gptOss), {
    'general.architecture': 'gpt-oss',
    'gpt-oss.attention.key_length': 64,
    'gpt-oss.attention.sliding_window': 128,
    'gpt-oss.attention.sliding_window_pattern': 2,
    'gpt-oss.expert_feed_forward_length': 2880,
    'gpt-oss.expert_count': 32,
    'gpt-oss.expert_used_count': 4,
    'gpt-oss.rope.freq_base': 150000,
    'gpt-oss.rope.scaling.factor': 32,
    'gpt-oss.rope.scaling.original_context_length': 4096,
    'gpt-oss.rope.scaling.yarn_truncate': false
  })
  for (const [types, pattern] of [
    ['ffff', 1],
    ['ssss', 0],
    ['sssf', 4]
  ] as const) {
    const layer_types = [...types].map((type) => (type === 's' ? 'sliding_attention' : 'full_attention'))
    t.equal(metadataOf({ ...gptOss, layer_types })['gpt-oss.attention.sliding_window_pattern'], pattern, types)
  }
})

t.test('what config.json leaves out is what the configuration class has', async (t) => {
  const {
    rms_norm_eps: _,
    rope_theta: __,
    ...olmoe
  } = {
    ...qwen,
    model_type: 'olmoe',
    architectures: ['OlmoeForCausalLM']
  }
  // OLMoE-1B-7B-0924 has no rms_norm_eps.
  t.equal(metadataOf(olmoe)['olmoe.attention.layer_norm_rms_epsilon'], 1e-5)
  t.equal(metadataOf(olmoe)['olmoe.rope.freq_base'], 10000)
  const mixtral = { ...olmoe, model_type: 'mixtral', architectures: ['MixtralForCausalLM'], sliding_window: null }
  t.equal(metadataOf(mixtral)['llama.rope.freq_base'], 1e6)
  const { num_experts: ___, ...qwen3 } = { ...qwen, model_type: 'qwen3_moe', architectures: ['Qwen3MoeForCausalLM'] }
  t.equal(metadataOf({ ...qwen3, num_local_experts: 16 })['qwen3moe.expert_count'], 16)
  const { norm_topk_prob: a, n_group: b, topk_group: c, routed_scaling_factor: d, ...bare } = { ...deepseek, ...v3 }
  t.match(metadataOf(bare), {
    'deepseek2.expert_weights_norm': true,
    'deepseek2.expert_weights_scale': 2.5,
    'deepseek2.expert_group_count': 8,
    'deepseek2.expert_group_used_count': 4
  })
})

t.test('values that change what is computed are refused', async (t) => {
  for (const change of [
    { ...deepseek, rope_scaling: { ...deepseek.rope_scaling, mscale: 1 } },
    { ...deepseek, rope_scaling: { type: 'longrope', factor: 4 } },
    { ...deepseek, topk_method: 'another' },
    { ...deepseek, moe_layer_freq: 2 },
    { ...qwen, mlp_only_layers: [3] },
    { ...qwen, use_sliding_window: true },
    { ...granite, attention_bias: true },
    { ...granite, logits_scaling: 0 },
    { ...granite, layer_types: ['full_attention', 'sliding_attention'] },
    { ...granite, rope_scaling: 'yarn' },
    { ...granite, rope_parameters: { full_attention: { rope_type: 'default', rope_theta: 1e4 } } },
    { ...granite, rope_scaling: { type: 'yarn', factor: 4, mscale: 1, mscale_all_dim: 1 } },
    { ...granite, quantization_config: { quant_method: 'fp8', weight_block_size: [128, 128] } },
    { ...granite, quantization_config: { quant_method: 'mxfp4' } },
    { ...deepseek, scoring_func: 'sigmoid' },
    { ...deepseek, norm_topk_prob: true, routed_scaling_factor: 16 },
    { ...deepseek, ...v3, topk_method: 'group_limited_greedy' },
    { ...deepseek, ...v3, rope_interleave: false },
    { ...gptOss, swiglu_limit: 8 },
    { ...gptOss, swiglu_alpha: 1 },
    { ...gptOss, rope_scaling: null },
    { ...gptOss, sliding_window: null },
    { ...gptOss, layer_types: ['full_attention', 'sliding_attention', 'sliding_attention', 'full_attention'] },
    { ...gptOss, layer_types: ['sliding_attention', 'full_attention'] },
    { ...gptOss, quantization_config: { quant_method: 'bitsandbytes' } }
  ]) {
    t.throws(() => metadataOf(change), { code: 'METADATA_INVALID' }, JSON.stringify(change).slice(0, 200))
  }
})

t.test('tensors', async (t) => {
  const layer = 'model.layers.0.'
  t.same(
    gathered(qwen, {
      [`${layer}mlp.shared_expert_gate.weight`]: [1, 8],
      [`${layer}self_attn.q_proj.bias`]: [8],
      [`${layer}mlp.shared_expert.down_proj.weight`]: [8, 4],
      [`${layer}mlp.experts.1.up_proj.weight`]: [6, 8],
      [`${layer}mlp.experts.0.up_proj.weight`]: [6, 8]
    }),
    [
      ['blk.0.attn_q.bias', [8], 0, [16]],
      ['blk.0.ffn_up_exps.weight', [8, 6, 2], 0, [192, 96]],
      ['blk.0.ffn_down_shexp.weight', [4, 8], 0, [32]],
      ['blk.0.ffn_gate_inp_shexp.weight', [8], 0, [0]]
    ]
  )
  t.same(
    gathered(
      { ...granite, num_attention_heads: 2 },
      {
        [`${layer}block_sparse_moe.input_linear.weight`]: [2, 6, 4],
        [`${layer}self_attn.q_proj.weight`]: [8, 4]
      }
    ),
    [
      ['blk.0.attn_q.weight', [4, 8], 2, [96]],
      ['blk.0.ffn_gate_exps.weight', [4, 3, 2], 0, [0, 48]],
      ['blk.0.ffn_up_exps.weight', [4, 3, 2], 0, [24, 72]]
    ],
    'gate, then up, of each expert'
  )
  t.same(
    gathered(
      { ...deepseek, num_hidden_layers: 1, num_nextn_predict_layers: 1 },
      {
        [`${layer}self_attn.kv_b_proj.weight`]: [8, 4],
        [`${layer}mlp.gate.e_score_correction_bias`]: [4],
        'model.layers.1.eh_proj.weight': [4, 8]
      }
    ),
    [
      ['blk.0.attn_kv_b.weight', [4, 8], 0, [0]],
      ['blk.0.exp_probs_b.bias', [4], 0, [64]]
    ],
    'without the layer that guesses'
  )
  const experts = `${layer}mlp.experts.`
  t.same(
    gathered(gptOss, {
      [`${experts}gate_up_proj`]: [2, 3, 8],
      [`${experts}gate_up_proj_bias`]: [2, 8],
      [`${experts}down_proj`]: [2, 4, 3]
    }),
    [
      ['blk.0.ffn_gate_exps.weight', [3, 4, 2], 0, [0, 48]],
      ['blk.0.ffn_gate_exps.bias', [4, 2], 0, [96]],
      ['blk.0.ffn_up_exps.weight', [3, 4, 2], 0, [2, 50]],
      ['blk.0.ffn_up_exps.bias', [4, 2], 0, [98]],
      ['blk.0.ffn_down_exps.weight', [4, 3, 2], 0, [128, 152]]
    ],
    'gate and up in turn, turned'
  )
  t.throws(() => gathered(deepseek, { 'model.layers.27.eh_proj.weight': [4, 8] }), { code: 'ARCHITECTURE_UNSUPPORTED' })
})
