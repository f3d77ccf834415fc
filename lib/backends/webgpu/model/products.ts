/** Products with weights: activations quantised where a weight is, then one launch per weight and per part of it. */
import type { PlanOp } from '../../../model/plan.js'
import type { DType } from '../../../native.js'
import { embedLaunches } from '../launches/embed.js'
import { matmulLaunches } from '../launches/matmul.js'
import { quantiseLaunch } from '../launches/quantise.js'
import type { Run, ShapeParts } from './step-shape.js'

type OpOf<Name extends PlanOp['op']> = Extract<PlanOp, { op: Name }>

/** Types whose products take activations as they are. */
const floatTypes: readonly DType[] = ['F32', 'F16', 'BF16']

export interface Product {
  /** f32 [rows][width]. */
  input: GPUBufferBinding
  width: number
  products: readonly { weight: string; out: GPUBufferBinding }[]
  /** Adds to what `out` holds. */
  add: boolean
  rows: number
  status: GPUBufferBinding
}

export function multiply({ device, weights, arena }: ShapeParts, product: Product, run: Run): void {
  const { input, width, products, add, rows, status } = product
  const activations = arena.get('activations')
  const quantised = products.some(({ weight }) => !floatTypes.includes(weights.get(weight).type))
  if (quantised) run(quantiseLaunch({ rows, columns: width }, device.facts), [input, activations, status])
  for (const { weight: name, out } of products) {
    const { buffer, ...weight } = weights.get(name)
    const from = floatTypes.includes(weight.type) ? input : activations
    for (const part of matmulLaunches({ ...weight, tokens: rows, add }, device.facts)) {
      run(part.launch, [{ buffer, ...part.weights }, from, out])
    }
  }
}

export function product(parts: ShapeParts, op: OpOf<'matmul'>, rows: number, status: GPUBufferBinding, run: Run): void {
  const { plan, arena } = parts
  const products = op.parts.map(({ weight, out }) => ({ weight, out: arena.buffer(out) }))
  const width = plan.buffers[op.in] as number
  multiply(parts, { input: arena.buffer(op.in), width, products, add: op.add ?? false, rows, status }, run)
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
