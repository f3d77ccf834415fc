import { dispatchLaunch } from '../launches/dispatch.js'
import { arrayArgument, integerArgument, mostChosen, mostExperts, partsOf } from './arguments.js'
import type { GpuKernel } from './call.js'
import { checkChosen } from './chosen.js'

export const dispatch: GpuKernel<'dispatch'> = async (call, r) => {
  const { length } = arrayArgument('ids', r.ids, 'i32', 0)
  const k = integerArgument('k', r.k, 1, mostChosen)
  const experts = integerArgument('experts', r.experts, 1, mostExperts)
  const tokens = partsOf('ids', length, k)
  const ids = await call.input('ids', r.ids, 'i32')
  const offsets = await call.output('offsets', r.offsets, 'u32', experts + 1, { alone: true })
  const slots = await call.output('slots', r.slots, 'u32', length, { alone: true })
  const rows = await call.output('rows', r.rows, 'u32', length, { alone: true })
  const status = await call.status(checkChosen(call, r.ids, ids, { k, experts }))
  await call.run(dispatchLaunch({ tokens, k, experts }), [ids, offsets.binding, slots.binding, rows.binding, status])
  return { offsets: offsets.array, slots: slots.array, rows: rows.array }
}
