/** What a model takes of a backend's own memory, and of host memory beside it. */
import type { EngineError } from '../errors/index.js'
import { createError, isEngineError } from '../errors/index.js'
import type { ExpertMemory } from '../expert-budget.js'
import { planExperts } from '../expert-budget.js'
import type { Alternative } from '../memory-plan.js'
import type { Plan } from '../model/plan.js'
import type { BackendMemory, GgufTensorInfo, KvType } from '../native.js'

/** Slots without which no layer is computed: one in use, and one being filled (csrc/core/store/hot_experts.cpp). */
const leastExperts = 2
/** Experts that a load may have read and not yet brought to the backend's memory, beside one for each thread. */
const readAhead = 8
/** What experts in host memory leave to others: part of what is available, and at least so many bytes. */
const [leftPart, leftBytes] = [1 / 16, 256 * 2 ** 20]

export interface OwnMemoryRequest {
  model: string
  kvType: KvType
  contextLength: number
  maxBatchTokens: number
  /** Bytes that the model may take; undefined = what is available. */
  memory: number | undefined
}

/** What is planned: a model's own figures, and the memory that it is planned for. */
interface Planned {
  tensors: readonly GgufTensorInfo[]
  plan: Plan
  request: OwnMemoryRequest
  own: BackendMemory
}

/** Weights are read through host memory: no thread of the device holds any. */
const planWith = ({ tensors, plan, request, own }: Planned, memory: number | undefined, available: number) => {
  const stepBytes = (maxBatchTokens: number): number => own.stepBytes(plan, maxBatchTokens)
  return planExperts(tensors, plan, { ...request, memory, threads: 0, leastExperts, stepBytes }, available)
}

/** What a load takes: slots are whole blobs, and taken then. */
const takenBytes = ({ base, keyValues, arena, experts }: ExpertMemory): number =>
  base + keyValues + arena + experts.certain

/**
 * Who gets what of a backend's own memory. RESOURCE_BUDGET_TOO_SMALL {resourceInfo, alternatives}; GPU_VRAM_EXHAUSTED {device, model, required,
 * available, alternatives}.
 */
export function planOwnMemory(
  tensors: readonly GgufTensorInfo[],
  plan: Plan,
  request: OwnMemoryRequest,
  own: BackendMemory
): ExpertMemory {
  const asked = { tensors, plan, request, own }
  const available = own.available()
  try {
    const memory = planWith(asked, request.memory, available)
    const required = takenBytes(memory)
    if (required <= available) return memory
    const text = `the model would take ${required} bytes of memory, available are ${available}`
    throw createError('RESOURCE_MEMORY_EXHAUSTED', text, {
      resourceInfo: { required, available, current: null, limit: null, unit: 'bytes' }
    })
  } catch (error) {
    if (!isEngineError(error)) throw error
    const { resourceInfo } = error.details
    const alternatives = smaller(error)
    if (error.code === 'RESOURCE_BUDGET_TOO_SMALL') {
      throw createError(error.code, error.message, { ...error.details, alternatives }, { cause: error })
    }
    if (error.code !== 'RESOURCE_MEMORY_EXHAUSTED') throw error
    const least = leastOf(asked, available)
    if (least <= available) alternatives.unshift({ change: 'gpuMemory', value: least, required: least })
    throw exhausted(asked, error, error.message, resourceInfo?.required ?? 0, available, alternatives)
  }
}

/**
 * What a load failed with whose memory was planned, once it holds nothing any more. Where the device refused a part of it that is
 * GPU_VRAM_EXHAUSTED {device, model, required, available, alternatives} of the whole model, as planOwnMemory has it; else the error itself.
 */
export function refusedMemory(
  error: unknown,
  memory: ExpertMemory,
  tensors: readonly GgufTensorInfo[],
  plan: Plan,
  request: OwnMemoryRequest,
  own: BackendMemory
): unknown {
  if (!isEngineError(error) || error.code !== 'GPU_VRAM_EXHAUSTED') return error
  const asked = { tensors, plan, request, own }
  const { resourceInfo } = error.details
  const required = takenBytes(memory)
  const free = own.available()
  const least = leastOf(asked, free)
  const offered: Alternative = { change: 'gpuMemory', value: least, required: least }
  const answer = (available: number, fits: boolean) => {
    const text = `the model takes ${required} bytes of memory, it had no more than ${available}`
    return exhausted(asked, error, text, required, available, fits ? [offered] : [])
  }
  // Others have taken it meanwhile, or the device says what it has.
  if (free < required || !resourceInfo || resourceInfo.current === null) return answer(free, least <= free)
  // What it had given, beside which one more part was too much, is all that is known of what it has.
  const given = Math.max(0, resourceInfo.current - own.counts().memoryBytes)
  return answer(given, least < given + (resourceInfo.required ?? 0))
}

function exhausted(
  { request: { model }, own: { device } }: Planned,
  cause: EngineError,
  text: string,
  required: number,
  available: number,
  alternatives: Alternative[]
): EngineError {
  const resourceInfo = { required, available, current: null, limit: null, unit: 'bytes' as const }
  const details = { device, model, required, available, alternatives, resourceInfo }
  return createError('GPU_VRAM_EXHAUSTED', `${device}: ${text}`, details, { cause })
}

/** What would do, in the words of a backend with memory of its own. */
function smaller({ details }: EngineError): Alternative[] {
  const alternatives = Array.isArray(details.alternatives) ? (details.alternatives as Alternative[]) : []
  return alternatives.map((own) => (own.change === 'memory' ? { ...own, change: 'gpuMemory' } : own))
}

/** The smallest budget with which the model works. */
function leastOf(asked: Planned, available: number): number {
  try {
    planWith(asked, 0, available)
  } catch (error) {
    if (isEngineError(error) && error.code === 'RESOURCE_BUDGET_TOO_SMALL')
      return error.details.resourceInfo?.required ?? 0
    throw error
  }
  return 0
}

/**
 * Bytes of host memory for experts beside those of the backend: all of them where that fits, or, where every one is in the backend's memory,
 * what a load reads them through.
 */
export function warmMemory(
  { kept, experts }: ExpertMemory,
  offered: number | undefined,
  available: number,
  threads: number
): number {
  const most = kept === 'all' ? Math.min(experts.all, (threads + 1 + readAhead) * experts.slot) : experts.all
  return Math.floor(Math.min(most, offered ?? Math.max(0, available - Math.max(available * leftPart, leftBytes))))
}
