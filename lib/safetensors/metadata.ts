/** Metadata of GGUF from config.json: what every architecture has, and RoPE. */
import type { Metadata } from '../model/metadata.js'
import { onlyNeutral } from './config.js'

/** Adds `<architecture>.<key>` to the metadata. */
export type Put = (key: string, type: 'u32' | 'f32' | 'bool' | 'string', value: number | boolean | string) => void

/** What the metadata of every architecture has. */
export function putCommon(config: Metadata, put: Put): void {
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
