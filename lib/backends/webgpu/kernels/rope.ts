import { ropeFrequencies, ropeLaunch, ropeTableLaunch } from '../launches/rope.js'
import { arrayArgument, choiceArgument, integerArgument, mostHeadDim, mostSize, numberArgument } from './arguments.js'
import type { GpuKernel } from './call.js'

export const rope: GpuKernel<'rope'> = async (call, r) => {
  const rows = arrayArgument('positions', r.positions, 'u32', 0).length
  const heads = integerArgument('heads', r.heads, 1, mostSize)
  const headDim = integerArgument('headDim', r.headDim, 1, mostHeadDim)
  const rotaryDim = 2 * integerArgument('rotaryDim / 2', (r.rotaryDim ?? headDim) / 2, 1, Math.floor(headDim / 2))
  const base = numberArgument('base', r.base, 1, 1e15)
  const pairs = choiceArgument('pairs', r.pairs ?? 'neox', ['neox', 'interleaved'])
  const x = await call.output('x', r.x, 'f32', rows * heads * headDim, { keeps: true })
  const positions = await call.input('positions', r.positions, 'u32')
  const frequencies = await call.input('frequencies', ropeFrequencies(base, rotaryDim), 'u32')
  const table = await call.scratch(rows * rotaryDim * 4)
  await call.run(ropeTableLaunch({ rows, rotaryDim }, call.facts), [positions, frequencies, table])
  await call.run(ropeLaunch({ rows, heads, headDim, rotaryDim, pairs }, call.facts), [x.binding, table])
  return x.array
}
