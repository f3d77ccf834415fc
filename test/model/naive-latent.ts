/** The parts of naive-forward.ts that latent attention, shared experts and dense layers have. */
import type { OpOf, PlanTensor } from '../../lib/model/plan.js'

type Multiply = (weight: Float32Array, x: number[], rows: number, at?: number) => number[]

/** Matrices [heads][rows][columns], cut out of the file's tensor where the plan says so. */
export function headMatrices({ shape, cut }: PlanTensor, file: Float32Array): Float32Array {
  if (!cut) return file
  const [columns, rows, heads] = shape as [number, number, number]
  const fileColumns = cut.transposed ? rows : columns
  const at = (head: number, row: number, column: number) =>
    file[(head * cut.height + cut.first + row) * fileColumns + column]!
  const out = new Float32Array(columns * rows * heads)
  for (let i = 0; i < out.length; i++) {
    const [column, row, head] = [i % columns, Math.floor(i / columns) % rows, Math.floor(i / columns / rows)]
    out[i] = cut.transposed ? at(head, column, row) : at(head, row, column)
  }
  return out
}

/** Each head's first floats through its matrix; the others follow as they are. */
export function headMatmul(row: number[], { shape }: PlanTensor, matrices: Float32Array, multiply: Multiply): number[] {
  const [columns, rows, heads] = shape as [number, number, number]
  const from = row.length / heads
  return Array.from({ length: heads }, (_, head) => {
    const own = row.slice(head * from, (head + 1) * from)
    return [...multiply(matrices, own.slice(0, columns), rows, head * rows * columns), ...own.slice(columns)]
  }).flat()
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

export function gated(row: number[], gate: number[], { form }: OpOf<'gated'>): number[] {
  return row.map((x, i) => (form === 'sigmoid' ? sigmoid(gate[0]!) * x : gate[i]! * sigmoid(gate[i]!) * x))
}
