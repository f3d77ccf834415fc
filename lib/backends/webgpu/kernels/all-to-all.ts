import type { DeviceArray, OnDevice } from '../../../kernels/device-arrays.js'
import { type AllToAllShape, allToAllLaunch, rankRowsLaunch } from '../launches/all-to-all.js'
import { arrayArgument, integerArgument, mostChosen, mostSize, partsOf, refused } from './arguments.js'
import { type GpuKernel, type KernelCall, unset } from './call.js'

interface Exchange {
  from: { name: string; value: unknown }
  width: number
  k: number
  offsets: OnDevice<Uint32Array>
  slots: OnDevice<Uint32Array>
  out: OnDevice<Float32Array> | undefined
}

/** Moves rows, and checks that offsets and slots are a dispatch's. `rankRows`: where to count the rows of each of `ranks` ranks. */
async function move(
  call: KernelCall,
  direction: AllToAllShape['direction'],
  r: Exchange,
  ranks: number,
  rankRows: GPUBufferBinding
): Promise<Float32Array | DeviceArray<'f32'>> {
  const width = integerArgument('width', r.width, 0, mostSize)
  const k = integerArgument('k', r.k, 1, mostChosen)
  const experts = arrayArgument('offsets', r.offsets, 'u32', 1).length - 1
  const rows = arrayArgument('slots', r.slots, 'u32', 0).length
  const tokens = partsOf('slots', rows, k)
  const from = await call.input(r.from.name, r.from.value, 'f32', (direction === 'pack' ? tokens : rows) * width)
  const offsets = await call.input('offsets', r.offsets, 'u32')
  const slots = await call.input('slots', r.slots, 'u32')
  const out = await call.output('out', r.out, 'f32', rows * width, { alone: true })
  const seen = await call.scratch(rows * 4)
  call.queue((commands) => commands.clear(seen))
  const status = await call.status((words) => {
    if (words[2] !== unset) throw refused('offsets', `offsets from 0 up to ${rows}`, `another at ${words[2]}`)
    if (words[1] !== unset) throw refused('slots', 'each slot once', `one out of range or twice, at row ${words[1]}`)
  })
  await call.run(rankRowsLaunch({ rows, experts, ranks }), [offsets, rankRows, status])
  await call.run(allToAllLaunch({ rows, k, width, direction }, call.facts), [from, slots, out.binding, seen, status])
  return out.array
}

export const allToAllPack: GpuKernel<'allToAllPack'> = async (call, r) => {
  const ranks = integerArgument('ranks', r.ranks, 1, mostSize)
  const rankRows = await call.output('rankRows', r.rankRows, 'u32', ranks, { alone: true })
  const from = { name: 'x', value: r.x }
  const out = await move(call, 'pack', { ...r, from, out: r.out }, ranks, rankRows.binding)
  return { out, rankRows: rankRows.array }
}

export const allToAllUnpack: GpuKernel<'allToAllUnpack'> = async (call, r) => {
  const from = { name: 'packed', value: r.packed }
  return move(call, 'unpack', { ...r, from, out: r.out }, 0, await call.scratch(4))
}
