/** Launch of heads (shaders/heads): from rows of queries, keys and values beside one another to what attention takes. */
import type { KvType } from '../../../native.js'
import type { DeviceFacts, Launch } from './launch.js'
import { bits, grid, words } from './launch.js'

export interface HeadsShape {
  rows: number
  heads: number
  kvHeads: number
  headDim: number
  valueDim: number
  /** Where keys and values begin in a row, and floats from row to row. */
  place: { k: number; v: number; stride: number }
  /** Queries and keys are normalised first: each head for itself, or all of a row together. */
  norm?: { of: 'head' | 'row'; epsilon: number } | undefined
  rotaryDim: number
  pairs: 'neox' | 'interleaved'
  /** Keys and values go straight into a cache of this type: no two rows are of one sequence (`writesCache`). */
  cache?: KvType | undefined
}

/** Whether keys and values can go into the cache with this launch: two f16 of one value share a word. */
export const writesCache = (kvType: KvType, valueDim: number): boolean => kvType === 'f32' || valueDim % 2 === 0

/** Buffers: x, rotations, q (out), status; with `cache` rows, pages and the cache (in, out), else k (out); with `norm` weights of q and of k. */
export function headsLaunch(shape: HeadsShape, facts: DeviceFacts): Launch {
  const { rows, heads, kvHeads, headDim, valueDim, place, norm, rotaryDim, pairs, cache } = shape
  const whole = norm?.of === 'row'
  const runs = (of: number): [runs: number, n: number] => (whole ? [1, of * headDim] : [of, headDim])
  const [q, k] = [runs(heads), runs(kvHeads)]
  return {
    shader: 'heads',
    defines: { NORM: norm !== undefined, CACHE: cache !== undefined, F16: cache === 'f16' },
    workgroups: grid(rows * (q[0] + k[0] + (cache ? kvHeads : 0)), facts),
    params: words(
      rows,
      place.stride,
      place.k,
      place.v,
      ...q,
      ...k,
      headDim,
      rotaryDim / 2,
      pairs === 'interleaved' ? 1 : 0,
      bits(norm?.epsilon ?? 0),
      kvHeads,
      valueDim
    )
  }
}
