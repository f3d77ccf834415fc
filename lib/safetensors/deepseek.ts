/** DeepSeek-V2 and V3: latent attention, whose keys and values stay one matrix (`attn_kv_b`). Sources: their own modelling files, and transformers'. */
import type { Metadata } from '../model/metadata.js'
import type { FolderArchitecture } from './architectures.js'
import { onlyNeutral } from './config.js'
import type { Put } from './metadata.js'
import { block, ends, experts, inLayer, layer, norms, sharedExpert } from './tensor-rules.js'

/** What config.json has where it does not say; `methods`: of choosing experts. */
interface Generation {
  scoring: 'softmax' | 'sigmoid'
  methods: readonly string[]
  groups: { all: number; used: number }
  normalise: boolean
  scale: number
}

/** Ids of `expert_gating_func`. */
const gatingIds = { softmax: 1, sigmoid: 2 } as const

/** How experts are chosen. */
function putRouting(
  config: Metadata,
  put: Put,
  { scoring, methods, groups: defaults, normalise, scale }: Generation
): void {
  onlyNeutral(config, '.scoring_func', [scoring])
  put('expert_gating_func', 'u32', gatingIds[scoring])
  const method = config.optionalString('.topk_method') ?? methods[0]!
  if (!methods.includes(method)) config.refuse('.topk_method', methods.join(' or '))
  const factor = config.number('.routed_scaling_factor', { min: 0, default: scale })
  const normalised = config.boolean('.norm_topk_prob', normalise)
  // V2's own code leaves out the factor then, other programs do not.
  if (scoring === 'softmax' && normalised && factor !== 1)
    config.refuse('.routed_scaling_factor', '1 with norm_topk_prob')
  put('expert_weights_scale', 'f32', factor)
  put('expert_weights_norm', 'bool', normalised)
  const groups = config.integer('.n_group', { default: defaults.all })
  if (groups === 1 || method === 'greedy') return
  put('expert_group_count', 'u32', groups)
  put('expert_group_used_count', 'u32', config.integer('.topk_group', { max: groups, default: defaults.used }))
}

const deepseek = (modelType: string, className: string, generation: Generation): FolderArchitecture => ({
  modelType,
  className,
  ggufName: 'deepseek2',
  tied: false,
  guesses: true,
  config: { epsilon: 1e-6, stretched: true },
  metadata(config, put) {
    onlyNeutral(config, '.moe_layer_freq', [1])
    onlyNeutral(config, '.rope_interleave', [true])
    const rotated = config.integer('.qk_rope_head_dim')
    put('attention.key_length', 'u32', config.integer('.qk_nope_head_dim') + rotated)
    put('attention.value_length', 'u32', config.integer('.v_head_dim'))
    put('attention.kv_lora_rank', 'u32', config.integer('.kv_lora_rank'))
    if (config.has('.q_lora_rank')) put('attention.q_lora_rank', 'u32', config.integer('.q_lora_rank'))
    put('rope.dimension_count', 'u32', rotated)
    put('feed_forward_length', 'u32', config.integer('.intermediate_size'))
    put('leading_dense_block_count', 'u32', config.integer('.first_k_dense_replace', { min: 0 }))
    put('expert_feed_forward_length', 'u32', config.integer('.moe_intermediate_size'))
    put('expert_count', 'u32', config.integer('.n_routed_experts'))
    put('expert_used_count', 'u32', config.integer('.num_experts_per_tok'))
    put('expert_shared_count', 'u32', config.integer('.n_shared_experts', { min: 0, default: 0 }))
    putRouting(config, put, generation)
  },
  tensors: [
    ...ends,
    ...norms,
    inLayer('self_attn.q_proj', 'attn_q'),
    inLayer('self_attn.q_a_proj', 'attn_q_a'),
    inLayer('self_attn.q_a_layernorm', 'attn_q_a_norm'),
    inLayer('self_attn.q_b_proj', 'attn_q_b'),
    inLayer('self_attn.kv_a_proj_with_mqa', 'attn_kv_a_mqa'),
    inLayer('self_attn.kv_a_layernorm', 'attn_kv_a_norm'),
    inLayer('self_attn.kv_b_proj', 'attn_kv_b'),
    inLayer('self_attn.o_proj', 'attn_output'),
    inLayer('mlp.gate_proj', 'ffn_gate'),
    inLayer('mlp.up_proj', 'ffn_up'),
    inLayer('mlp.down_proj', 'ffn_down'),
    ...experts,
    { from: `${layer}mlp.gate.e_score_correction_bias`, to: `${block}exp_probs_b.bias` },
    ...sharedExpert('shared_experts')
  ]
})

export const deepseekV2 = deepseek('deepseek_v2', 'DeepseekV2ForCausalLM', {
  scoring: 'softmax',
  methods: ['greedy', 'group_limited_greedy'],
  groups: { all: 1, used: 1 },
  normalise: false,
  scale: 1
})
export const deepseekV3 = deepseek('deepseek_v3', 'DeepseekV3ForCausalLM', {
  scoring: 'sigmoid',
  methods: ['noaux_tc'],
  groups: { all: 8, used: 4 },
  normalise: true,
  scale: 2.5
})
