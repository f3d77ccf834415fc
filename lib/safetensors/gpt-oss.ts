/**
 * gpt-oss, whose experts are stored turned, gate and up by turns (BF16), or as codes and scales of MXFP4, gate and up by turns too. Sources:
 * modeling_gpt_oss.py, configuration_gpt_oss.py and integrations/mxfp4.py of transformers.
 */
import type { Metadata } from '../model/metadata.js'
import type { FolderArchitecture } from './architectures.js'
import { onlyNeutral } from './config.js'
import type { Put } from './metadata.js'
import { attention, attentionBiases, block, ends, inLayer, layer, type TensorRule } from './tensor-rules.js'

/** Layers with a window as GGUF says them: the last of each n sees all. */
function putWindows(config: Metadata, put: Put): void {
  put('attention.sliding_window', 'u32', config.integer('.sliding_window'))
  if (!config.has('.layer_types')) return
  const layers = config.integer('.num_hidden_layers')
  const types = config.strings('.layer_types')
  const kind = (n: number, i: number) => (n === 0 || i % n < n - 1 ? 'sliding_attention' : 'full_attention')
  const each = [...types, ''].findIndex((_, n) => types.every((type, i) => type === kind(n, i)))
  if (types.length !== layers || each < 0) {
    config.refuse('.layer_types', `${layers} of sliding_attention, the last of each so many full_attention`)
  }
  put('attention.sliding_window_pattern', 'u32', each)
}

/** Of a matrix of all experts: from `<stored>`, or from its codes and scales, and its bias. `turn`: where gate and up are one tensor. */
function expertRules(stored: string, own: string, turn?: 0 | 1): TensorRule[] {
  const [from, to] = [`${layer}mlp.experts.${stored}`, `${block}ffn_${own}_exps`]
  const one = turn === undefined ? {} : { turn }
  return [
    { from, to: `${to}.weight`, turned: true, ...one },
    { from: `${from}_blocks`, to: `${to}.weight`, mxfp4: 'codes', ...one },
    { from: `${from}_scales`, to: `${to}.weight`, mxfp4: 'scales', ...one },
    { from: `${from}_bias`, to: `${to}.bias`, ...one }
  ]
}

export const gptOss: FolderArchitecture = {
  modelType: 'gpt_oss',
  className: 'GptOssForCausalLM',
  ggufName: 'gpt-oss',
  tied: false,
  config: { epsilon: 1e-5, theta: 150_000, biased: true, windows: true, quantised: 'mxfp4' },
  metadata(config, put) {
    onlyNeutral(config, '.swiglu_limit', [7])
    onlyNeutral(config, '.swiglu_alpha', [1.702])
    // Versions of transformers differ in what RoPE is then.
    if (!config.has('.rope_scaling') && !config.has('.rope_parameters')) config.refuse('.rope_scaling', 'an object')
    putWindows(config, put)
    const headDim = config.integer('.head_dim', { default: 64 })
    put('attention.key_length', 'u32', headDim)
    put('attention.value_length', 'u32', headDim)
    put('feed_forward_length', 'u32', config.integer('.intermediate_size', { default: 2880 }))
    put('expert_feed_forward_length', 'u32', config.integer('.intermediate_size', { default: 2880 }))
    put('expert_count', 'u32', config.integer('.num_local_experts', { default: 128 }))
    const used = config.has('.num_experts_per_tok') ? '.num_experts_per_tok' : '.experts_per_token'
    put('expert_used_count', 'u32', config.integer(used, { default: 4 }))
  },
  tensors: [
    ...ends,
    inLayer('input_layernorm', 'attn_norm'),
    inLayer('post_attention_layernorm', 'post_attention_norm'),
    ...attention,
    ...attentionBiases(['q', 'k', 'v', 'o']),
    { from: `${layer}self_attn.sinks`, to: `${block}attn_sinks.weight` },
    inLayer('mlp.router', 'ffn_gate_inp'),
    { from: `${layer}mlp.router.bias`, to: `${block}ffn_gate_inp.bias` },
    ...expertRules('gate_up_proj', 'gate', 0),
    ...expertRules('gate_up_proj', 'up', 1),
    ...expertRules('down_proj', 'down')
  ]
}
