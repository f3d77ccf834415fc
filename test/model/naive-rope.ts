/** Rotary embedding of a plan in float64, scalings included. */
import type { OpOf } from '../../lib/model/plan.js'

function frequency(op: OpOf<'rope'>, pair: number, divisors: Float32Array | undefined): number {
  const plain = op.base ** ((-2 * pair) / op.rotaryDim)
  const { factor = 1, keep } = op.scaling ?? {}
  let share = 0
  if (keep) {
    const v = keep.by === 'pair' ? pair : (plain * keep.originalContext) / (2 * Math.PI)
    share = keep.most * Math.min(1, Math.max(0, (v - keep.none) / (keep.all - keep.none)))
  }
  return (share * plain + ((1 - share) * plain) / factor) / (divisors?.[pair] ?? 1)
}

/** Turns a token's row in place. */
export function naiveRope(row: number[], position: number, op: OpOf<'rope'>, divisors?: Float32Array): void {
  const half = op.rotaryDim / 2
  const magnitude = op.scaling?.magnitude ?? 1
  for (let head = 0; head < op.heads; head++) {
    for (let i = 0; i < half; i++) {
      const angle = position * frequency(op, i, divisors)
      const first = head * op.headDim + (op.offset ?? 0) + (op.pairs === 'neox' ? i : 2 * i)
      const second = first + (op.pairs === 'neox' ? half : 1)
      const [a, b] = [row[first]!, row[second]!]
      row[first] = magnitude * (a * Math.cos(angle) - b * Math.sin(angle))
      row[second] = magnitude * (a * Math.sin(angle) + b * Math.cos(angle))
    }
  }
}
