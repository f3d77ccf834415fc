/**
 * The architectures that safetensors folders can have: how each one's config.json and tensor names become the metadata and names of GGUF, which
 * lib/model reads. A new one is one entry here. Sources: the configuration and modelling files of transformers; the GGUF specification.
 */
import type { Metadata } from '../model/metadata.js'
import { onlyNeutral, unsupported } from './config.js'
import type { MetadataValue } from './gguf-header.js'

/** From a name of transformers to a name of GGUF. `{layer}` and `{expert}` are numbers; tensors that differ in `{expert}` are stacked. */
export interface TensorRule {
  from: string
  to: string
  /** Which half of the rows of each matrix; both halves have rules of their own. */
  half?: 0 | 1
  /** Rows of whose heads are paired with neighbours instead of half a head apart, as converters to GGUF do for the architecture `llama`. */
  heads?: 'num_attention_heads' | 'num_key_value_heads'
}

/** Adds `<architecture>.<key>` to the metadata. */
export type Put = (key: string, type: 'u32' | 'f32' | 'bool' | 'string', value: number | boolean | string) => void

export interface FolderArchitecture {
  /** `model_type` of config.json. */
  readonly modelType: string
  /** What `architectures` says. */
  readonly className: string
  /** `general.architecture` of its GGUF files. */
  readonly ggufName: string
  /** Whether `output.weight` is the embedding where config.json does not say. */
  readonly tied: boolean
  /** What every model has is there already. */
  metadata(config: Metadata, put: Put): void
  readonly tensors: readonly TensorRule[]
}

const layer = 'model.layers.{layer}.'
const block = 'blk.{layer}.'
const inLayer = (from: string, to: string, more: Partial<TensorRule> = {}): TensorRule => ({
  from: `${layer}${from}.weight`,
  to: `${block}${to}.weight`,
  ...more
})

const ends: readonly TensorRule[] = [
  { from: 'model.embed_tokens.weight', to: 'token_embd.weight' },
  { from: 'model.norm.weight', to: 'output_norm.weight' },
  { from: 'lm_head.weight', to: 'output.weight' }
]
const norms = [inLayer('input_layernorm', 'attn_norm'), inLayer('post_attention_layernorm', 'ffn_norm')]
const attention = [
  inLayer('self_attn.q_proj', 'attn_q'),
  inLayer('self_attn.k_proj', 'attn_k'),
  inLayer('self_attn.v_proj', 'attn_v'),
  inLayer('self_attn.o_proj', 'attn_output')
]
const headNorms = [inLayer('self_attn.q_norm', 'attn_q_norm'), inLayer('self_attn.k_norm', 'attn_k_norm')]

/** Experts one by one, or stacked with gate and up in one tensor, as newer versions of transformers keep them. */
const experts = [
  inLayer('mlp.gate', 'ffn_gate_inp'),
  inLayer('mlp.experts.{expert}.gate_proj', 'ffn_gate_exps'),
  inLayer('mlp.experts.{expert}.up_proj', 'ffn_up_exps'),
  inLayer('mlp.experts.{expert}.down_proj', 'ffn_down_exps'),
  { from: `${layer}mlp.experts.gate_up_proj`, to: `${block}ffn_gate_exps.weight`, half: 0 },
  { from: `${layer}mlp.experts.gate_up_proj`, to: `${block}ffn_up_exps.weight`, half: 1 },
  { from: `${layer}mlp.experts.down_proj`, to: `${block}ffn_down_exps.weight` }
] as const

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
    inLayer('self_attn.q_proj', 'attn_q', { heads: 'num_attention_heads' }),
    inLayer('self_attn.k_proj', 'attn_k', { heads: 'num_key_value_heads' }),
    inLayer('self_attn.v_proj', 'attn_v'),
    inLayer('self_attn.o_proj', 'attn_output'),
    inLayer(`${sparse}gate`, 'ffn_gate_inp'),
    inLayer(`${sparse}experts.{expert}.w1`, 'ffn_gate_exps'),
    inLayer(`${sparse}experts.{expert}.w3`, 'ffn_up_exps'),
    inLayer(`${sparse}experts.{expert}.w2`, 'ffn_down_exps')
  ]
}

