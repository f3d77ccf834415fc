/** The grid of shapes that every kernel is tried on: 0, 1, odd, around the 16 lanes, the 32 of a block and the 64 of a KV page. */
import type { DType } from 'tiered-moe/kernels'

/** Columns that are whole blocks of a type; the plain types also take odd numbers. */
export const columnsOf: Record<DType, readonly number[]> = {
  F32: [1, 3, 15, 16, 17, 64, 97],
  F16: [1, 7, 16, 33, 80],
  BF16: [1, 5, 16, 31, 96],
  Q8_0: [32, 64, 96, 288],
  Q4_0: [32, 64, 160, 256],
  Q4_1: [32, 160],
  Q5_0: [32, 96],
  Q5_1: [64, 160],
  Q4_K: [256, 512, 768],
  Q5_K: [256, 768],
  Q6_K: [256, 512, 768],
  MXFP4: [32, 64, 160, 256],
  IQ4_NL: [32, 96],
  IQ4_XS: [256, 512]
}

/** Tokens in a call: none, one, and around the tiles of the kernels. */
export const tokenCounts = [0, 1, 2, 3, 5, 8, 13, 17] as const

/** Output rows: below, at and above the 16 that interleave, and seven times as many. */
export const rowCounts = [1, 2, 15, 16, 17, 31, 50, 112] as const

/** Lengths of vectors. */
export const lengths = [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 257] as const

/** Experts and how many a token chooses. */
export const expertShapes = [
  { experts: 1, k: 1 },
  { experts: 2, k: 1 },
  { experts: 3, k: 3 },
  { experts: 8, k: 2 },
  { experts: 17, k: 5 },
  { experts: 64, k: 8 }
] as const

/** Heads, and how much of each turns. */
export const ropeShapes = [
  { heads: 1, headDim: 2, rotaryDim: 2 },
  { heads: 3, headDim: 6, rotaryDim: 4 },
  { heads: 2, headDim: 33, rotaryDim: 32 },
  { heads: 1, headDim: 30, rotaryDim: 30 },
  { heads: 4, headDim: 64, rotaryDim: 64 },
  { heads: 2, headDim: 128, rotaryDim: 34 },
  { heads: 1, headDim: 257, rotaryDim: 256 }
] as const
/** Positions, near ones and the farthest. */
export const ropePlaces = [0, 1, 2, 599, 4096, 131071, 2 ** 31, 2 ** 32 - 1] as const
