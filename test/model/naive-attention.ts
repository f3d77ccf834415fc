/** Attention of a plan in float64: grouped heads, windows, sinks. */
import type { OpOf } from '../../lib/model/plan.js'

type Rows = number[][]

/** All tokens of one sequence from position 0. `sinks`: one of each head. */
export function naiveAttention(q: Rows, k: Rows, v: Rows, op: OpOf<'attention'>, sinks?: Float32Array): Rows {
  // values that are the first floats of their keys lie as far apart as these
  const stride = op.v === op.k ? op.headDim : op.valueDim
  return q.map((row, t) => {
    const out: number[] = []
    const first = op.window ? Math.max(0, t + 1 - op.window) : 0
    for (let head = 0; head < op.heads; head++) {
      const kvHead = Math.floor(head / (op.heads / op.kvHeads))
      const scores = []
      for (let p = first; p <= t; p++) {
        let dot = 0
        for (let d = 0; d < op.headDim; d++) dot += row[head * op.headDim + d]! * k[p]![kvHead * op.headDim + d]!
        scores.push(op.scale * dot)
      }
      const sink = sinks ? [sinks[head]!] : []
      const most = Math.max(...scores, ...sink)
      const total = [...scores, ...sink].reduce((sum, score) => sum + Math.exp(score - most), 0)
      for (let d = 0; d < op.valueDim; d++) {
        const weighed = scores.map((s, i) => (Math.exp(s - most) / total) * v[first + i]![kvHead * stride + d]!)
        out.push(weighed.reduce((a, b) => a + b, 0))
      }
    }
    return out
  })
}
