/**
 * deepseek2 in float64 as its configuration, its paper and transformers have it, without a plan: every head's keys and values are taken out of
 * the compressed row (`attn_kv_b`), nothing is absorbed. Small models only.
 */
import type { ReadTensor } from './naive-forward.js'
import { dot, multiply, softmax } from './naive-math.js'

/** What config.json says, by shorter names. */
export interface DeepseekConfig {
  layers: number
  /** first_k_dense_replace */
  dense: number
  heads: number
  /** kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim */
  rank: number
  plain: number
  rotated: number
  value: number
  epsilon: number
  base: number
  yarn: { factor: number; original: number; mscale: number }
  /** num_experts_per_tok, n_group, topk_group, routed_scaling_factor, norm_topk_prob */
  used: number
  groups: number
  groupsUsed: number
  scale: number
  normalise: boolean
  /** scoring_func; a sigmoid's experts have a bias of the selection */
  scores: 'softmax' | 'sigmoid'
  /** Of topk_method: a group's score is its best expert's (group_limited_greedy), or the sum of its two best (noaux_tc). */
  groupBest: 1 | 2
}

const silu = (x: number): number => x / (1 + Math.exp(-x))
const largest = (values: number[], count: number): number[] =>
  values
    .map((value, i) => ({ value, i }))
    .sort((a, b) => b.value - a.value)
    .slice(0, count)
    .map(({ i }) => i)

function norm(x: number[], weight: Float32Array, epsilon: number): number[] {
  const root = Math.sqrt(dot(x, x) / x.length + epsilon)
  return x.map((value, i) => (value / root) * weight[i]!)
}

/** YaRN's frequency of a pair. */
function frequency({ base, rotated: dim, yarn }: DeepseekConfig, pair: number): number {
  const plain = base ** ((-2 * pair) / dim)
  const bound = (turns: number) => (dim * Math.log(yarn.original / (turns * 2 * Math.PI))) / (2 * Math.log(base))
  const low = Math.max(Math.floor(bound(32)), 0)
  const high = Math.min(Math.ceil(bound(1)), dim - 1)
  const ramp = Math.min(Math.max((pair - low) / (high === low ? 0.001 : high - low), 0), 1)
  return (plain / yarn.factor) * ramp + plain * (1 - ramp)
}

const rotate = (config: DeepseekConfig, row: number[], position: number): number[] =>
  row.map((x, i) => {
    const angle = position * frequency(config, i >> 1)
    const other = row[i ^ 1]!
    return x * Math.cos(angle) + (i % 2 ? other : -other) * Math.sin(angle)
  })

/** Weights of the chosen experts, by expert. */
function chosen(c: DeepseekConfig, logits: number[], bias: Float32Array | undefined): Map<number, number> {
  const scores = c.scores === 'sigmoid' ? logits.map((x) => 1 / (1 + Math.exp(-x))) : softmax(logits)
  const choice = scores.map((score, e) => score + (bias?.[e] ?? 0))
  const size = scores.length / c.groups
  const groupScores = Array.from({ length: c.groups }, (_, g) => {
    const own = choice.slice(g * size, (g + 1) * size).sort((a, b) => b - a)
    return own.slice(0, c.groupBest).reduce((sum, score) => sum + score, 0)
  })
  const kept = largest(groupScores, c.groupsUsed)
  const ids = largest(
    choice.map((x, e) => (kept.includes(Math.floor(e / size)) ? x : Number.NEGATIVE_INFINITY)),
    c.used
  )
  const sum = c.normalise ? ids.reduce((total, e) => total + scores[e]!, 1e-20) : 1
  return new Map(ids.map((e) => [e, (scores[e]! / sum) * c.scale]))
}

/** Logits [tokens][vocab]. */
export function deepseekForward(c: DeepseekConfig, read: ReadTensor, tokens: readonly number[]): number[][] {
  const get = (name: string) => read(`${name}.weight`)
  const table = get('token_embd')
  const width = get('output_norm').length
  const rowsOf = (weight: Float32Array, x: number[]) => multiply(weight, x, weight.length / x.length)
  const mlp = (x: number[], gate: Float32Array, up: Float32Array, down: Float32Array) => {
    const u = rowsOf(up, x)
    const inner = rowsOf(gate, x).map((g, i) => silu(g) * u[i]!)
    return rowsOf(down, inner)
  }
  const plus = (a: number[], b: number[]) => a.map((value, i) => value + b[i]!)
  const mscale = 1 + 0.1 * c.yarn.mscale * Math.log(c.yarn.factor)
  const scale = mscale ** 2 / Math.sqrt(c.plain + c.rotated)
  let x = tokens.map((id) => [...table.subarray(id * width, (id + 1) * width)])
  for (let layer = 0; layer < c.layers; layer++) {
    const w = (name: string) => get(`blk.${layer}.${name}`)
    const each = c.plain + c.rotated
    const seen = x.map((row, position) => {
      const h = norm(row, w('attn_norm'), c.epsilon)
      const q = rowsOf(w('attn_q_b'), norm(rowsOf(w('attn_q_a'), h), w('attn_q_a_norm'), c.epsilon))
      const kv = rowsOf(w('attn_kv_a_mqa'), h)
      const heads = rowsOf(w('attn_kv_b'), norm(kv.slice(0, c.rank), w('attn_kv_a_norm'), c.epsilon))
      const rotatedKey = rotate(c, kv.slice(c.rank), position)
      return Array.from({ length: c.heads }, (_, head) => {
        const query = q.slice(head * each, (head + 1) * each)
        const own = heads.slice(head * (c.plain + c.value), (head + 1) * (c.plain + c.value))
        return {
          query: [...query.slice(0, c.plain), ...rotate(c, query.slice(c.plain), position)],
          key: [...own.slice(0, c.plain), ...rotatedKey],
          value: own.slice(c.plain)
        }
      })
    })
    x = x.map((row, position) => {
      const out = seen[position]!.flatMap(({ query }, head) => {
        const before = seen.slice(0, position + 1).map((heads) => heads[head]!)
        const p = softmax(before.map(({ key }) => scale * dot(query, key)))
        return Array.from({ length: c.value }, (_, d) => p.reduce((sum, one, i) => sum + one * before[i]!.value[d]!, 0))
      })
      return plus(row, rowsOf(w('attn_output'), out))
    })
    x = x.map((row) => {
      const h = norm(row, w('ffn_norm'), c.epsilon)
      if (layer < c.dense) return plus(row, mlp(h, w('ffn_gate'), w('ffn_up'), w('ffn_down')))
      const router = w('ffn_gate_inp')
      const experts = router.length / width
      const bias = c.scores === 'sigmoid' ? read(`blk.${layer}.exp_probs_b.bias`) : undefined
      const of = (name: string, expert: number) => {
        const all = w(`ffn_${name}_exps`)
        return all.subarray((expert * all.length) / experts, ((expert + 1) * all.length) / experts)
      }
      let sum = mlp(h, w('ffn_gate_shexp'), w('ffn_up_shexp'), w('ffn_down_shexp'))
      for (const [expert, weight] of chosen(c, rowsOf(router, h), bias)) {
        const out = mlp(h, of('gate', expert), of('up', expert), of('down', expert))
        sum = sum.map((value, i) => value + weight * out[i]!)
      }
      return plus(row, sum)
    })
  }
  const output = get('output')
  return x.map((row) => rowsOf(output, norm(row, get('output_norm'), c.epsilon)))
}
