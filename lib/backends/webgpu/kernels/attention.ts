import { kvCacheBytes, pagePositions } from '../../../kernels/layout.js'
import { attentionLaunches } from '../launches/attention.js'
import {
  arrayArgument,
  choiceArgument,
  exactArgument,
  integerArgument,
  mostHeadDim,
  mostSize,
  numberArgument,
  partsOf
} from './arguments.js'
import type { GpuKernel } from './call.js'

/** RUNTIME_NAN_DETECTED {token} besides what the CPU's throws: a query, or a key or value as the cache holds it, is not finite. */
export const attention: GpuKernel<'attention'> = async (call, r) => {
  const start = integerArgument('start', r.start, 0, mostSize)
  const heads = integerArgument('heads', r.heads, 1, mostSize)
  const kvHeads = integerArgument('kvHeads', r.kvHeads, 1, mostSize)
  const headDim = integerArgument('headDim', r.headDim, 1, mostHeadDim)
  const valueDim = integerArgument('valueDim', r.valueDim ?? headDim, 1, mostHeadDim)
  const scale = numberArgument('scale', r.scale ?? 1 / Math.sqrt(headDim), -3e38, 3e38)
  const kvType = choiceArgument('kvType', r.kvType ?? 'f16', ['f16', 'f32'])
  const window = integerArgument('window', r.window ?? 0, 0, mostSize)
  partsOf('heads', heads, kvHeads)
  const rows = partsOf('q', arrayArgument('q', r.q, 'f32', 0).length, heads * headDim)
  const positions = start + rows
  const cacheBytes = kvCacheBytes({ positions, kvHeads, headDim, valueDim, kvType })

  const q = await call.input('q', r.q, 'f32')
  const k = await call.input('k', r.k, 'f32', rows * kvHeads * headDim)
  const v = await call.input('v', r.v, 'f32', rows * kvHeads * valueDim)
  const cache = await call.output('cache', r.cache, 'u8', cacheBytes, { keeps: true })
  const out = await call.output('out', r.out, 'f32', rows * heads * valueDim)
  const places = Uint32Array.from({ length: 2 * rows }, (_, i) => (i % 2 === 0 ? start + i / 2 : 0))
  const pages = Uint32Array.from({ length: Math.ceil(positions / pagePositions) }, (_, i) => i)
  const sinks = r.sinks === undefined ? [] : [await call.input('sinks', exactArgument('sinks', r.sinks, heads), 'f32')]
  const placed = await call.input('rows', places, 'u32')
  const paged = await call.input('pages', pages, 'u32')
  const status = await call.status()

  const shape = { rows, heads, kvHeads, headDim, valueDim, scale, kvType, positions, together: rows > 1, window }
  const { append, parts, scratchBytes } = attentionLaunches({ ...shape, sinks: sinks.length > 0 }, call.facts)
  const partials = await call.scratch(scratchBytes)
  await call.run(append, [k, v, placed, paged, cache.binding, status])
  for (const { attend, merge } of parts) {
    await call.run(attend, [
      q,
      placed,
      paged,
      cache.binding,
      merge ? partials : out.binding,
      status,
      ...(merge ? [] : sinks)
    ])
    if (merge) await call.run(merge, [placed, partials, out.binding, ...sinks])
  }
  return out.array
}
