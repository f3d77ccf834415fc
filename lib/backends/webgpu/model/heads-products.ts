/** Gates of feed-forwards, and products of each head with a matrix of its own. */
import type { OpOf, Plan } from '../../../model/plan.js'
import { gatedLaunch, headPartsLaunch } from '../launches/gated.js'
import { headMatmulLaunch } from '../launches/matmul.js'
import { quantiseLaunch } from '../launches/quantise.js'
import { isQuantised } from '../launches/tile.js'
import type { Run, ShapeParts } from './step-shape.js'

export function gating(
  { device, plan, arena }: ShapeParts,
  { buffer, gate, form }: OpOf<'gated'>,
  rows: number,
  status: GPUBufferBinding,
  run: Run
): void {
  const byRow = form === 'sigmoid'
  const bindings = [arena.buffer(buffer), arena.buffer(gate), ...(byRow ? [status] : [])]
  run(gatedLaunch({ rows, n: plan.buffers[buffer] as number, byRow }, device.facts), bindings)
}

/** Of an operation: heads, floats of a head that meet its matrix, of their product, and of what is carried behind both. */
function headSizes(plan: Plan, op: OpOf<'headMatmul'>) {
  const shape = plan.tensors.find(({ name }) => name === op.weight)?.shape as [number, number, number]
  const [columns, to, heads] = shape
  return { columns, to, heads, carried: (plan.buffers[op.in] as number) / heads - columns }
}

/** Floats per token of the memory in which heads lie side by side without what they carry; 0 where no operation needs it. */
export const headPartsWidth = (plan: Plan): number =>
  plan.ops.reduce((most, op) => {
    if (op.op !== 'headMatmul') return most
    const { heads, columns, carried } = headSizes(plan, op)
    return carried > 0 ? Math.max(most, heads * columns) : most
  }, 0)

/** Gives whether the arena's activations have been overwritten. */
export function multiplyHeads(
  { device, plan, arena, weights }: ShapeParts,
  op: OpOf<'headMatmul'>,
  rows: number,
  status: GPUBufferBinding,
  run: Run
): boolean {
  const { type, buffer } = weights.get(op.weight)
  const { columns, to, heads, carried } = headSizes(plan, op)
  const [x, out] = [arena.buffer(op.in), arena.buffer(op.out)]
  const parts = carried > 0 ? arena.get('head parts') : x
  if (carried > 0) run(headPartsLaunch({ rows: rows * heads, columns, carried, to }, device.facts), [x, out, parts])
  const quantised = isQuantised(type)
  const blocks = arena.get('activations')
  if (quantised) run(quantiseLaunch({ rows: rows * heads, columns, heads }, device.facts), [parts, blocks, status])
  const shape = { type, rows: to, columns, tokens: rows, heads, headStride: to + carried }
  run(headMatmulLaunch(shape, device.facts), [{ buffer }, quantised ? blocks : parts, out])
  return quantised
}