const ARCHITECTURES: readonly FolderArchitecture[] = [olmoe, qwen3moe, mixtral]

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

/** What the metadata of every architecture has. */
function putCommon(config: Metadata, put: Put): void {
  onlyNeutral(config, '.hidden_act', ['silu'])
  onlyNeutral(config, '.attention_bias', [false])
  onlyNeutral(config, '.partial_rotary_factor', [1])
  const heads = config.integer('.num_attention_heads')
  put('context_length', 'u32', config.integer('.max_position_embeddings'))
  put('embedding_length', 'u32', config.integer('.hidden_size'))
  put('block_count', 'u32', config.integer('.num_hidden_layers'))
  put('attention.head_count', 'u32', heads)
  put('attention.head_count_kv', 'u32', config.integer('.num_key_value_heads', { default: heads }))
  if (config.has('.head_dim')) {
    const headDim = config.integer('.head_dim')
    put('attention.key_length', 'u32', headDim)
    put('attention.value_length', 'u32', headDim)
  }
  put('attention.layer_norm_rms_epsilon', 'f32', config.number('.rms_norm_eps', { min: 0, above: true, max: 1 }))
  putRope(config, put)
}

/** RoPE: in keys of its own, or (transformers 5) all of it in `rope_parameters`. */
function putRope(config: Metadata, put: Put): void {
  const inside = config.has('.rope_parameters.rope_theta') ? '.rope_parameters.rope_theta' : '.rope_theta'
  put('rope.freq_base', 'f32', config.number(inside, { min: 1, max: 1e12, default: 10_000 }))
  for (const scaling of ['.rope_scaling', '.rope_parameters']) {
    onlyNeutral(config, `${scaling}.partial_rotary_factor`, [1])
    const key = config.has(`${scaling}.rope_type`) ? `${scaling}.rope_type` : `${scaling}.type`
    const type = config.optionalString(key) ?? 'default'
    if (type === 'default') continue
    if (!scalings.has(type)) config.refuse(key, ['default', ...scalings].join(', '))
    putScaling(config, scaling, type, put)
  }
}

/** Scalings of RoPE that have keys in GGUF, or here. */
const scalings: ReadonlySet<string> = new Set(['linear', 'yarn', 'llama3'])

/** What reads them says which are supported (lib/model). */
function putScaling(config: Metadata, scaling: string, type: string, put: Put): void {
  const factor = { min: 0, above: true, max: 1e6 }
  put('rope.scaling.type', 'string', type)
  put('rope.scaling.factor', 'f32', config.number(`${scaling}.factor`, factor))
  const context = `${scaling}.original_max_position_embeddings`
  if (config.has(context)) put('rope.scaling.original_context_length', 'u32', config.integer(context))
  onlyNeutral(config, `${scaling}.attention_factor`, [])
  onlyNeutral(config, `${scaling}.truncate`, [true])
  for (const [from, to] of [
    ['low_freq_factor', 'low_freq_factor'],
    ['high_freq_factor', 'high_freq_factor'],
    ['beta_fast', 'yarn_beta_fast'],
    ['beta_slow', 'yarn_beta_slow']
  ] as const) {
    if (config.has(`${scaling}.${from}`)) put(`rope.scaling.${to}`, 'f32', config.number(`${scaling}.${from}`, factor))
  }
  if (!config.has(`${scaling}.mscale`) && !config.has(`${scaling}.mscale_all_dim`)) return
  // Equal ones leave cosines and sines as they are, and stretch scores.
  const stretch = config.number(`${scaling}.mscale_all_dim`, { ...factor, max: 100 })
  if (config.number(`${scaling}.mscale`) !== stretch)
    config.refuse(`${scaling}.mscale`, `${stretch}, as mscale_all_dim`)
  put('rope.scaling.yarn_log_multiplier', 'f32', 0.1 * stretch)
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
