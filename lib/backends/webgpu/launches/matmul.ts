import { packedBytes } from '../../../kernels/layout.js'
import type { DType } from '../../../native.js'
import type { DeviceFacts, Launch } from './launch.js'
import { words } from './launch.js'
import { rowGroups, tileDefines, tileOfTokens, tileRows } from './tile.js'

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
  const defines = { ...tileDefines(type, tile, 1, facts), ADD: add, BIAS: bias }
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

/** Rows of a packed matrix that one binding holds. Sixteen groups of 16 rows begin where a binding may. */
function mostRows(type: DType, columns: number, { limits }: DeviceFacts): number {
  const unit = 256
  return Math.max(1, Math.floor(limits.maxStorageBufferBindingSize / packedBytes(type, unit, columns))) * unit
}
