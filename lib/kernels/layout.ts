/** Sizes of the memory that kernels read and write: blocks, packed matrices, a KV cache. */

import type { DType, KvType } from '../native.js'
import { validationError } from '../validation.js'

interface Block {
  /** Weights in one block, along a row. */
  block: number
  /** Bytes of one block in the file's layout. */
  bytes: number
}

const blocks: Record<DType, Block> = {
  F32: { block: 1, bytes: 4 },
  F16: { block: 1, bytes: 2 },
  BF16: { block: 1, bytes: 2 },
  Q8_0: { block: 32, bytes: 34 },
  Q4_0: { block: 32, bytes: 18 },
  Q4_1: { block: 32, bytes: 20 },
  Q5_0: { block: 32, bytes: 22 },
  Q5_1: { block: 32, bytes: 24 },
  Q4_K: { block: 256, bytes: 144 },
  Q5_K: { block: 256, bytes: 176 },
  Q6_K: { block: 256, bytes: 210 },
  MXFP4: { block: 32, bytes: 17 },
  IQ4_NL: { block: 32, bytes: 18 },
  IQ4_XS: { block: 256, bytes: 136 }
}

/** Weight types that the kernels read. */
export const dtypes = Object.keys(blocks) as DType[]

/** Rows interleaved in a packed matrix. */
const lanes = 16
/** Positions in one page of a KV cache, as the CPU has it (csrc/cpu/kernels.h). */
export const pagePositions = 64

/** The block of a weight type. Throws VALIDATION_ERROR for any other. */
export function blockOf(type: DType): Block {
  const found = Object.hasOwn(blocks, String(type)) ? blocks[type] : undefined
  if (!found) throw validationError('kernel', 'type', type, dtypes.join(', '))
  return found
}

/** Bytes of a matrix in the kernels' layout: groups of 16 rows, the last one filled up. */
export function packedBytes(type: DType, rows: number, columns: number): number {
  const { block, bytes } = blockOf(type)
  return Math.ceil(rows / lanes) * lanes * (columns / block) * bytes
}

/** Bytes of one layer's KV cache for at least `positions` positions. */
export function kvCacheBytes(options: {
  positions: number
  kvHeads: number
  headDim: number
  valueDim?: number
  kvType?: KvType
}): number {
  const { positions, kvHeads, headDim, valueDim = headDim, kvType = 'f16' } = options
  return (
    Math.ceil(positions / pagePositions) * pagePositions * kvHeads * (headDim + valueDim) * (kvType === 'f32' ? 4 : 2)
  )
}
