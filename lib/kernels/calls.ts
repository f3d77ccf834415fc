/**
 * How each kernel's request becomes the positional arguments of the native call (csrc/napi/bind_kernels.cpp reads them in this order
 * and checks every type and size), and what the call gives back.
 */
import { createError } from '../errors/index.js'
import { native } from '../native.js'
import { blockOf, packedBytes } from './layout.js'
import type { HserRouting, KernelName, KernelTable, RouteRequest } from './requests.js'
import { scalingArgs } from './rope-scaling.js'

interface PreparedCall<Result> {
  args: readonly unknown[]
  /** The result, given what the native call returned. */
  result: (returned: unknown) => Result
}

type Prepare<Name extends KernelName> = (
  request: KernelTable[Name]['request']
) => PreparedCall<KernelTable[Name]['result']>

const noSeed = new Uint32Array(4)

/** A length for an output to be allocated; nonsense becomes 0 and is refused by the native check with the argument's name. */
const size = (n: number) => (Number.isSafeInteger(n) && n > 0 && n <= 0x7fffffff ? n : 0)

/** A new output. Throws RESOURCE_MEMORY_EXHAUSTED. */
function allocate<Out>(Type: { new (length: number): Out; BYTES_PER_ELEMENT: number }, length: number): Out {
  try {
    return new Type(size(length))
  } catch (cause) {
    const required = size(length) * Type.BYTES_PER_ELEMENT
    const resourceInfo = { required, available: 0, current: null, limit: null, unit: 'bytes' as const }
    const text = `no memory for ${required} bytes of output`
    throw createError('RESOURCE_MEMORY_EXHAUSTED', text, { required, resourceInfo }, { cause })
  }
}

const lineBytes = 64
type NumberArray = Uint8Array | Int32Array

/**
 * New memory for weights, which are read again and again, from the start of a cache line: JavaScript's own begins 16 bytes after one, where
 * every vector that is loaded lies in two lines. Throws RESOURCE_MEMORY_EXHAUSTED.
 */
function allocateLines<Out extends NumberArray>(
  Type: { new (length: number): Out; BYTES_PER_ELEMENT: number },
  length: number
): Out {
  const spare = lineBytes / Type.BYTES_PER_ELEMENT
  const block = allocate(Type, size(length) + spare)
  const skipped = native().bytesToLine(new Uint8Array(block.buffer)) / Type.BYTES_PER_ELEMENT
  return block.subarray(skipped, skipped + size(length)) as Out
}

const floats = (given: Float32Array | undefined, length: number) => given ?? allocate(Float32Array, length)
const words = (given: Uint32Array | undefined, length: number) => given ?? allocate(Uint32Array, length)
const lengthOf = (array: { length: number } | undefined) => array?.length ?? 0

/** The part of `route`'s arguments that the hierarchical form adds. Missing ones are refused by the native check with their names. */
const hserArgs = (hser: HserRouting | undefined): readonly unknown[] => [
  hser?.tierGroups,
  hser?.groupExperts,
  hser?.tierRouter,
  hser?.tierRouterExponent,
  hser?.groupRouter,
  hser?.groupRouterExponent,
  hser?.kTier,
  hser?.kGroup,
  hser?.kExpert,
  hser?.bound ?? 256
]

/** What a route has beside its router. */
const extraArgs = ({ scale = 1, bias, biasExponent = 0, selectionBias, groups }: RouteRequest): readonly unknown[] => [
  scale,
  bias,
  biasExponent,
  selectionBias,
  groups && (groups.count ?? null),
  groups && (groups.used ?? null),
  groups?.score ?? 'max'
]

