/**
 * OLMoE (allenai/OLMoE-1B-7B). Q and K are normalised over their whole rows; the router's softmax runs over all experts and the
 * chosen weights are not renormalised. Source: OlmoeForCausalLM in transformers.
 */
import type { Architecture } from './architectures.js'
import { PlanWriter } from './plan-writer.js'

export const olmoe: Architecture = {
  ggufName: 'olmoe',
  title: 'olmoe',
  rules: { feedForwardKey: '.feed_forward_length', normalise: false },

  plan(s, tied) {
    const q = s.heads * s.headDim
    const kv = s.kvHeads * s.headDim
    const p = new PlanWriter(s, { x: s.embedding, h: s.embedding, q, k: kv, v: kv, a: q })

    p.embed('token_embd', 'x')
    for (let layer = 0; layer < s.layers; layer++) {
      const b = `blk.${layer}`
      p.rmsNorm('x', `${b}.attn_norm`, 'h')
      p.matmul('h', { [`${b}.attn_q`]: 'q', [`${b}.attn_k`]: 'k', [`${b}.attn_v`]: 'v' })
      p.rmsNorm('q', `${b}.attn_q_norm`, 'q')
      p.rmsNorm('k', `${b}.attn_k_norm`, 'k')
      p.rope('q', s.heads, 'neox')
      p.rope('k', s.kvHeads, 'neox')
      p.attention(layer, { q: 'q', k: 'k', v: 'v', out: 'a' })
      p.matmul('a', { [`${b}.attn_output`]: 'x' }, { add: true })

      p.rmsNorm('x', `${b}.ffn_norm`, 'h')
      p.route(layer, 'h', b, 'softmax_topk')
      const experts = { gate: `${b}.ffn_gate_exps`, up: `${b}.ffn_up_exps`, down: `${b}.ffn_down_exps` }
      p.experts(layer, 'h', experts, 'x')
    }
    p.rmsNorm('x', 'output_norm', 'h')
    p.logits('h', 'output', tied ? 'token_embd' : undefined)
    return p.finish()
  }
}
