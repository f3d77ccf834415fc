/** Sequences of queries, keys and values for attention. */
import { type Flavour, floats, stream } from './values.js'

export interface AttentionShape {
  heads: number
  kvHeads: number
  headDim: number
  valueDim?: number
}

/** A whole sequence of keys and values, which calls write and read in parts. */
export function sequence(shape: AttentionShape, positions: number, flavour: Flavour, label: string) {
  const next = stream(label)
  const { heads, kvHeads, headDim, valueDim = headDim } = shape
  return {
    q: floats(positions * heads * headDim, next, flavour === 'heavy' ? 'normal' : flavour),
    k: floats(positions * kvHeads * headDim, next, flavour === 'heavy' ? 'normal' : flavour),
    // f16 holds no more than 65504
    v: floats(positions * kvHeads * valueDim, next, flavour, flavour === 'heavy' ? 0.05 : 1)
  }
}
export type Sequence = ReturnType<typeof sequence>

/** What tokens `start` to `end` of a sequence bring to a call. */
export function partOf({ q, k, v }: Sequence, shape: AttentionShape, start: number, end: number): Sequence {
  const { heads, kvHeads, headDim, valueDim = headDim } = shape
  const part = (x: Float32Array, each: number) => x.slice(start * each, end * each)
  return { q: part(q, heads * headDim), k: part(k, kvHeads * headDim), v: part(v, kvHeads * valueDim) }
}
