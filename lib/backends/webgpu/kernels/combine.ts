import { combineLaunch } from '../launches/dispatch.js'
import {
  arrayArgument,
  flagArgument,
  integerArgument,
  mostChosen,
  mostExperts,
  mostSize,
  partsOf
} from './arguments.js'
import type { GpuKernel } from './call.js'
import { checkChosen } from './chosen.js'

export const combine: GpuKernel<'combine'> = async (call, r) => {
  const { length } = arrayArgument('ids', r.ids, 'i32', 0)
  const k = integerArgument('k', r.k, 1, mostChosen)
  const experts = integerArgument('experts', r.experts, 1, mostExperts)
  const width = integerArgument('width', r.width, 0, mostSize)
  const add = flagArgument('add', r.add ?? false)
  const tokens = partsOf('ids', length, k)
  const values = await call.input('values', r.values, 'f32', length * width)
  const ids = await call.input('ids', r.ids, 'i32')
  const weights = await call.input('weights', r.weights, 'f32', length)
  const rows = await call.input('rows', r.rows, 'u32', length)
  const out = await call.output('out', r.out, 'f32', tokens * width, { keeps: add, alone: true })
  const status = await call.status(checkChosen(call, r.ids, ids, { k, experts }))
  const launch = combineLaunch({ tokens, k, experts, width, add }, call.facts)
  await call.run(launch, [values, ids, weights, rows, out.binding, status])
  return out.array
}
