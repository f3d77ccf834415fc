/** Names of tensors in transformers, and what GGUF calls them. */

/** From a name of transformers to a name of GGUF. `{layer}` and `{expert}` are numbers; tensors that differ in `{expert}` are stacked. */
export interface TensorRule {
  from: string
  to: string
  /** Which half of the rows of each matrix; both halves have rules of their own. */
  half?: 0 | 1
  /** Of two matrices whose rows take turns, or of two vectors whose values do: which one. */
  turn?: 0 | 1
  /** Matrices are stored turned: [columns, rows]. */
  turned?: true
  /** Matrices in MXFP4 are two tensors of bytes, with a rule each. */
  mxfp4?: 'codes' | 'scales'
  /** Rows of whose heads are paired with neighbours instead of half a head apart, as converters to GGUF do for the architecture `llama`. */
  heads?: 'num_attention_heads' | 'num_key_value_heads'
}

export const layer = 'model.layers.{layer}.'
export const block = 'blk.{layer}.'
export const inLayer = (from: string, to: string, more: Partial<TensorRule> = {}): TensorRule => ({
  from: `${layer}${from}.weight`,
  to: `${block}${to}.weight`,
  ...more
})

export const ends: readonly TensorRule[] = [
  { from: 'model.embed_tokens.weight', to: 'token_embd.weight' },
  { from: 'model.norm.weight', to: 'output_norm.weight' },
  { from: 'lm_head.weight', to: 'output.weight' }
]
export const norms = [inLayer('input_layernorm', 'attn_norm'), inLayer('post_attention_layernorm', 'ffn_norm')]
export const attention = [
  inLayer('self_attn.q_proj', 'attn_q'),
  inLayer('self_attn.k_proj', 'attn_k'),
  inLayer('self_attn.v_proj', 'attn_v'),
  inLayer('self_attn.o_proj', 'attn_output')
]
export const attentionBiases = (products: readonly ('q' | 'k' | 'v' | 'o')[]): TensorRule[] =>
  products.map((one) => ({
    from: `${layer}self_attn.${one}_proj.bias`,
    to: `${block}attn_${one === 'o' ? 'output' : one}.bias`
  }))
/** Of models whose GGUF files have rotary pairs beside each other. */
export const pairedAttention = [
  inLayer('self_attn.q_proj', 'attn_q', { heads: 'num_attention_heads' }),
  inLayer('self_attn.k_proj', 'attn_k', { heads: 'num_key_value_heads' }),
  inLayer('self_attn.v_proj', 'attn_v'),
  inLayer('self_attn.o_proj', 'attn_output')
]
export const headNorms = [inLayer('self_attn.q_norm', 'attn_q_norm'), inLayer('self_attn.k_norm', 'attn_k_norm')]

/** Experts one by one, or stacked with gate and up in one tensor, as newer versions of transformers keep them. */
export const experts = [
  inLayer('mlp.gate', 'ffn_gate_inp'),
  inLayer('mlp.experts.{expert}.gate_proj', 'ffn_gate_exps'),
  inLayer('mlp.experts.{expert}.up_proj', 'ffn_up_exps'),
  inLayer('mlp.experts.{expert}.down_proj', 'ffn_down_exps'),
  { from: `${layer}mlp.experts.gate_up_proj`, to: `${block}ffn_gate_exps.weight`, half: 0 },
  { from: `${layer}mlp.experts.gate_up_proj`, to: `${block}ffn_up_exps.weight`, half: 1 },
  { from: `${layer}mlp.experts.down_proj`, to: `${block}ffn_down_exps.weight` }
] as const

/** The expert that all tokens share, under the name that the architecture has for it. */
export const sharedExpert = (name: string): TensorRule[] => [
  inLayer(`mlp.${name}.gate_proj`, 'ffn_gate_shexp'),
  inLayer(`mlp.${name}.up_proj`, 'ffn_up_shexp'),
  inLayer(`mlp.${name}.down_proj`, 'ffn_down_shexp')
]
