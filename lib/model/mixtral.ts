/**
 * Mixtral (mistralai/Mixtral-8x7B): GGUF architecture `llama` with experts. No norm of Q and K; rotary pairs are interleaved
 * because converters permute Q and K rows for it. Softmax over the chosen experts is the same as softmax over all, renormalised:
 * written in the second form, as the peer computes it. Source: MixtralForCausalLM in transformers.
 */
import type { Architecture } from './architectures.js'
import { refuseDense } from './feed-forward.js'
import { PlanWriter } from './plan-writer.js'

export const mixtral: Architecture = {
  ggufName: 'llama',
  title: 'Mixtral',
  rules: { feedForwardKey: '.feed_forward_length', normalise: true },

  refuse: refuseDense,

  plan(s, tied) {
    const q = s.heads * s.headDim
    const kv = s.kvHeads * s.headDim
    const p = new PlanWriter(s, { x: s.embedding, h: s.embedding, q, k: kv, v: kv, a: q })

    p.embed('token_embd', 'x')
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
    p.logits('h', 'output', tied ? 'token_embd' : undefined)
    return p.finish()
  }
}
