import { createError } from '../../../errors/index.js'
import { embedLaunches } from '../launches/embed.js'
import { arrayArgument } from './arguments.js'
import type { GpuKernel } from './call.js'
import { matrixArgument, matrixInput, partOf } from './matrix.js'

export const embed: GpuKernel<'embed'> = async (call, r) => {
  const { type, rows, columns, bytes } = matrixArgument('table', r.table, 1, 'file')
  const { length } = arrayArgument('ids', r.ids, 'i32', 0)
  const table = await matrixInput(call, 'table', r.table, bytes)
  const ids = await call.input('ids', r.ids, 'i32')
  const out = await call.output('out', r.out, 'f32', length * columns)
  if (length === 0) return out.array
  const status = await call.status((words) => {
    if (words[1] === 0xffffffff) return
    const [place, token] = [words[1]!, r.ids instanceof Int32Array ? r.ids[words[1]!] : undefined]
    const message = `ids[${place}]: ${token ?? 'it'} is outside the vocabulary of ${rows}`
    throw createError('VALIDATION_ERROR', message, { argument: 'ids', ...(token === undefined ? {} : { token }) })
  })
  for (const { launch, table: part } of embedLaunches({ type, rows, columns, count: length }, call.facts))
    await call.run(launch, [partOf(table, part.offset, part.size), out.binding, status, ids])
  return out.array
}
