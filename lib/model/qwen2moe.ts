/**
 * Qwen1.5 and Qwen2 MoE (Qwen/Qwen2-57B-A14B and kin). Queries, keys and values have biases; beside the routed experts every token goes to a
 * shared one, whose result is scaled by a sigmoid of the token's own; the chosen experts' weights are not renormalised.
 * Source: Qwen2MoeForCausalLM in transformers.
 */
import type { Architecture } from './architectures.js'
import { PlanWriter } from './plan-writer.js'

export const qwen2moe: Architecture = {
  ggufName: 'qwen2moe',
  title: 'qwen2moe',
  rules: { feedForwardKey: '.expert_feed_forward_length', normalise: false, shared: 'width' },

  plan(s, tied) {
    const q = s.heads * s.headDim
    const kv = s.kvHeads * s.headDim
    const inner = s.sharedFeedForward
    const p = new PlanWriter(s, { x: s.embedding, h: s.embedding, q, k: kv, v: kv, a: q, g: inner, u: inner, w: 1 })

    p.embed('token_embd', 'x')
    for (let layer = 0; layer < s.layers; layer++) {
      const b = `blk.${layer}`
      p.rmsNorm('x', `${b}.attn_norm`, 'h')
      p.matmul('h', { [`${b}.attn_q`]: 'q', [`${b}.attn_k`]: 'k', [`${b}.attn_v`]: 'v' }, { bias: true })
      p.rope('q', s.heads, 'neox')
      p.rope('k', s.kvHeads, 'neox')
      p.attention(layer, { q: 'q', k: 'k', v: 'v', out: 'a' })
      p.matmul('a', { [`${b}.attn_output`]: 'x' }, { add: true })

      p.rmsNorm('x', `${b}.ffn_norm`, 'h')
      p.route(layer, 'h', b, 'softmax_topk')
      const experts = { gate: `${b}.ffn_gate_exps`, up: `${b}.ffn_up_exps`, down: `${b}.ffn_down_exps` }
      p.experts(layer, 'h', experts, 'x')
      const shared = { gate: `${b}.ffn_gate_shexp`, up: `${b}.ffn_up_shexp`, down: `${b}.ffn_down_shexp` }
      const scaledBy = { weight: `${b}.ffn_gate_inp_shexp`, gate: 'w' } as const
      p.feedForward('h', shared, { gate: 'g', up: 'u' }, 'x', scaledBy)
    }
    p.rmsNorm('x', 'output_norm', 'h')
    p.logits('h', 'output', tied ? 'token_embd' : undefined)
    return p.finish()
  }
}
