/**
 * The architectures that safetensors folders can have: how each one's config.json and tensor names become the metadata and names of GGUF, which
 * lib/model reads. A new one is one entry here. Sources: the configuration and modelling files of transformers; the GGUF specification.
 */
import type { Metadata } from '../model/metadata.js'
import { onlyNeutral, unsupported } from './config.js'
import type { MetadataValue } from './gguf-header.js'
import { type Put, putCommon } from './metadata.js'
import {
  attention,
  block,
  ends,
  experts,
  headNorms,
  inLayer,
  layer,
  norms,
  pairedAttention,
  type TensorRule
} from './tensor-rules.js'

export interface FolderArchitecture {
  /** `model_type` of config.json. */
  readonly modelType: string
  /** What `architectures` says. */
  readonly className: string
  /** `general.architecture` of its GGUF files. */
  readonly ggufName: string
  /** Whether `output.weight` is the embedding where config.json does not say. */
  readonly tied: boolean
  /** Layers behind the model's own, for guesses at further tokens, are left out: `num_nextn_predict_layers`. */
  readonly guesses?: boolean
  /** What every model has is there already. */
  metadata(config: Metadata, put: Put): void
  readonly tensors: readonly TensorRule[]
}

const olmoe: FolderArchitecture = {
  modelType: 'olmoe',
  className: 'OlmoeForCausalLM',
  ggufName: 'olmoe',
  tied: false,
  metadata(config, put) {
    onlyNeutral(config, '.clip_qkv', [])
    put('feed_forward_length', 'u32', config.integer('.intermediate_size', { default: 2048 }))
    put('expert_count', 'u32', config.integer('.num_experts', { default: 64 }))
    put('expert_used_count', 'u32', config.integer('.num_experts_per_tok', { default: 8 }))
    put('expert_weights_norm', 'bool', config.boolean('.norm_topk_prob', false))
  },
  tensors: [...ends, ...norms, ...attention, ...headNorms, ...experts]
}

const qwen3moe: FolderArchitecture = {
  modelType: 'qwen3_moe',
  className: 'Qwen3MoeForCausalLM',
  ggufName: 'qwen3moe',
  tied: false,
  metadata(config, put) {
    onlyNeutral(config, '.decoder_sparse_step', [1])
    onlyNeutral(config, '.mlp_only_layers', [])
    onlyNeutral(config, '.use_sliding_window', [false])
    put('feed_forward_length', 'u32', config.integer('.intermediate_size', { default: 6144 }))
    put('expert_feed_forward_length', 'u32', config.integer('.moe_intermediate_size', { default: 768 }))
    put('expert_count', 'u32', config.integer('.num_experts', { default: 128 }))
    put('expert_used_count', 'u32', config.integer('.num_experts_per_tok', { default: 8 }))
    put('expert_weights_norm', 'bool', config.boolean('.norm_topk_prob', false))
  },
  tensors: [...ends, ...norms, ...attention, ...headNorms, ...experts]
}

const sparse = 'block_sparse_moe.'
const mixtral: FolderArchitecture = {
  modelType: 'mixtral',
  className: 'MixtralForCausalLM',
  ggufName: 'llama',
  tied: false,
  metadata(config, put) {
    onlyNeutral(config, '.sliding_window', [])
    put('feed_forward_length', 'u32', config.integer('.intermediate_size', { default: 14336 }))
    put('expert_count', 'u32', config.integer('.num_local_experts', { default: 8 }))
    put('expert_used_count', 'u32', config.integer('.num_experts_per_tok', { default: 2 }))
  },
  tensors: [
    ...ends,
    ...norms,
    ...pairedAttention,
    inLayer(`${sparse}gate`, 'ffn_gate_inp'),
    inLayer(`${sparse}experts.{expert}.w1`, 'ffn_gate_exps'),
    inLayer(`${sparse}experts.{expert}.w3`, 'ffn_up_exps'),
    inLayer(`${sparse}experts.{expert}.w2`, 'ffn_down_exps')
  ]
}

const sharedExpert = [
  inLayer('mlp.shared_expert.gate_proj', 'ffn_gate_shexp'),
  inLayer('mlp.shared_expert.up_proj', 'ffn_up_shexp'),
  inLayer('mlp.shared_expert.down_proj', 'ffn_down_shexp')
]
const qwen2moe: FolderArchitecture = {
  modelType: 'qwen2_moe',
  className: 'Qwen2MoeForCausalLM',
  ggufName: 'qwen2moe',
  tied: false,
  metadata(config, put) {
    onlyNeutral(config, '.decoder_sparse_step', [1])
    onlyNeutral(config, '.mlp_only_layers', [])
    onlyNeutral(config, '.use_sliding_window', [false])
    put('feed_forward_length', 'u32', config.integer('.intermediate_size', { default: 5632 }))
    put('expert_feed_forward_length', 'u32', config.integer('.moe_intermediate_size', { default: 1408 }))
    const shared = config.integer('.shared_expert_intermediate_size', { default: 5632 })
    put('expert_shared_feed_forward_length', 'u32', shared)
    put('expert_count', 'u32', config.integer('.num_experts', { default: 60 }))
    put('expert_used_count', 'u32', config.integer('.num_experts_per_tok', { default: 4 }))
    put('expert_weights_norm', 'bool', config.boolean('.norm_topk_prob', false))
  },
  tensors: [
    ...ends,
    ...norms,
    ...attention,
    ...(['q', 'k', 'v'] as const).map((one) => ({
      from: `${layer}self_attn.${one}_proj.bias`,
      to: `${block}attn_${one}.bias`
    })),
    ...experts,
    ...sharedExpert,
    inLayer('mlp.shared_expert_gate', 'ffn_gate_inp_shexp')
  ]
}

