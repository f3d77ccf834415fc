/** What matmul and expertMatmul share: sizes of packed matrices on a GPU, and the tile of shaders/tile.wgsl. */
import type { DType } from '../../../native.js'
import type { Defines, DeviceFacts } from './launch.js'

/** Bytes of a quad: packed matrices are addressed and bound in quads. */
export const quadBytes = 16

const floatTypes: readonly DType[] = ['F32', 'F16', 'BF16']
/** Weights whose activations are quantised. */
export const isQuantised = (type: DType): boolean => !floatTypes.includes(type)

/** Types with f16 numbers in them. */
const withHalves: readonly DType[] = ['F16', 'Q8_0', 'Q4_0', 'Q4_K', 'Q6_K']

/** Bytes of `rows` of quantised activations (shaders/quantise.wgsl). */
export const activationBytes = (rows: number, columns: number): number => rows * (columns / 32) * 48

/** Output rows that an invocation computes: the words of a quad. */
const rowsOfInvocation = 4

/**
 * A subgroup of 8 is a CPU's vector: there a load costs the same whether it is uniform or not, so the subgroup shares what it has loaded, and
 * a workgroup is one vector.
 */
const isNarrow = (facts: DeviceFacts) => facts.subgroups && facts.subgroupMin === 8 && facts.subgroupMax === 8

/** Invocations of a workgroup. */
const groupOf = (facts: DeviceFacts) => (isNarrow(facts) ? 8 : 32)

/** Workgroups that `rows` output rows take. */
export const rowGroups = (rows: number, facts: DeviceFacts): number =>
  Math.ceil(rows / (rowsOfInvocation * groupOf(facts)))

/** Tokens of a tile where a matrix meets about `tokens` of them: changes speed and never bits. */
export function tileTokens(tokens: number): number {
  if (tokens <= 1) return 1
  return tokens <= 4 ? 4 : 8
}

export interface TileOptions {
  type: DType
  tokens: number
  matrices: 1 | 2
  /** Adds a binding in which the words of weights that are loaded are counted. */
  countLoads?: boolean
}

/** The defines of shaders/tile.wgsl. */
export function tileDefines({ type, tokens, matrices, countLoads = false }: TileOptions, facts: DeviceFacts): Defines {
  const quantised = isQuantised(type)
  return {
    TYPE: type,
    QUANTISED: quantised,
    BROADCAST: quantised && isNarrow(facts),
    DOT4: quantised && facts.dot4,
    F16: facts.f16 && withHalves.includes(type),
    TOKENS: tokens,
    MATRICES: matrices,
    GROUP: groupOf(facts),
    COUNT_LOADS: countLoads
  }
}
