/**
 * DeepSeek-V2, V2-Lite, V3 and kin. Attention is latent, in its absorbed form: a head's query is taken into the space of the compressed keys
 * (`attn_k_b`), attends over rows that all heads share, and what it reads, compressed values, is taken out of that space (`attn_v_b`).
 * The first layers are dense; the others have a shared expert beside the routed ones, which are chosen by softmax (V2) or by sigmoid with a
 * bias of the selection (V3), in V2 and V3 among the best groups alone.
 * Source: DeepSeek-V2 (2024), section 2.1 and appendix C; DeepseekV2ForCausalLM and DeepseekV3ForCausalLM in transformers.
 */
import type { Architecture } from './architectures.js'
import { refuseDense } from './feed-forward.js'
import type { LatentSizes } from './latent.js'
import { PlanWriter } from './plan-writer.js'

/** The matrices of a head: as two tensors, or cut out of the one of older files, where those of the keys lie the other way round. */
function headMatrices({ plain, value, joined }: LatentSizes, block: string) {
  const cut = { source: `${block}.attn_kv_b`, height: plain + value }
  return joined
    ? { keys: { ...cut, first: 0, transposed: true }, values: { ...cut, first: plain, transposed: false } }
    : { keys: undefined, values: undefined }
}

export const deepseek2: Architecture = {
  ggufName: 'deepseek2',
  title: 'deepseek2',
  rules: {
    feedForwardKey: '.expert_feed_forward_length',
    normalise: false,
    leadingDense: true,
    shared: 'count',
    latent: true,
    gated: true
  },

  refuse: refuseDense,

  plan(s, tied) {
    const latent = s.latent!
    const { queryRank, rank, plain, rotated, value } = latent
    const { form, selectionBias, groups, scale } = s.gating!
    const p = new PlanWriter(s, {
      x: s.embedding,
      h: s.embedding,
      c: queryRank,
      q: s.heads * (plain + rotated),
      k: rank + rotated,
      absorbed: s.heads * (rank + rotated),
      read: s.heads * rank,
      a: s.heads * value,
      dg: s.denseFeedForward,
      du: s.denseFeedForward,
      sg: s.sharedFeedForward,
      su: s.sharedFeedForward
    })

    p.embed('token_embd', 'x')
    for (let layer = 0; layer < s.layers; layer++) {
      const b = `blk.${layer}`
      p.rmsNorm('x', `${b}.attn_norm`, 'h')
      if (queryRank > 0) {
        p.matmul('h', { [`${b}.attn_q_a`]: 'c', [`${b}.attn_kv_a_mqa`]: 'k' })
        p.rmsNorm('c', `${b}.attn_q_a_norm`, 'c')
        p.matmul('c', { [`${b}.attn_q_b`]: 'q' })
      } else {
        p.matmul('h', { [`${b}.attn_q`]: 'q', [`${b}.attn_kv_a_mqa`]: 'k' })
      }
      p.rmsNorm('k', `${b}.attn_kv_a_norm`, 'k', rank, 1)
      p.rope('q', s.heads, 'interleaved', plain)
      p.rope('k', 1, 'interleaved', rank)
      const { keys, values } = headMatrices(latent, b)
      p.headMatmul('q', `${b}.attn_k_b`, 'absorbed', plain, keys)
      p.attention(layer, { q: 'absorbed', k: 'k', v: 'k', out: 'read' })
      p.headMatmul('read', `${b}.attn_v_b`, 'a', rank, values)
      p.matmul('a', { [`${b}.attn_output`]: 'x' }, { add: true })

      p.rmsNorm('x', `${b}.ffn_norm`, 'h')
      if (layer < s.layers - s.expertLayers) {
        const dense = { gate: `${b}.ffn_gate`, up: `${b}.ffn_up`, down: `${b}.ffn_down` }
        p.feedForward('h', dense, { gate: 'dg', up: 'du' }, 'x')
        continue
      }
      p.route(layer, 'h', b, form, { selectionBias, groups, scale })
      const experts = { gate: `${b}.ffn_gate_exps`, up: `${b}.ffn_up_exps`, down: `${b}.ffn_down_exps` }
      p.experts(layer, 'h', experts, 'x')
      if (s.sharedFeedForward > 0) {
        const shared = { gate: `${b}.ffn_gate_shexp`, up: `${b}.ffn_up_shexp`, down: `${b}.ffn_down_shexp` }
        p.feedForward('h', shared, { gate: 'sg', up: 'su' }, 'x')
      }
    }
    p.rmsNorm('x', 'output_norm', 'h')
    p.logits('h', 'output', tied ? 'token_embd' : undefined)
    return p.finish()
  }
}
