/** How much memory a model will take, checked before anything is read; what would fit when it does not. */
import { createError } from './errors/index.js'
import { isReadWhole, type Plan, type PlanTensor } from './model/plan.js'
import type { GgufTensorInfo, KvType } from './native.js'

export interface MemoryRequest {
  kvType: KvType
  /** Positions of the one sequence that must fit beside the weights. */
  contextLength: number
  maxBatchTokens: number
  /** That compute, and that read experts of a GGUF file (default 0). */
  threads: number
  readers?: number | undefined
  /** Most that the buffers of a step take (NativeAddon.stepBytes). */
  stepBytes(maxBatchTokens: number, threads: number): number
}

export interface MemoryPlan {
  weights: number
  /** KV cache of one sequence. */
  keyValues: number
  /** Buffers of one step, and what threads hold that read weights. */
  arena: number
  required: number
}

/** Something smaller that fits: the option to change, its value, and the bytes it then takes. */
export interface Alternative {
  change: 'contextLength' | 'kvType' | 'maxBatchTokens' | 'weightType' | 'memory' | 'gpuMemory' | 'threads'
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

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to
/** Bytes that a read of weights takes about, rows that a packed matrix interleaves, and what blocks of memory and of files are multiples of (csrc). */
const [readBytes, lanes, memoryBlock, fileBlock] = [2 ** 20, 16, 64, 4096]

/** Bytes of a packed matrix in memory, or of all experts' together. */
export function packedBytes({ shape: [, rows = 1], bytes }: Pick<GgufTensorInfo, 'shape' | 'bytes'>): number {
  return roundUp((bytes / rows) * lanes * Math.ceil(rows / lanes), memoryBlock)
}

/** Bytes of a weight as folders of safetensors files have it. */
const storedBytes: Readonly<Record<string, number>> = { F32: 4, F16: 2, BF16: 2, MXFP4: 17 / 32 }

/**
 * What a thread holds that puts rows together or converts them as it reads them (csrc/core/gathered_files.cpp): rows as they are stored, where they
 * are apart what of the file has them and their parts too, and two as floats.
 */
function gatheringBytes({ shape: [columns = 1], type, stored, apart }: GgufTensorInfo): number {
  if (stored === undefined && !apart) return 0
  const rows = Math.max(columns * storedBytes[stored ?? type]!, readBytes)
  return (apart ? 3 : 1) * rows + 2 * columns * 4
}

const elements = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1)

/** What is kept of a file's tensor: all of it, or what is cut out of it for each head. */
function keptPart({ shape, cut }: PlanTensor, tensor: GgufTensorInfo): Pick<GgufTensorInfo, 'shape' | 'bytes'> {
  if (!cut) return tensor
  return { shape, bytes: elements(shape) * (cut.transposed ? 4 : tensor.bytes / elements(tensor.shape)) }
}

/** Bytes of a tensor in memory, as csrc/core/tensor_loader.cpp keeps it, and what reading it takes beside them. */
function tensorBytes(wanted: PlanTensor, tensor: GgufTensorInfo): { kept: number; reading: number } {
  const { role, cut } = wanted
  const { shape, bytes } = keptPart(wanted, tensor)
  const [columns = 1, rows = 1, experts = 1] = shape
  const gathering = gatheringBytes(tensor)
  if (role === 'embedding') return { kept: roundUp(bytes, memoryBlock), reading: gathering }
  if (isReadWhole(role)) {
    const floats = roundUp(columns * rows * 4, memoryBlock)
    return { kept: role === 'selectionBias' ? 2 * floats : floats, reading: bytes + floats + gathering }
  }
  const group = (bytes / (rows * experts)) * lanes
  const turning = cut?.transposed ? 2 * roundUp((tensor.shape[0] ?? 1) * 4, memoryBlock) : 0
  return {
    kept: packedBytes({ shape, bytes }),
    reading: Math.min(bytes / experts, Math.max(group, readBytes)) + turning + gathering
  }
}

/** What one thread holds that reads experts of a GGUF file: a piece of a matrix, as csrc/core/store/gguf_source.cpp cuts it. */
function pieceBytes(tensor: GgufTensorInfo): number {
  const { shape, bytes, stored, apart } = tensor
  const [columns = 1, rows = 1, experts = 1] = shape
  const row = bytes / (rows * experts)
  const storedRow = stored === undefined ? row : columns * storedBytes[stored]!
  const groups = Math.ceil(rows / lanes)
  const pieces = Math.min(groups, Math.max(1, Math.floor((rows * storedRow + readBytes / 2) / readBytes)))
  const piece = Math.ceil(groups / pieces) * lanes
  if (apart) return piece * row + gatheringBytes(tensor)
  const converted = stored === undefined ? 0 : row + (4 * columns) / lanes
  return piece * (storedRow + converted) + 3 * fileBlock
}

/** Upper bounds, from the file's header: the addon's live bytes stay within them. */
export function planMemory(tensors: readonly GgufTensorInfo[], plan: Plan, request: MemoryRequest): MemoryPlan {
  const { kvType, contextLength, maxBatchTokens, threads, readers = 0, stepBytes } = request
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  let [weights, piece, chunk, floats] = [0, 0, 0, 0]
  for (const wanted of plan.tensors) {
    // A tensor that serves twice (tied embeddings) is kept in two layouts.
    const tensor = byName.get(wanted.source ?? wanted.name)
    if (!tensor) continue
    const { kept, reading } = tensorBytes(wanted, tensor)
    weights += kept
    if (wanted.role === 'experts') piece = Math.max(piece, pieceBytes(tensor))
    if (isReadWhole(wanted.role)) floats = Math.max(floats, reading)
    else chunk = Math.max(chunk, reading)
  }
  const keyValues = keyValueBytes(plan, kvType) * contextLength
  const arena = stepBytes(maxBatchTokens, threads) + roundUp(readers * piece + threads * chunk + floats, memoryBlock)
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
    const { stepBytes, threads, maxBatchTokens } = request
    const saved = stepBytes(maxBatchTokens, threads) - stepBytes(smallBatch, threads)
    offer('maxBatchTokens', smallBatch, needed.required - saved)
  }
  const weightCount = tensors.reduce((sum, { shape }) => sum + elements(shape), 0)
  for (const [type, bytes] of Object.entries(quantizedBytes)) {
    const weights = Math.ceil(weightCount * bytes)
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
