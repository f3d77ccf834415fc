/** What a model takes of a backend's own memory, and of host memory beside it. */
import { createError, isEngineError } from '../errors/index.js'
import type { ExpertMemory } from '../expert-budget.js'
import { planExperts } from '../expert-budget.js'
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

/** Who gets what of a backend's own memory. RESOURCE_BUDGET_TOO_SMALL; GPU_VRAM_EXHAUSTED {device, model, required, available, alternatives}. */
export function planOwnMemory(
  tensors: readonly GgufTensorInfo[],
  plan: Plan,
  { model, ...request }: OwnMemoryRequest,
  own: BackendMemory
): ExpertMemory {
  // Weights are read through host memory: no thread of the device holds any.
  const stepBytes = (maxBatchTokens: number): number => own.stepBytes(plan, maxBatchTokens)
  try {
    return planExperts(tensors, plan, { ...request, threads: 0, stepBytes }, own.available())
  } catch (error) {
    if (!isEngineError(error) || error.code !== 'RESOURCE_MEMORY_EXHAUSTED') throw error
    const { resourceInfo, alternatives } = error.details
    throw createError(
      'GPU_VRAM_EXHAUSTED',
      `${own.device}: ${error.message}`,
      {
        device: own.device,
        model,
        required: resourceInfo?.required ?? 0,
        available: resourceInfo?.available ?? null,
        alternatives: Array.isArray(alternatives) ? alternatives : [],
        ...(resourceInfo && { resourceInfo })
      },
      { cause: error }
    )
  }
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
