/** Launches from states to what attention makes of them, with the buffers that they are bound to. */
import type { OpOf } from '../../../model/plan.js'
import type { KvType } from '../../../native.js'
import type { AttentionLaunches, AttentionShape } from '../launches/attention.js'
import { attentionLaunches } from '../launches/attention.js'
import { headsLaunch, writesCache } from '../launches/heads.js'
import { multiply } from './products.js'
import type { HeadsOp, StepOp } from './step-ops.js'
import type { Run, ShapeKey, ShapeParts } from './step-shape.js'
import type { GpuWeight } from './weights.js'

/** Of one attention: what it is bound to beside the plan's buffers. */
export interface AttentionBuffers {
  places: GPUBufferBinding
  pages: GPUBufferBinding
  cache: GPUBufferBinding
  status: GPUBufferBinding
  /** Memory for partial sums, of at least `partialBytes`. */
  partials: GPUBufferBinding
}

/** `runFar`: a launch whose depth is for the farthest position that a step may reach. */
export interface AttentionRuns {
  run: Run
  runFar: Run
}

const launchesOf = (
  { device, arena }: ShapeParts,
  { rows, positions, together }: ShapeKey,
  { heads, kvHeads, headDim, valueDim, scale, window, sinks }: OpOf<'attention'>,
  kvType: KvType,
  more: Pick<AttentionShape, 'values' | 'quantise'> = {}
): AttentionLaunches => {
  const { partialBytes: scratchLimit } = arena
  const shape = { rows, heads, kvHeads, headDim, valueDim, scale, kvType, positions, together, scratchLimit, ...more }
  return attentionLaunches({ ...shape, window: window ?? 0, sinks: sinks !== undefined }, device.facts)
}

/** Bytes that an operation needs for partial sums. */
export const partialBytes = (parts: ShapeParts, key: ShapeKey, op: StepOp['op'], kvType: KvType): number => {
  const of = op.op === 'heads' ? op.attention : op
  return of.op === 'attention' ? launchesOf(parts, key, of, kvType).scratchBytes : 0
}

/** Attention of queries whose keys and values are in the cache. Gives whether it has quantised its rows. */
function attend(
  { arena, weights }: ShapeParts,
  op: OpOf<'attention'>,
  { parts }: AttentionLaunches,
  { places, pages, cache, status, partials }: AttentionBuffers,
  { run, runFar }: AttentionRuns
): boolean {
  const [q, out] = [arena.buffer(op.q), arena.buffer(op.out)]
  const quantises = parts.every(({ merge }) => merge?.defines.QUANTISE === true)
  const sinks = op.sinks === undefined ? [] : [{ buffer: weights.get(op.sinks).buffer }]
  for (const { attend, merge } of parts) {
    runFar(attend, [q, places, pages, cache, merge ? partials : out, status, ...(merge ? [] : sinks)])
    const blocks = quantises ? [arena.get('activations'), status] : []
    if (merge) run(merge, [places, partials, out, ...blocks, ...sinks])
  }
  return quantises
}

/** Puts keys and values into the cache, then attention over it. */
export function attention(
  parts: ShapeParts,
  key: ShapeKey,
  op: OpOf<'attention'>,
  kvType: KvType,
  buffers: AttentionBuffers,
  runs: AttentionRuns
): void {
  const { arena } = parts
  const { places, pages, cache, status } = buffers
  // values that are the first floats of their keys lie as far apart as these
  const values = op.v === op.k && { values: { stride: op.headDim, offset: 0 } }
  const launches = launchesOf(parts, key, op, kvType, { ...values })
  runs.run(launches.append, [arena.buffer(op.k), arena.buffer(op.v), places, pages, cache, status])
  attend(parts, op, launches, buffers, runs)
}

/**
 * The whole of a layer's attention from its states on, which are quantised where a matrix takes them so; `table`: cosines and sines of the
 * rotation; `wanted`: what it writes is taken quantised. Gives whether it is.
 */
export function heads(
  parts: ShapeParts,
  key: ShapeKey,
  { product, norm, rope, attention: op, place }: HeadsOp,
  matrices: readonly GpuWeight[],
  kvType: KvType,
  buffers: AttentionBuffers & { table: GPUBufferBinding },
  wanted: boolean,
  runs: AttentionRuns
): boolean {
  const { device, arena, weights } = parts
  const { rows, together } = key
  const { places, pages, cache, table, status } = buffers
  const x = arena.get('heads')
  multiply(parts, { input: arena.buffer(product.in), matrices, out: x, rows }, runs.run)

  const straight = !together && writesCache(kvType, op.valueDim)
  const shape = { rows, heads: op.heads, kvHeads: op.kvHeads, headDim: op.headDim, valueDim: op.valueDim, place, norm }
  const { rotaryDim, pairs } = rope
  const launch = headsLaunch({ ...shape, rotaryDim, pairs, cache: straight ? kvType : undefined }, device.facts)
  const keys = straight ? [places, pages, cache] : [arena.buffer(op.k)]
  const norms = norm ? [norm.queries, norm.keys].map((name) => ({ buffer: weights.get(name).buffer })) : []
  runs.run(launch, [x, table, arena.buffer(op.q), status, ...keys, ...norms])

  const values = { stride: place.stride, offset: place.v }
  const launches = launchesOf(parts, key, op, kvType, { values, quantise: wanted })
  if (!straight) runs.run(launches.append, [arena.buffer(op.k), x, places, pages, cache, status])
  return attend(parts, op, launches, buffers, runs)
}