const granitemoe: FolderArchitecture = {
  modelType: 'granitemoe',
  className: 'GraniteMoeForCausalLM',
  ggufName: 'granitemoe',
  tied: false,
  metadata(config, put) {
    put('feed_forward_length', 'u32', config.integer('.intermediate_size', { default: 11008 }))
    put('expert_count', 'u32', config.integer('.num_local_experts', { default: 8 }))
    put('expert_used_count', 'u32', config.integer('.num_experts_per_tok', { default: 2 }))
    for (const [from, to] of [
      ['embedding_multiplier', 'embedding_scale'],
      ['residual_multiplier', 'residual_scale'],
      ['logits_scaling', 'logit_scale'],
      ['attention_multiplier', 'attention.scale']
    ] as const) {
      put(to, 'f32', config.number(`.${from}`, { min: 0, above: true, max: 1e6, default: 1 }))
    }
  },
  tensors: [
    ...ends,
    ...norms,
    ...pairedAttention,
    inLayer(`${sparse}router.layer`, 'ffn_gate_inp'),
    inLayer(`${sparse}input_linear`, 'ffn_gate_exps', { half: 0 }),
    inLayer(`${sparse}input_linear`, 'ffn_up_exps', { half: 1 }),
    inLayer(`${sparse}output_linear`, 'ffn_down_exps')
  ]
}

/** DeepSeek-V2 and V3: latent attention, whose keys and values stay one matrix (`attn_kv_b`). */
const deepseek = (modelType: string, className: string): FolderArchitecture => ({
  modelType,
  className,
  ggufName: 'deepseek2',
  tied: false,
  guesses: true,
  metadata(config, put) {
    onlyNeutral(config, '.moe_layer_freq', [1])
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
    put('expert_weights_scale', 'f32', config.number('.routed_scaling_factor', { min: 0, default: 1 }))
    put('expert_weights_norm', 'bool', config.boolean('.norm_topk_prob', false))
    putRouting(config, put)
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
    ...sharedExpert.map(({ from, to }) => ({ from: from.replace('shared_expert', 'shared_experts'), to }))
  ]
})

/** How DeepSeek's models choose experts; ids of `expert_gating_func`: 1 softmax, 2 sigmoid. */
function putRouting(config: Metadata, put: Put): void {
  const v3 = config.optionalString('.model_type') === 'deepseek_v3'
  const scoring = config.optionalString('.scoring_func') ?? (v3 ? 'sigmoid' : 'softmax')
  if (scoring !== 'softmax' && scoring !== 'sigmoid') config.refuse('.scoring_func', 'softmax or sigmoid')
  put('expert_gating_func', 'u32', scoring === 'sigmoid' ? 2 : 1)
  const groups = config.integer('.n_group', { min: 1, default: 1 })
  const method = config.optionalString('.topk_method') ?? (v3 ? 'noaux_tc' : 'greedy')
  if (!['greedy', 'group_limited_greedy', 'noaux_tc'].includes(method)) {
    config.refuse('.topk_method', 'greedy, group_limited_greedy or noaux_tc')
  }
  if (groups === 1 || method === 'greedy') return
  put('expert_group_count', 'u32', groups)
  put('expert_group_used_count', 'u32', config.integer('.topk_group', { max: groups }))
}

const ARCHITECTURES: readonly FolderArchitecture[] = [
  olmoe,
  qwen3moe,
  mixtral,
  qwen2moe,
  granitemoe,
  deepseek('deepseek_v2', 'DeepseekV2ForCausalLM'),
  deepseek('deepseek_v3', 'DeepseekV3ForCausalLM')
]

export const FOLDER_ARCHITECTURES: readonly string[] = ARCHITECTURES.map(({ modelType }) => modelType)

/** The architecture that config.json names, by `model_type` or else by `architectures`. METADATA_INVALID, ARCHITECTURE_UNSUPPORTED. */
export function findFolderArchitecture(config: Metadata): FolderArchitecture {
  const classes = config.has('.architectures') ? config.strings('.architectures') : []
  const type = config.optionalString('.model_type')
  if (type === undefined && classes.length === 0)
    config.refuse('.model_type', `one of ${FOLDER_ARCHITECTURES.join(', ')}`)
  const found = ARCHITECTURES.find(({ modelType, className }) =>
    type === undefined ? classes.includes(className) : type === modelType
  )
  const name = (type ?? classes[0]!).slice(0, 60)
  if (!found) throw unsupported(name, FOLDER_ARCHITECTURES, 'is not supported')
  // The same type with another head, such as a classifier's.
  if (classes.length > 0 && !classes.includes(found.className)) {
    throw unsupported(classes[0]!.slice(0, 60), FOLDER_ARCHITECTURES, `is not ${found.className}`)
  }
  return found
}

/** Metadata of a model but for its tokenizer. METADATA_INVALID {key, found, allowed}. */
export function folderMetadata(architecture: FolderArchitecture, config: Metadata): Map<string, MetadataValue> {
  const { ggufName } = architecture
  const entries = new Map<string, MetadataValue>([['general.architecture', { type: 'string', value: ggufName }]])
  const put: Put = (key, type, value) => {
    entries.set(`${ggufName}.${key}`, { type, value } as MetadataValue)
  }
  putCommon(config, put)
  architecture.metadata(config, put)
  return entries
}
