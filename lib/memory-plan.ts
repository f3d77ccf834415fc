/** How much memory a model will take, checked before anything is read; what would fit when it does not. */
import { createError } from './errors/index.js'
import type { Plan } from './model/plan.js'
import type { GgufTensorInfo, KvType } from './native.js'

export interface MemoryRequest {
  kvType: KvType
  /** Positions of the one sequence that must fit beside the weights. */
  contextLength: number
  maxBatchTokens: number
}

export interface MemoryPlan {
  weights: number
  /** KV cache of one sequence. */
  keyValues: number
  /** Buffers of one step. */
  arena: number
  required: number
}

/** Something smaller that fits: the option to change, its value, and the bytes it then takes. */
export interface Alternative {
  change: 'contextLength' | 'kvType' | 'maxBatchTokens' | 'weightType' | 'memory' | 'threads'
  value: string | number
  required: number
}

const bytesPerValue: Record<KvType, number> = { f16: 2, f32: 4 }
/** Bytes per weight of the types that `tiered-moe quantize` writes: blocks of 32 with a 2-byte scale. */
const quantizedBytes = { Q8_0: 34 / 32, Q4_0: 18 / 32 } as const

/** Bytes of the KV cache per position. */
function keyValueBytes(plan: Plan, kvType: KvType): number {
  let values = 0
  for (const op of plan.ops) if (op.op === 'attention') values += op.kvHeads * (op.headDim + op.valueDim)
  return values * bytesPerValue[kvType]
}

/** Bytes of one step's buffers, as csrc/core/arena.cpp has them (little that depends on the number of threads is left out). */
function arenaBytes(plan: Plan, maxBatchTokens: number): number {
  const shapes = new Map(plan.tensors.map(({ name, shape }) => [name, shape]))
  const widths = Object.values(plan.buffers)
  const widest = Math.max(...widths)
  let [k, experts, hidden] = [0, 0, 0]
  for (const op of plan.ops) {
    if (op.op === 'route') {
      k = Math.max(k, op.k)
      const { tierGroups = [], groupExperts = [] } = op.hser ?? {}
      experts = Math.max(experts, (shapes.get(op.weight)?.[1] ?? 0) + tierGroups.length + groupExperts.length)
    } else if (op.op === 'experts') hidden = Math.max(hidden, shapes.get(op.gate)?.[1] ?? 0)
  }
  // Activations as 8-bit blocks with their scales and sums take 1.5 bytes a value.
  const quantised = 1.5 / 4
  const perToken = widths.reduce((sum, width) => sum + width, 0) + widest * (k + 1 + 2 * quantised)
  const perExpert = k * hidden * (2 + quantised) + 3 * experts + 4 * k
  const logitRows = 32
  return 4 * Math.ceil(maxBatchTokens * (perToken + perExpert) + logitRows * plan.vocab)
}

/** Estimates from the file's header; weights take about as much in memory as in the file. */
export function planMemory(tensors: readonly GgufTensorInfo[], plan: Plan, request: MemoryRequest): MemoryPlan {
  const bytesOf = new Map(tensors.map(({ name, bytes }) => [name, bytes]))
  // A tensor that serves twice (tied embeddings) is kept in two layouts.
  const weights = plan.tensors.reduce((sum, { name, source }) => sum + (bytesOf.get(source ?? name) ?? 0), 0)
  const keyValues = keyValueBytes(plan, request.kvType) * request.contextLength
  const arena = arenaBytes(plan, request.maxBatchTokens)
  return { weights, keyValues, arena, required: weights + keyValues + arena }
}

function findAlternatives(
  tensors: readonly GgufTensorInfo[],
  plan: Plan,
  request: MemoryRequest,
  needed: MemoryPlan,
  available: number
): Alternative[] {
  const alternatives: Alternative[] = []
  const offer = (change: Alternative['change'], value: string | number, required: number): void => {
    if (required <= available) alternatives.push({ change, value, required })
  }
  const perPosition = keyValueBytes(plan, request.kvType)
  const positions = Math.floor((available - needed.weights - needed.arena) / perPosition)
  if (positions >= 1 && positions < request.contextLength) {
    offer('contextLength', positions, needed.weights + needed.arena + positions * perPosition)
  }
  if (request.kvType === 'f32') offer('kvType', 'f16', needed.required - needed.keyValues / 2)
  const smallBatch = 32
  if (request.maxBatchTokens > smallBatch) {
    offer('maxBatchTokens', smallBatch, needed.required - needed.arena + arenaBytes(plan, smallBatch))
  }
  const elements = tensors.reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0)
  for (const [type, bytes] of Object.entries(quantizedBytes)) {
    const weights = Math.ceil(elements * bytes)
    if (weights < needed.weights) offer('weightType', type, needed.required - needed.weights + weights)
  }
  return alternatives
}

/** Throws RESOURCE_MEMORY_EXHAUSTED {resourceInfo, alternatives, weights, keyValues, arena} when it does not fit. Bytes throughout. */
export function checkMemory(
  tensors: readonly GgufTensorInfo[],
  plan: Plan,
  request: MemoryRequest,
  available: number
): MemoryPlan {
  const needed = planMemory(tensors, plan, request)
  if (needed.required <= available) return needed
  const { required, weights, keyValues, arena } = needed
  const parts = `weights ${weights}, KV cache of ${request.contextLength} positions ${keyValues}, step buffers ${arena}`
  throw createError(
    'RESOURCE_MEMORY_EXHAUSTED',
    `the model needs ${required} bytes of memory (${parts}), available are ${available}`,
    {
      resourceInfo: { required, available, current: null, limit: null, unit: 'bytes' },
      alternatives: findAlternatives(tensors, plan, request, needed, available),
      weights,
      keyValues,
      arena
    }
  )
}
