/** What matmul and expertMatmul share: sizes of packed matrices on a GPU, and the tile of shaders/tile.wgsl. */
import type { DType } from '../../../native.js'
import type { Defines, DeviceFacts } from './launch.js'

/** Bytes of a quad: packed matrices are addressed and bound in quads. */
export const quadBytes = 16

const floatTypes: readonly DType[] = ['F32', 'F16', 'BF16']
/** Weights whose activations are quantised. */
export const isQuantised = (type: DType): boolean => !floatTypes.includes(type)

/** Types without f16 numbers in them. */
const withoutHalves: readonly DType[] = ['F32', 'BF16', 'MXFP4']
/** Types whose weights shaders/blocks.wgsl gives as signed bytes. */
const signedTypes: readonly DType[] = ['Q8_0', 'IQ4_NL', 'IQ4_XS']
/** Types whose codes have five bits, and types with a minimum for each block of 32. */
const fiveBitTypes: readonly DType[] = ['Q5_0', 'Q5_1', 'Q5_K']
const minimumTypes: readonly DType[] = ['Q4_1', 'Q5_1', 'Q4_K', 'Q5_K']

/** Bytes of `rows` of quantised activations (shaders/quantise.wgsl). */
export const activationBytes = (rows: number, columns: number): number => rows * (columns / 32) * 48

/** Output rows that an invocation computes: the words of a quad. */
const rowsOfInvocation = 4

/** Tokens that an invocation computes, and the parts of so many that a tile has. */
export interface Tile {
  tokens: 1 | 4 | 8
  parts: 1 | 4
}

/** Rows of the activations in a tile. */
export const tileRows = ({ tokens, parts }: Tile): number => tokens * parts

/** Of the smallest tile where an expert has more than one row. */
export const leastTileRows = 4

/** The tile where a matrix meets `tokens`, all at once: changes speed and never bits. */
export function tileOfTokens(tokens: number): Tile {
  if (tokens <= 1) return { tokens: 1, parts: 1 }
  return { tokens: tokens <= 4 ? 4 : 8, parts: 1 }
}

/**
 * A subgroup of 8 is a CPU's vector: there a load costs the same whether it is uniform or not, so the subgroup shares what it has loaded, and a
 * workgroup is one vector without barriers (with them a layer takes 1.3 to 1.5 times as long on lavapipe), which reads from the CPU's caches.
 */
const isNarrow = (facts: DeviceFacts) => facts.subgroups && facts.subgroupMin === 8 && facts.subgroupMax === 8

/**
 * The tile where experts meet `mean` rows each, some twice as many: these too shall read their weights once. Parts share no float weights.
 * Changes speed and never bits.
 */
export function tileOfExperts(mean: number, quantised: boolean, facts: DeviceFacts): Tile {
  // A CPU does not skip the work of a part that has no rows.
  if (mean <= 1 || !quantised || isNarrow(facts)) return tileOfTokens(mean)
  return { tokens: mean <= 8 ? 4 : 8, parts: 4 }
}

/** Bytes that a block of four rows takes in workgroup memory (`struct Block` of shaders/blocks_*.wgsl; most), and one of a token's activations. */
const smallBlocks: readonly DType[] = ['Q4_0', 'MXFP4', 'IQ4_NL']
const blockBytes = (type: DType): number => (smallBlocks.includes(type) ? 80 : 144)
const tokenBytes = 48
/** Of the rows of a workgroup's tokens, which lie in workgroup memory too. */
const rowListBytes = 256

/**
 * How a workgroup reads: invocations along the rows (the more, the less often activations are read), and blocks of 32 columns at a time (the
 * more, the fewer barriers). Weights that parts share take workgroup memory.
 */
function readingOf(type: DType, tile: Tile, matrices: 1 | 2, facts: DeviceFacts): { group: number; stage: number } {
  if (isNarrow(facts)) return { group: 8, stage: 0 }
  if (tile.parts === 1) return { group: 32, stage: 64 / tile.tokens }
  const choices = [
    { group: 64, stage: 4 / matrices },
    { group: 64, stage: 2 / matrices }
  ]
  const bytes = ({ group, stage }: { group: number; stage: number }) =>
    stage * (matrices * group * blockBytes(type) + tileRows(tile) * tokenBytes)
  const fits = choices.find((choice) => bytes(choice) <= facts.limits.maxComputeWorkgroupStorageSize - rowListBytes)
  return fits ?? { group: 32, stage: 2 / matrices }
}

/** Workgroups that `rows` output rows take. */
export const rowGroups = (rows: number, { GROUP }: Defines): number =>
  Math.ceil(rows / (rowsOfInvocation * (GROUP as number)))

/** The defines of shaders/tile.wgsl. COUNT_LOADS adds a binding in which the words that are loaded are counted. */
export function tileDefines(type: DType, tile: Tile, matrices: 1 | 2, facts: DeviceFacts): Defines {
  const quantised = isQuantised(type)
  const { group, stage } = readingOf(type, tile, matrices, facts)
  return {
    TYPE: type,
    QUANTISED: quantised,
    SIGNED: signedTypes.includes(type),
    FIVE_BITS: fiveBitTypes.includes(type),
    MINIMUM: minimumTypes.includes(type),
    BROADCAST: quantised && isNarrow(facts),
    DOT4: quantised && facts.dot4,
    F16: facts.f16 && !withoutHalves.includes(type),
    TOKENS: tile.tokens,
    PARTS: tile.parts,
    STAGE: stage,
    MATRICES: matrices,
    GROUP: group,
    COUNT_LOADS: false
  }
}
