/**
 * Granite MoE (ibm-granite/granite-3.0-1b-a400m and kin): fixed multipliers of embeddings, residual branches, scores and logits. The residual
 * stream is kept divided by the branches' multiplier r, so that branches are added as they are: norms of x/r are those of x with ε/r².
 * Source: GraniteMoeForCausalLM in transformers.
 */
import type { Architecture } from './architectures.js'
import { PlanWriter } from './plan-writer.js'

export const granitemoe: Architecture = {
  ggufName: 'granitemoe',
  title: 'granitemoe',
  rules: { feedForwardKey: '.feed_forward_length', normalise: true, multipliers: true },

  refuse(metadata) {
    if (!metadata.get('.expert_count')) return 'without experts is a dense model, which is not supported'
    return metadata.get('.expert_shared_feed_forward_length') ? 'with a shared expert is not supported' : undefined
  },

  plan(s, tied) {
    const { embedding = 1, residual = 1, logits = 1 } = s.multipliers ?? {}
    const sizes = { ...s, epsilon: s.epsilon / residual ** 2 }
    const q = s.heads * s.headDim
    const kv = s.kvHeads * s.headDim
    const p = new PlanWriter(sizes, { x: s.embedding, h: s.embedding, q, k: kv, v: kv, a: q })

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
    }
    p.rmsNorm('x', 'output_norm', 'h')
    p.scale('h', 1 / logits)
    p.logits('h', 'output', tied ? 'token_embd' : undefined)
    return p.finish()
  }
}
