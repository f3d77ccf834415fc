import type { RopeScaling } from '../../../kernels/rope-scaling.js'
import { ropeFrequencies, ropeLaunch, ropeTableLaunch } from '../launches/rope.js'
import {
  arrayArgument,
  choiceArgument,
  hostArgument,
  integerArgument,
  mostHeadDim,
  mostSize,
  numberArgument,
  refused
} from './arguments.js'
import type { GpuKernel } from './call.js'

/** With the limits of csrc/napi/kernel_calls_dense.cpp. */
function scalingArgument({ factor, magnitude, keep }: RopeScaling): RopeScaling {
  numberArgument('scaling.factor', factor, 1, 1e9)
  numberArgument('scaling.magnitude', magnitude, 1e-9, 1e9)
  if (!keep) return { factor, magnitude }
  choiceArgument('scaling.keep.by', keep.by, ['pair', 'turns'])
  numberArgument('scaling.keep.none', keep.none, -1e15, 1e15)
  numberArgument('scaling.keep.all', keep.all, -1e15, 1e15)
  numberArgument('scaling.keep.most', keep.most, 0, 1)
  if (keep.by === 'turns') numberArgument('scaling.keep.originalContext', keep.originalContext, 1, 1e15)
  if (keep.none === keep.all) throw refused('scaling.keep', 'none and all that differ', String(keep.all))
  return { factor, magnitude, keep }
}

export const rope: GpuKernel<'rope'> = async (call, r) => {
  const rows = arrayArgument('positions', r.positions, 'u32', 0).length
  const heads = integerArgument('heads', r.heads, 1, mostSize)
  const headDim = integerArgument('headDim', r.headDim, 1, mostHeadDim)
  const rotaryDim = 2 * integerArgument('rotaryDim / 2', (r.rotaryDim ?? headDim) / 2, 1, Math.floor(headDim / 2))
  const base = numberArgument('base', r.base, 1, 1e15)
  const pairs = choiceArgument('pairs', r.pairs ?? 'neox', ['neox', 'interleaved'])
  const scaling = r.scaling && scalingArgument(r.scaling)
  const divisors = r.divisors && (await hostArgument(call, 'divisors', r.divisors, 'f32', rotaryDim / 2))
  if (divisors && !divisors.every((divisor) => divisor >= 2 ** -30))
    throw refused('divisors', 'numbers from 2^-30 on', 'others')
  const x = await call.output('x', r.x, 'f32', rows * heads * headDim, { keeps: true })
  const positions = await call.input('positions', r.positions, 'u32')
  const frequencies = await call.input('frequencies', ropeFrequencies(base, rotaryDim, scaling, divisors), 'u32')
  const table = await call.scratch(rows * rotaryDim * 4)
  await call.run(ropeTableLaunch({ rows, rotaryDim, magnitude: scaling?.magnitude ?? 1 }, call.facts), [
    positions,
    frequencies,
    table
  ])
  await call.run(ropeLaunch({ rows, heads, headDim, rotaryDim, pairs }, call.facts), [x.binding, table])
  return x.array
}
