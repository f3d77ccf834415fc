import { packedBytes } from '../../../kernels/layout.js'
import type { DType } from '../../../native.js'
import type { DeviceFacts, Launch } from './launch.js'
import { words } from './launch.js'
import { quadBytes, rowGroups, tileDefines, tileOfTokens, tileRows } from './tile.js'

export interface MatmulShape {
  type: DType
  rows: number
  columns: number
  tokens: number
  /** out += W · a instead of out = W · a. */
  add?: boolean
  /** A number for each row is added to its products. */
  bias?: boolean
  /** Where a row of `out` has this matrix's numbers, and its floats. Default: the row is these alone. */
  place?: { first: number; stride: number }
}

/** A launch and the part of the packed matrix, in bytes, that it binds as its weights. */
export interface MatmulPart {
  launch: Launch
  weights: { offset: number; size: number }
}

/**
 * out[token] (+)= W · a[token]. Buffers: weights (the part), activations (f32 [tokens][columns] for float types, else those of
 * `quantiseLaunch`), out f32 [tokens][rows], with `bias` f32 [rows]. More than one part where the matrix is larger than a binding may be:
 * every part writes rows of its own.
 */
export function matmulLaunches(
  { type, rows, columns, tokens, add = false, bias = false, place }: MatmulShape,
  facts: DeviceFacts
): MatmulPart[] {
  const tile = tileOfTokens(tokens)
  const defines = { ...tileDefines(type, tile, 1, facts), ADD: add, BIAS: bias, HEADS: false }
  const most = mostRows(type, columns, facts)
  const parts: MatmulPart[] = []
  for (let first = 0; first < rows; first += most) {
    const own = Math.min(most, rows - first)
    parts.push({
      launch: {
        shader: 'matmul',
        defines,
        workgroups: [rowGroups(own, defines), Math.ceil(tokens / tileRows(tile)), 1],
        params: words(own, columns, tokens, 0, place?.stride ?? rows, (place?.first ?? 0) + first, first)
      },
      weights: { offset: packedBytes(type, first, columns), size: packedBytes(type, own, columns) }
    })
  }
  return parts
}

/**
 * out[token][head] = W[head] · a[token][head], of head_matmul. Buffers as above: all heads' weights, one matrix after another; activations of
 * tokens · heads rows; out, where the heads of a token are `headStride` floats apart.
 */
export function headMatmulLaunch(
  { type, rows, columns, tokens, heads, headStride }: Omit<MatmulShape, 'add' | 'place'> & HeadsPlace,
  facts: DeviceFacts
): Launch {
  const tile = tileOfTokens(tokens)
  const defines = { ...tileDefines(type, tile, 1, facts), ADD: false, BIAS: false, HEADS: true }
  const quads = packedBytes(type, rows, columns) / quadBytes
  return {
    shader: 'matmul',
    defines,
    workgroups: [rowGroups(rows, defines), Math.ceil(tokens / tileRows(tile)), heads],
    params: words(rows, columns, tokens, 0, heads * headStride, 0, 0, heads, quads, headStride)
  }
}

interface HeadsPlace {
  heads: number
  headStride: number
}

/** Rows of a packed matrix that one binding holds. Sixteen groups of 16 rows begin where a binding may. */
function mostRows(type: DType, columns: number, { limits }: DeviceFacts): number {
  const unit = 256
  return Math.max(1, Math.floor(limits.maxStorageBufferBindingSize / packedBytes(type, unit, columns))) * unit
}
