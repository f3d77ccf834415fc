/** Metadata of GGUF from config.json: what every architecture has, and RoPE. */
import type { Metadata } from '../model/metadata.js'
import { OBJECT, onlyNeutral } from './config.js'

/** Adds `<architecture>.<key>` to the metadata. */
export type Put = (key: string, type: 'u32' | 'f32' | 'bool' | 'string', value: number | boolean | string) => void

/** What config.json of an architecture may leave out, and what it may say. Source: the configuration classes of transformers. */
export interface ConfigRules {
  /** `rms_norm_eps` where it is not there. */
  readonly epsilon: number
  /** `rope_theta` where it is not there. Default 10,000. */
  readonly theta?: number
  /** Attention's products have biases. */
  readonly biased?: boolean
  /** Layers may have a sliding window: `layer_types`. */
  readonly windows?: boolean
  /** `mscale` and `mscale_all_dim` of YaRN stretch scores; others know no such keys. */
  readonly stretched?: boolean
  /** What `quant_method` may be beside nothing. */
  readonly quantised?: string
}

/** What the metadata of every architecture has. METADATA_INVALID for values that would change what is computed. */
export function putCommon(config: Metadata, rules: ConfigRules, put: Put): void {
  onlyNeutral(config, '.hidden_act', ['silu'])
  onlyNeutral(config, '.attention_bias', [rules.biased ?? false])
  onlyNeutral(config, '.partial_rotary_factor', [1])
  refuseQuantised(config, rules.quantised)
  if (!rules.windows && config.has('.layer_types')) {
    if (config.strings('.layer_types').some((type) => type !== 'full_attention'))
      config.refuse('.layer_types', 'full_attention in every layer')
  }
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
  const epsilon = config.number('.rms_norm_eps', { min: 0, above: true, max: 1, default: rules.epsilon })
  put('attention.layer_norm_rms_epsilon', 'f32', epsilon)
  putRope(config, rules, put)
}

/** Weights of another form than a float each. */
function refuseQuantised(config: Metadata, allowed: string | undefined): void {
  const [key, method] = ['.quantization_config', '.quantization_config.quant_method']
  if (!config.has(key) || (allowed !== undefined && config.get(method) === allowed)) return
  const floats = 'none: weights are read as F32, F16 or BF16'
  config.refuse(config.has(method) ? method : key, allowed === undefined ? floats : `${floats}, or ${allowed}`)
}

/** RoPE: in keys of its own, or (transformers 5) all of it in `rope_parameters`. */
function putRope(config: Metadata, rules: ConfigRules, put: Put): void {
  const places = ['.rope_scaling', '.rope_parameters']
  const inside = places.map((place) => `${place}.rope_theta`).find((key) => config.has(key)) ?? '.rope_theta'
  put('rope.freq_base', 'f32', config.number(inside, { min: 1, max: 1e12, default: rules.theta ?? 10_000 }))
  for (const scaling of places) {
    if (!config.has(scaling)) continue
    if (config.get(scaling) !== OBJECT) config.refuse(scaling, 'an object')
    // Layers of one kind and of another with parameters of their own.
    const nested = ['full_attention', 'sliding_attention'].map((kind) => `${scaling}.${kind}`)
    for (const key of nested) if (config.has(key)) config.refuse(key, 'none: parameters of all layers are the same')
    onlyNeutral(config, `${scaling}.partial_rotary_factor`, [1])
    const key = config.has(`${scaling}.rope_type`) ? `${scaling}.rope_type` : `${scaling}.type`
    const type = config.optionalString(key) ?? 'default'
    if (type === 'default') continue
    if (!scalings.has(type)) config.refuse(key, ['default', ...scalings].join(', '))
    putScaling(config, scaling, type, rules, put)
  }
}

/** Scalings of RoPE that have keys in GGUF, or here. */
const scalings: ReadonlySet<string> = new Set(['linear', 'yarn', 'llama3'])

/** What reads them says which are supported (lib/model). */
function putScaling(config: Metadata, scaling: string, type: string, { stretched }: ConfigRules, put: Put): void {
  const factor = { min: 0, above: true, max: 1e6 }
  put('rope.scaling.type', 'string', type)
  put('rope.scaling.factor', 'f32', config.number(`${scaling}.factor`, factor))
  const context = `${scaling}.original_max_position_embeddings`
  if (config.has(context)) put('rope.scaling.original_context_length', 'u32', config.integer(context))
  onlyNeutral(config, `${scaling}.attention_factor`, [])
  if (!config.boolean(`${scaling}.truncate`, true)) put('rope.scaling.yarn_truncate', 'bool', false)
  for (const [from, to] of [
    ['low_freq_factor', 'low_freq_factor'],
    ['high_freq_factor', 'high_freq_factor'],
    ['beta_fast', 'yarn_beta_fast'],
    ['beta_slow', 'yarn_beta_slow']
  ] as const) {
    if (config.has(`${scaling}.${from}`)) put(`rope.scaling.${to}`, 'f32', config.number(`${scaling}.${from}`, factor))
  }
  if (!config.has(`${scaling}.mscale`) && !config.has(`${scaling}.mscale_all_dim`)) return
  if (!stretched) config.refuse(`${scaling}.mscale`, 'none in this architecture')
  // Equal ones leave cosines and sines as they are, and stretch scores.
  const stretch = config.number(`${scaling}.mscale_all_dim`, { ...factor, max: 100 })
  if (config.number(`${scaling}.mscale`) !== stretch)
    config.refuse(`${scaling}.mscale`, `${stretch}, as mscale_all_dim`)
  put('rope.scaling.yarn_log_multiplier', 'f32', 0.1 * stretch)
}
