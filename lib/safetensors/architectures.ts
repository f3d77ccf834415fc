/**
 * The architectures that safetensors folders can have: how each one's config.json and tensor names become the metadata and names of GGUF, which
 * lib/model reads. A new one is one entry here. Sources: the configuration and modelling files of transformers; the GGUF specification.
 */
import type { Metadata } from '../model/metadata.js'
import { onlyNeutral, unsupported } from './config.js'
import { deepseekV2, deepseekV3 } from './deepseek.js'
import type { MetadataValue } from './gguf-header.js'
import { gptOss } from './gpt-oss.js'
import { type ConfigRules, type Put, putCommon } from './metadata.js'
import {
  attention,
  attentionBiases,
  ends,
  experts,
  headNorms,
  inLayer,
  norms,
  pairedAttention,
  sharedExpert,
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
  readonly config: ConfigRules
  /** What every model has is there already. */
  metadata(config: Metadata, put: Put): void
  readonly tensors: readonly TensorRule[]
}

const olmoe: FolderArchitecture = {
  modelType: 'olmoe',
  className: 'OlmoeForCausalLM',
  ggufName: 'olmoe',
  tied: false,
  config: { epsilon: 1e-5 },
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
  config: { epsilon: 1e-6 },
  metadata(config, put) {
    onlyNeutral(config, '.decoder_sparse_step', [1])
    onlyNeutral(config, '.mlp_only_layers', [])
    onlyNeutral(config, '.use_sliding_window', [false])
    put('feed_forward_length', 'u32', config.integer('.intermediate_size', { default: 6144 }))
    put('expert_feed_forward_length', 'u32', config.integer('.moe_intermediate_size', { default: 768 }))
    // As transformers 5 writes it.
    const experts = config.has('.num_experts') ? '.num_experts' : '.num_local_experts'
    put('expert_count', 'u32', config.integer(experts, { default: 128 }))
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
  config: { epsilon: 1e-5, theta: 1e6 },
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

const qwen2moe: FolderArchitecture = {
  modelType: 'qwen2_moe',
  className: 'Qwen2MoeForCausalLM',
  ggufName: 'qwen2moe',
  tied: false,
  config: { epsilon: 1e-6 },
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
    ...attentionBiases(['q', 'k', 'v']),
    ...experts,
    ...sharedExpert('shared_expert'),
    inLayer('mlp.shared_expert_gate', 'ffn_gate_inp_shexp')
  ]
}

const granitemoe: FolderArchitecture = {
  modelType: 'granitemoe',
  className: 'GraniteMoeForCausalLM',
  ggufName: 'granitemoe',
  tied: false,
  config: { epsilon: 1e-6 },
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

/** Granite MoE with an expert that every token goes to, gate and up in one tensor too. */
const granitemoeshared: FolderArchitecture = {
  ...granitemoe,
  modelType: 'granitemoeshared',
  className: 'GraniteMoeSharedForCausalLM',
  metadata(config, put) {
    granitemoe.metadata(config, put)
    const width = config.integer('.shared_intermediate_size', { min: 0, default: 1024 })
    put('expert_shared_feed_forward_length', 'u32', width)
  },
  tensors: [
    ...granitemoe.tensors,
    inLayer('shared_mlp.input_linear', 'ffn_gate_shexp', { half: 0 }),
    inLayer('shared_mlp.input_linear', 'ffn_up_shexp', { half: 1 }),
    inLayer('shared_mlp.output_linear', 'ffn_down_shexp')
  ]
}

const ARCHITECTURES: readonly FolderArchitecture[] = [
  olmoe,
  qwen3moe,
  mixtral,
  qwen2moe,
  granitemoe,
  granitemoeshared,
  deepseekV2,
  deepseekV3,
  gptOss
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
  putCommon(config, architecture.config, put)
  architecture.metadata(config, put)
  return entries
}
