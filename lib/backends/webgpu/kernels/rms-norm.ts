import { rmsNormLaunch } from '../launches/rms-norm.js'
import { arrayArgument, numberArgument, partsOf } from './arguments.js'
import type { GpuKernel } from './call.js'

export const rmsNorm: GpuKernel<'rmsNorm'> = async (call, r) => {
  const { length } = arrayArgument('x', r.x, 'f32', 0)
  const width = arrayArgument('weight', r.weight, 'f32', 1).length
  const rows = partsOf('x', length, width)
  const epsilon = numberArgument('epsilon', r.epsilon, 0, 1e30)
  const x = await call.input('x', r.x, 'f32')
  const weight = await call.input('weight', r.weight, 'f32')
  const out = await call.output('out', r.out, 'f32', length)
  await call.run(rmsNormLaunch({ rows, width, epsilon }, call.facts), [x, weight, out.binding, await call.status()])
  return out.array
}
