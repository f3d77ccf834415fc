import { blockOf, dtypes } from '../../../kernels/layout.js'
import { embedLaunches } from '../launches/embed.js'
import { arrayArgument, choiceArgument, integerArgument, partsOf } from './arguments.js'
import type { GpuKernel } from './call.js'
import { partOf } from './matrix.js'

export const dequantize: GpuKernel<'dequantize'> = async (call, r) => {
  const type = choiceArgument('type', r.type, dtypes)
  const { length } = arrayArgument('data', r.data, 'u8', 0)
  const columns = integerArgument('columns', r.columns, 1, 2 ** 31 - 1)
  const { block, bytes } = blockOf(type)
  const rows = partsOf('data', length, partsOf('columns', columns, block) * bytes)
  const data = await call.input('data', r.data, 'u8')
  const out = await call.output('out', r.out, 'f32', rows * columns)
  const status = await call.status()
  for (const { launch, table, first, rows: own } of embedLaunches({ type, rows, columns }, call.facts)) {
    const written = partOf(out.binding, first * columns * 4, own * columns * 4)
    await call.run(launch, [partOf(data, table.offset, table.size), written, status])
  }
  return out.array
}
