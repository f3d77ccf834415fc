/** Products with weights: activations quantised where a weight is, then one launch per weight and per part of it. */
import type { OpOf } from '../../../model/plan.js'
import { embedLaunches } from '../launches/embed.js'
import { matmulLaunches } from '../launches/matmul.js'
import { quantiseLaunch } from '../launches/quantise.js'
import { isQuantised } from '../launches/tile.js'
import type { Run, ShapeParts } from './step-shape.js'
import type { GpuWeight } from './weights.js'

export interface Product {
  /** f32 [rows][columns]. */
  input: GPUBufferBinding
  matrices: readonly GpuWeight[]
  /** Of each matrix; or of all, whose rows then lie side by side. */
  out: readonly GPUBufferBinding[] | GPUBufferBinding
  /** Of each matrix: what is added to its products. */
  biases?: readonly (GPUBufferBinding | undefined)[]
  /** Adds to what `out` holds. */
  add?: boolean
  rows: number
}

/** Whether a product's rows are to be quantised first. */
export const takesBlocks = (matrices: readonly GpuWeight[]): boolean => matrices.some(({ type }) => isQuantised(type))

/** Quantises rows into the arena's activations. */
export function quantising(
  { device, arena }: ShapeParts,
  input: GPUBufferBinding,
  shape: { rows: number; columns: number },
  status: GPUBufferBinding,
  run: Run
): void {
  run(quantiseLaunch(shape, device.facts), [input, arena.get('activations'), status])
}

/** The product alone: what its matrices take quantised is in the arena's activations. */
export function multiply(
  { device, arena }: ShapeParts,
  { input, matrices, out, biases = [], add = false, rows }: Product,
  run: Run
) {
  const stride = matrices.reduce((sum, matrix) => sum + matrix.rows, 0)
  let first = 0
  for (const [i, { buffer, ...matrix }] of matrices.entries()) {
    const from = isQuantised(matrix.type) ? arena.get('activations') : input
    const together = 'buffer' in out
    const place = together ? { place: { first, stride } } : {}
    const bias = biases[i]
    for (const part of matmulLaunches({ ...matrix, tokens: rows, add, bias: !!bias, ...place }, device.facts)) {
      const target = together ? out : (out[i] as GPUBufferBinding)
      run(part.launch, [{ buffer, ...part.weights }, from, target, ...(bias ? [bias] : [])])
    }
    first += matrix.rows
  }
}

/** Rows of the table by token id, part by part of it: each leaves the others' tokens alone. */
export function embedding(
  { device, weights, arena }: ShapeParts,
  op: OpOf<'embed'>,
  tokens: GPUBufferBinding,
  count: number,
  status: GPUBufferBinding,
  run: Run
): void {
  const { buffer, ...table } = weights.get(op.table)
  for (const part of embedLaunches({ ...table, count }, device.facts)) {
    run(part.launch, [{ buffer, ...part.table }, arena.buffer(op.out), status, tokens])
  }
}