export const prepare: { [Name in KernelName]: Prepare<Name> } = {
  route: (r) => {
    const tokens = lengthOf(r.positions)
    const ids = r.ids ?? allocate(Int32Array, tokens * r.k)
    const weights = floats(r.weights, tokens * r.k)
    const { form = 'softmax_topk', normalise = false, layer = 0, seed = noSeed, scores } = r
    return {
      args: [
        r.states,
        r.router,
        r.routerExponent,
        r.experts,
        r.k,
        form,
        normalise,
        layer,
        seed,
        r.positions,
        r.enabled,
        r.maskOf,
        ...extraArgs(r),
        ...(form === 'hser' ? hserArgs(r.hser) : []),
        ids,
        weights,
        scores
      ],
      result: () => (scores ? { ids, weights, scores } : { ids, weights })
    }
  },
  dispatch: (r) => {
    const slots = words(r.slots, lengthOf(r.ids))
    const rows = words(r.rows, lengthOf(r.ids))
    const offsets = words(r.offsets, r.experts + 1)
    return { args: [r.ids, r.k, r.experts, offsets, slots, rows], result: () => ({ offsets, slots, rows }) }
  },
  expertMatmul: (r) => {
    const out = floats(r.out, lengthOf(r.slots) * r.gate?.columns)
    const { gate, up, down, activation = 'silu', biases } = r
    return {
      args: [
        r.x,
        r.k,
        r.offsets,
        r.slots,
        gate?.type,
        gate?.rows,
        gate?.columns,
        gate?.data,
        up?.type,
        up?.rows,
        up?.columns,
        up?.data,
        down?.type,
        down?.rows,
        down?.columns,
        down?.data,
        out,
        activation,
        biases?.gate,
        biases?.up,
        biases?.down
      ],
      result: () => out
    }
  },
  combine: (r) => {
    const out = floats(r.out, (lengthOf(r.ids) / r.k) * r.width)
    return {
      args: [r.values, r.ids, r.weights, r.rows, r.k, r.experts, r.width, r.add ?? false, out],
      result: () => out
    }
  },
  allToAllPack: (r) => {
    const out = floats(r.out, lengthOf(r.slots) * r.width)
    const rankRows = words(r.rankRows, r.ranks)
    return { args: [r.x, r.width, r.k, r.offsets, r.slots, r.ranks, out, rankRows], result: () => ({ out, rankRows }) }
  },
  allToAllUnpack: (r) => {
    const out = floats(r.out, lengthOf(r.slots) * r.width)
    return { args: [r.packed, r.width, r.k, r.offsets, r.slots, out], result: () => out }
  },
  rmsNorm: (r) => {
    const out = floats(r.out, lengthOf(r.x))
    return { args: [r.x, r.weight, r.epsilon, out], result: () => out }
  },
  rope: (r) => ({
    args: [
      r.x,
      r.positions,
      r.heads,
      r.headDim,
      r.rotaryDim ?? r.headDim,
      r.base,
      r.pairs ?? 'neox',
      r.divisors,
      ...scalingArgs(r.scaling)
    ],
    result: () => r.x
  }),
  attention: (r) => {
    const { valueDim = r.headDim, scale = 1 / Math.sqrt(r.headDim), kvType = 'f16' } = r
    const out = floats(r.out, (lengthOf(r.q) / r.headDim) * valueDim)
    return {
      args: [
        r.q,
        r.k,
        r.v,
        r.cache,
        r.start,
        r.heads,
        r.kvHeads,
        r.headDim,
        valueDim,
        scale,
        kvType,
        out,
        r.window ?? 0,
        r.sinks
      ],
      result: () => out
    }
  },
  embed: (r) => {
    const out = floats(r.out, lengthOf(r.ids) * r.table?.columns)
    return { args: [r.table?.type, r.table?.rows, r.table?.columns, r.table?.data, r.ids, out], result: () => out }
  },
  logits: (r) => {
    const { weight } = r
    const out = floats(r.out, (lengthOf(r.states) / weight?.columns) * weight?.rows)
    return { args: [r.states, weight?.type, weight?.rows, weight?.columns, weight?.data, out], result: () => out }
  },
  sample: (r) => ({
    args: [
      r.logits,
      r.position,
      r.temperature ?? 0,
      r.topK ?? 0,
      r.topP ?? 1,
      r.minP ?? 0,
      r.repetitionPenalty ?? 1,
      r.seed ?? 0,
      r.topLogprobs ?? -1,
      r.recent,
      r.banned,
      r.allowed
    ],
    result: (returned) => returned as KernelTable['sample']['result']
  }),
  quantize: (r) => {
    const { block, bytes } = blockOf(r.type)
    const out = r.out ?? allocate(Uint8Array, (lengthOf(r.x) / block) * bytes)
    return { args: [r.type, r.x, r.columns, out], result: () => out }
  },
  dequantize: (r) => {
    const { block, bytes } = blockOf(r.type)
    const out = floats(r.out, (lengthOf(r.data) / bytes) * block)
    return { args: [r.type, r.data, r.columns, out], result: () => out }
  }
}

/** Arguments of `pack`: file layout in, kernels' layout out. */
export const preparePack = (
  type: Parameters<typeof blockOf>[0],
  rows: number,
  columns: number,
  experts: number,
  data: Uint8Array
) => {
  const out = allocateLines(Uint8Array, packedBytes(type, rows, columns) * experts)
  return { args: [type, rows, columns, experts, data, out], out }
}

/** Arguments of `packRouter`. */
export const prepareRouter = (weights: Float32Array) => {
  const router = allocateLines(Int32Array, lengthOf(weights))
  return { args: [weights, router], router }
}

/** Arguments of `packSelectionBias`. */
export const prepareSelectionBias = (bias: Float32Array) => {
  const out = allocate(BigInt64Array, lengthOf(bias))
  return { args: [bias, out], out }
}
