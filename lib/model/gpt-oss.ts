/**
 * gpt-oss (openai/gpt-oss-20b and 120b): a sink per head, every other layer with a sliding window, biases on all products, routers and
 * experts, a clamped SwiGLU, YaRN. The chosen experts' softmax is over these alone. Source: GptOssForCausalLM in transformers.
 */
import type { Architecture } from './architectures.js'
import { PlanWriter } from './plan-writer.js'

export const gptOss: Architecture = {
  ggufName: 'gpt-oss',
  title: 'gpt-oss',
  rules: { feedForwardKey: '.expert_feed_forward_length', normalise: false, windowPattern: 2, gating: [0, 3] },

  plan(s, tied) {
    const q = s.heads * s.headDim
    const kv = s.kvHeads * s.headDim
    const p = new PlanWriter(s, { x: s.embedding, h: s.embedding, q, k: kv, v: kv, a: q })

    p.embed('token_embd', 'x')
    for (let layer = 0; layer < s.layers; layer++) {
      const b = `blk.${layer}`
      p.rmsNorm('x', `${b}.attn_norm`, 'h')
      p.matmul('h', { [`${b}.attn_q`]: 'q', [`${b}.attn_k`]: 'k', [`${b}.attn_v`]: 'v' }, { bias: true })
      p.rope('q', s.heads, 'neox')
      p.rope('k', s.kvHeads, 'neox')
      p.attention(layer, { q: 'q', k: 'k', v: 'v', out: 'a' }, { sinks: `${b}.attn_sinks` })
      p.matmul('a', { [`${b}.attn_output`]: 'x' }, { add: true, bias: true })

      p.rmsNorm('x', `${b}.post_attention_norm`, 'h')
      p.route(layer, 'h', b, 'topk_softmax', { bias: true })
      const experts = { gate: `${b}.ffn_gate_exps`, up: `${b}.ffn_up_exps`, down: `${b}.ffn_down_exps` }
      p.experts(layer, 'h', experts, 'x', { activation: 'clamped_swiglu', biases: true })
    }
    p.rmsNorm('x', 'output_norm', 'h')
    p.logits('h', 'output', tied ? 'token_embd' : undefined)
    return p.finish()
  }
}
