/** granitemoe in float64 as transformers computes it, operation by operation, without a plan. Small models only. */
import type { Sizes } from '../../lib/model/sizes.js'
import type { ReadTensor } from './naive-forward.js'

const multiply = (weight: Float32Array, x: number[], at = 0, rows = weight.length / x.length): number[] =>
  Array.from({ length: rows }, (_, r) => x.reduce((sum, value, c) => sum + value * weight[at + r * x.length + c]!, 0))

function norm(x: number[], weight: Float32Array, epsilon: number): number[] {
  const mean = x.reduce((sum, value) => sum + value * value, 0) / x.length
  return x.map((value, i) => (value / Math.sqrt(mean + epsilon)) * weight[i]!)
}

const softmax = (x: number[]): number[] => {
  const most = Math.max(...x)
  const e = x.map((value) => Math.exp(value - most))
  const sum = e.reduce((a, b) => a + b, 0)
  return e.map((value) => value / sum)
}

export function graniteForward(s: Sizes, read: ReadTensor, tokens: readonly number[], tied = false): number[][] {
  const { embedding, residual, logits } = s.multipliers!
  const get = (name: string) => read(`${name}.weight`)
  const rotated = (row: number[], heads: number, position: number) => {
    const out = [...row]
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < s.rope.rotaryDim / 2; i++) {
        const angle = position * s.rope.base ** ((-2 * i) / s.rope.rotaryDim)
        const at = h * s.headDim + 2 * i
        out[at] = row[at]! * Math.cos(angle) - row[at + 1]! * Math.sin(angle)
        out[at + 1] = row[at]! * Math.sin(angle) + row[at + 1]! * Math.cos(angle)
      }
    }
    return out
  }
  const table = get('token_embd')
  let x = tokens.map((id) => [...table.subarray(id * s.embedding, (id + 1) * s.embedding)].map((v) => v * embedding))
  const add = (states: number[][], branch: number[][]) =>
    states.map((row, t) => row.map((value, i) => value + residual * branch[t]![i]!))
  for (let layer = 0; layer < s.layers; layer++) {
    const w = (name: string) => get(`blk.${layer}.${name}`)
    const h = x.map((row) => norm(row, w('attn_norm'), s.epsilon))
    const q = h.map((row, t) => rotated(multiply(w('attn_q'), row), s.heads, t))
    const k = h.map((row, t) => rotated(multiply(w('attn_k'), row), s.kvHeads, t))
    const v = h.map((row) => multiply(w('attn_v'), row))
    const attended = q.map((row, t) => {
      const out: number[] = []
      for (let head = 0; head < s.heads; head++) {
        const kv = Math.floor(head / (s.heads / s.kvHeads)) * s.headDim
        const part = (of: number[], at: number) => of.slice(at, at + s.headDim)
        const scores = k.slice(0, t + 1).map((key) => {
          const own = part(row, head * s.headDim)
          return s.attentionScale * part(key, kv).reduce((sum, value, d) => sum + value * own[d]!, 0)
        })
        const p = softmax(scores)
        for (let d = 0; d < s.headDim; d++) out.push(p.reduce((sum, weight, i) => sum + weight * v[i]![kv + d]!, 0))
      }
      return out
    })
    x = add(
      x,
      attended.map((row) => multiply(w('attn_output'), row))
    )
    const normed = x.map((row) => norm(row, w('ffn_norm'), s.epsilon))
    const experts = normed.map((row) => {
      const scores = multiply(w('ffn_gate_inp'), row).map((score, expert) => ({ score, expert }))
      const chosen = scores.sort((a, b) => b.score - a.score).slice(0, s.expertsUsed)
      const p = softmax(chosen.map(({ score }) => score))
      const out = row.map(() => 0)
      for (const [i, { expert }] of chosen.entries()) {
        const at = expert * s.feedForward * s.embedding
        const gate = multiply(w('ffn_gate_exps'), row, at, s.feedForward)
        const up = multiply(w('ffn_up_exps'), row, at, s.feedForward)
        const inner = gate.map((g, j) => (g / (1 + Math.exp(-g))) * up[j]!)
        const down = multiply(w('ffn_down_exps'), inner, at, s.embedding)
        for (let j = 0; j < out.length; j++) out[j]! += p[i]! * down[j]!
      }
      if (s.sharedFeedForward === 0) return out
      const [gate, up] = [multiply(w('ffn_gate_shexp'), row), multiply(w('ffn_up_shexp'), row)]
      const shared = multiply(
        w('ffn_down_shexp'),
        gate.map((g, j) => (g / (1 + Math.exp(-g))) * up[j]!)
      )
      return out.map((value, j) => value + shared[j]!)
    })
    x = add(x, experts)
  }
  const output = tied ? table : get('output')
  return x.map((row) => multiply(output, norm(row, get('output_norm'), s.epsilon)).map((value) => value / logits))
}
