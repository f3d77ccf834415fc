/**
 * Granite MoE (ibm-granite/granite-3.0-1b-a400m and kin): fixed multipliers of embeddings, residual branches, scores and logits. The residual
 * stream is kept divided by the branches' multiplier r, so that branches are added as they are: norms of x/r are those of x with ε/r².
 * Some files have a shared expert, which every token goes to; routed and shared experts are one branch.
 * Source: GraniteMoeForCausalLM and GraniteMoeSharedForCausalLM in transformers.
 */
import type { Architecture } from './architectures.js'
import { refuseDense } from './feed-forward.js'
import { PlanWriter } from './plan-writer.js'

export const granitemoe: Architecture = {
  ggufName: 'granitemoe',
  title: 'granitemoe',
  rules: { feedForwardKey: '.feed_forward_length', normalise: true, multipliers: true, shared: 'optional' },

  refuse: refuseDense,

  plan(s, tied) {
    const { embedding = 1, residual = 1, logits = 1 } = s.multipliers ?? {}
    const sizes = { ...s, epsilon: s.epsilon / residual ** 2 }
    const q = s.heads * s.headDim
    const kv = s.kvHeads * s.headDim
    const inner = s.sharedFeedForward
    const p = new PlanWriter(sizes, { x: s.embedding, h: s.embedding, q, k: kv, v: kv, a: q, g: inner, u: inner })

    p.embed('token_embd', 'x')
    p.scale('x', embedding / residual)
    for (let layer = 0; layer < s.layers; layer++) {
      const b = `blk.${layer}`
      p.rmsNorm('x', `${b}.attn_norm`, 'h')
      p.matmul('h', { [`${b}.attn_q`]: 'q', [`${b}.attn_k`]: 'k', [`${b}.attn_v`]: 'v' })
      p.rope('q', s.heads, 'interleaved')
      p.rope('k', s.kvHeads, 'interleaved')
      p.attention(layer, { q: 'q', k: 'k', v: 'v', out: 'a' })
      p.matmul('a', { [`${b}.attn_output`]: 'x' }, { add: true })

      p.rmsNorm('x', `${b}.ffn_norm`, 'h')
      p.route(layer, 'h', b, 'softmax_topk')
      const experts = { gate: `${b}.ffn_gate_exps`, up: `${b}.ffn_up_exps`, down: `${b}.ffn_down_exps` }
      p.experts(layer, 'h', experts, 'x')
      if (inner > 0) {
        const shared = { gate: `${b}.ffn_gate_shexp`, up: `${b}.ffn_up_shexp`, down: `${b}.ffn_down_shexp` }
        p.feedForward('h', shared, { gate: 'g', up: 'u' }, 'x')
      }
    }
    p.rmsNorm('x', 'output_norm', 'h')
    p.scale('h', 1 / logits)
    p.logits('h', 'output', tied ? 'token_embd' : undefined)
    return p.finish()
  }
}
