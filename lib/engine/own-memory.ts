/** What a model takes of a backend's own memory, and of host memory beside it. */
import type { EngineError } from '../errors/index.js'
import { createError, isEngineError } from '../errors/index.js'
import type { ExpertMemory } from '../expert-budget.js'
import { planExperts } from '../expert-budget.js'
import type { Alternative } from '../memory-plan.js'
import type { Plan } from '../model/plan.js'
import type { BackendMemory, GgufTensorInfo, KvType } from '../native.js'

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

/**
 * Who gets what of a backend's own memory. RESOURCE_BUDGET_TOO_SMALL {resourceInfo, alternatives}; GPU_VRAM_EXHAUSTED {device, model, required,
 * available, alternatives}.
 */
export function planOwnMemory(
  tensors: readonly GgufTensorInfo[],
  plan: Plan,
  { model, ...request }: OwnMemoryRequest,
  own: BackendMemory
): ExpertMemory {
  // Weights are read through host memory: no thread of the device holds any.
  const stepBytes = (maxBatchTokens: number): number => own.stepBytes(plan, maxBatchTokens)
  const planned = (memory: number | undefined, available: number): ExpertMemory =>
    planExperts(tensors, plan, { ...request, memory, threads: 0, stepBytes }, available)
  const available = own.available()
  try {
    const memory = planned(request.memory, available)
    const { base, keyValues, arena, experts } = memory
    // Slots are whole blobs, and taken when the model is loaded.
    const required = base + keyValues + arena + experts.certain
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
    const least = leastOf(() => planned(0, available))
    if (least <= available) alternatives.unshift({ change: 'gpuMemory', value: least, required: least })
    throw createError(
      'GPU_VRAM_EXHAUSTED',
      `${own.device}: ${error.message}`,
      {
        device: own.device,
        model,
        required: resourceInfo?.required ?? 0,
        available: resourceInfo?.available ?? null,
        alternatives,
        ...(resourceInfo && { resourceInfo })
      },
      { cause: error }
    )
  }
}

/** What would do, in the words of a backend with memory of its own. */
function smaller({ details }: EngineError): Alternative[] {
  const alternatives = Array.isArray(details.alternatives) ? (details.alternatives as Alternative[]) : []
  return alternatives.map((own) => (own.change === 'memory' ? { ...own, change: 'gpuMemory' } : own))
}

/** The smallest budget with which the model works. */
function leastOf(plan: () => unknown): number {
  try {
    plan()
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
