/** A seeded Mixture-of-Experts layer, whole and cut for ranks. */
import type {
  AsyncKernels,
  DType,
  ExpertActivation,
  ExpertMatmulRequest,
  ExpertRank,
  KernelBackend,
  Matrix,
  RankTokens
} from 'tiered-moe/kernels'
import { expertShares } from 'tiered-moe/kernels'
import { choices, floats, type Skew, stream, weights } from '../kernels/values.js'

export interface LayerShape {
  type: DType
  experts: number
  k: number
  width: number
  hidden: number
  /** `clamped_swiglu`: every matrix of every expert has biases too, as in gpt-oss. */
  activation?: ExpertActivation
  skew?: Skew
  /** Tokens of each rank. */
  tokens: number[]
}

type Biases = Record<'gate' | 'up' | 'down', Float32Array>
export type Matrices = Record<'gate' | 'up' | 'down', Matrix> & { biases?: Biases }

/** A layer's packed matrices, and tokens of every rank. */
export function makeLayer(cpu: KernelBackend, label: string, shape: LayerShape) {
  const { type, experts, k, width, hidden, skew = 'even' } = shape
  const next = stream(label)
  const pack = (rows: number, columns: number) => cpu.pack(weights(type, rows, columns, next, experts), experts)
  const matrices: Matrices = { gate: pack(hidden, width), up: pack(hidden, width), down: pack(width, hidden) }
  const tokens = shape.tokens.map(
    (count): RankTokens => ({
      x: floats(count * width, next),
      ids: choices(count, k, experts, skew, next),
      weights: floats(count * k, next)
    })
  )
  if (shape.activation === 'clamped_swiglu') {
    const bias = (rows: number) => floats(experts * rows, next)
    matrices.biases = { gate: bias(hidden), up: bias(hidden), down: bias(width) }
  }
  return { matrices, tokens }
}

/** The experts [first, first + count) of packed matrices. */
function part(matrix: Matrix, experts: number, first: number, count: number): Matrix {
  const each = matrix.data.length / experts
  return { ...matrix, data: matrix.data.subarray(first * each, (first + count) * each) }
}

/** Ranks that hold a share each; `backends` are taken in turn. */
export function makeRanks(
  { gate, up, down, biases }: Matrices,
  experts: number,
  ranks: number,
  backends: readonly ExpertRank['backend'][]
): ExpertRank[] {
  return expertShares(experts, ranks).map(({ first, count }, rank) => {
    const of = (matrix: Matrix) => part(matrix, experts, first, count)
    const backend = backends[rank % backends.length]!
    if (count === 0) return { backend }
    const matrices = { gate: of(gate), up: of(up), down: of(down) }
    if (!biases) return { backend, matrices }
    const own = Object.entries(biases).map(([name, all]) => {
      const each = all.length / experts
      return [name, all.subarray(first * each, (first + count) * each)]
    })
    return { backend, matrices, biases: Object.fromEntries(own) as Biases }
  })
}

/** The layer on one backend with all experts, without ranks. */
export async function plainLayer(
  backend: Pick<AsyncKernels, 'dispatch' | 'expertMatmul' | 'combine'>,
  matrices: Matrices,
  { experts, k, width, activation = 'silu' }: LayerShape,
  { x, ...own }: RankTokens
): Promise<Float32Array> {
  const { offsets, slots, rows } = await backend.dispatch({ ids: own.ids, k, experts })
  const request: ExpertMatmulRequest = { x, k, offsets, slots, ...matrices, activation }
  const values = await backend.expertMatmul(request)
  return backend.combine({ ...own, values, rows, k, experts, width })
}
