import { matmulLaunches } from '../launches/matmul.js'
import { quantiseLaunch } from '../launches/quantise.js'
import { activationBytes, isQuantised } from '../launches/tile.js'
import { arrayArgument, partsOf } from './arguments.js'
import type { GpuKernel } from './call.js'
import { matrixArgument, matrixInput, partOf } from './matrix.js'

export const logits: GpuKernel<'logits'> = async (call, r) => {
  const { length } = arrayArgument('states', r.states, 'f32', 0)
  const { type, rows, columns, bytes } = matrixArgument('weight', r.weight, 1)
  const tokens = partsOf('states', length, columns)
  const states = await call.input('states', r.states, 'f32')
  const weight = await matrixInput(call, 'weight', r.weight, bytes)
  const out = await call.output('out', r.out, 'f32', tokens * rows)
  if (tokens === 0) return out.array
  let activations = states
  if (isQuantised(type)) {
    activations = await call.scratch(activationBytes(tokens, columns))
    await call.run(quantiseLaunch({ rows: tokens, columns }, call.facts), [states, activations, await call.status()])
  }
  for (const { launch, weights } of matmulLaunches({ type, rows, columns, tokens }, call.facts))
    await call.run(launch, [partOf(weight, weights.offset, weights.size), activations, out.binding])
  return out.array
}
