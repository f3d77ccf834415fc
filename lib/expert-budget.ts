/** How much of a model's memory its experts get: everything, or a budget that the store keeps. */
import { createError } from './errors/index.js'
import type { Alternative, MemoryRequest } from './memory-plan.js'
import { checkMemory, packedBytes, planMemory } from './memory-plan.js'
import type { Plan } from './model/plan.js'
import type { GgufTensorInfo } from './native.js'
import type { PrefixRequest } from './prefix-cache.js'
import { prefixAside, prefixBeside } from './prefix-cache.js'

/** Positions whose KV cache has to fit beside the fewest experts. What of it is not used belongs to the experts meanwhile. */
const reservedPositions = 4096
/** Positions in one page of the KV cache, rows that a packed matrix interleaves, and what a blob's size is a multiple of (csrc). */
const [pagePositions, lanes, blobAlignment, partAlignment] = [64, 16, 4096, 64]
/** What a budget that is chosen without being asked for leaves to others: part of the available memory, and at least so many bytes. */
const [leftPart, leftBytes] = [1 / 16, 256 * 2 ** 20]

export interface ExpertMemory {
  /** `all`: every expert stays in memory. `budget`: as many as fit, the others are read when they are needed. */
  kept: 'all' | 'budget'
  /** Whether the caller gave a budget, or the available memory made one necessary. */
  chosenBy: 'caller' | 'available memory'
  /** Everything that the model may take. */
  memory: number
  /** Weights that always stay, KV cache of the positions that fit for certain, buffers of one step and of the threads that read. */
  base: number
  keyValues: number
  arena: number
  /**
   * Bytes of experts: what they may take while the KV cache is small, what is certain beside a KV cache of `keyValues`, what all of them
   * take, and one of them; and how many there are.
   */
  experts: { budget: number; certain: number; all: number; slot: number; count: number }
  /** Bytes of KV cache beyond which its pages take memory from the experts. */
  keyValuesBeside: number
  /** Bytes of KV cache that are kept for later requests, at most; 0 = none. They are the first to go where something else needs the memory. */
  prefixCache: number
}

export interface BudgetRequest extends MemoryRequest {
  /** Bytes that the model may take; undefined = what is available. */
  memory?: number | undefined
  /** Positions that have to fit where the memory is not given. */
  contextLength: number
  /** The fewest experts that a model works with. Default: one for every thread, and one being read. */
  leastExperts?: number
  /** Undefined: sequences share nothing. */
  prefixCache?: PrefixRequest | undefined
}

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to

/** Bytes of one expert in memory (of the layer where they are largest), as csrc/core/store/expert_layout.cpp lays it out, and how many there are. */
function expertSlots(
  tensors: readonly GgufTensorInfo[],
  plan: Plan
): { slot: number; count: number; inMemory: number } {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  const sources = new Map(plan.tensors.map(({ name, source }) => [name, source ?? name]))
  let [slot, count, inMemory] = [0, 0, 0]
  for (const op of plan.ops) {
    if (op.op !== 'experts') continue
    let blob = 0
    let experts = 0
    for (const name of [op.gate, op.up, op.down]) {
      const tensor = byName.get(sources.get(name) ?? name)
      if (!tensor) continue
      const rows = tensor.shape[1] ?? 1
      experts = tensor.shape[2] ?? 1
      blob += roundUp((tensor.bytes / (rows * experts)) * roundUp(rows, lanes), partAlignment)
      inMemory += packedBytes(tensor)
    }
    slot = Math.max(slot, roundUp(blob, blobAlignment))
    count += experts
  }
  return { slot, count, inMemory }
}

/**
 * What a model's parts get of `memory`, or of what is available. RESOURCE_BUDGET_TOO_SMALL {resourceInfo,
 * alternatives} with the least memory that works; RESOURCE_MEMORY_EXHAUSTED {resourceInfo, alternatives} where nothing was asked for and
 * even the least does not fit.
 */
export function planExperts(
  tensors: readonly GgufTensorInfo[],
  plan: Plan,
  request: BudgetRequest,
  available: number
): ExpertMemory {
  const asked = request.memory !== undefined
  const { slot, count, inMemory } = expertSlots(tensors, plan)
  const positions = roundUp(
    asked ? Math.min(request.contextLength, reservedPositions) : request.contextLength,
    pagePositions
  )
  const { weights, keyValues, arena } = planMemory(tensors, plan, { ...request, contextLength: positions })
  const base = weights - inMemory
  const fixed = base + keyValues + arena
  const all = slot * count
  const { prefixCache } = request
  const made = (
    kept: ExpertMemory['kept'],
    memory: number,
    budget: number,
    beside: number,
    prefixes: number
  ): ExpertMemory => ({
    kept,
    chosenBy: asked ? 'caller' : 'available memory',
    memory,
    base,
    keyValues,
    arena,
    experts: { budget, certain: Math.min(budget, budget + beside - keyValues), all, slot, count },
    keyValuesBeside: beside,
    prefixCache: prefixes
  })
  const fitsWhole = planMemory(tensors, plan, request).required <= available
  if (!asked && (fitsWhole || count === 0)) {
    const { required } = checkMemory(tensors, plan, request, available)
    return made('all', fixed + all, all, Number.MAX_SAFE_INTEGER, prefixBeside(prefixCache, available - required))
  }
  const memory = request.memory ?? available - Math.max(available * leftPart, leftBytes)
  const fewest = Math.min(count, request.leastExperts ?? request.threads + 1)
  const least = fixed + fewest * slot
  if (memory >= least) {
    const aside = prefixAside(prefixCache, memory - least)
    const budget = Math.min(all, Math.floor((memory - base - arena - aside) / slot) * slot)
    const prefixes = prefixCache?.asked ? aside : (prefixCache?.bytes ?? 0)
    return made('budget', memory, budget, Math.floor(memory - base - arena - budget), prefixes)
  }
  if (!asked) checkMemory(tensors, plan, request, available)
  throw createError(
    'RESOURCE_BUDGET_TOO_SMALL',
    `the model needs at least ${least} bytes of memory (weights that always stay ${base}, KV cache of ${positions} positions ${keyValues}, step buffers ${arena}, and ${fewest} experts of ${slot}); it may take ${Math.floor(memory)}`,
    {
      resourceInfo: { required: least, available: Math.floor(memory), current: null, limit: null, unit: 'bytes' },
      alternatives: smaller(tensors, plan, request, memory, least, fixed, slot)
    }
  )
}

/** Settings with which a budget would do. */
function smaller(
  tensors: readonly GgufTensorInfo[],
  plan: Plan,
  request: BudgetRequest,
  memory: number,
  least: number,
  fixed: number,
  slot: number
): Alternative[] {
  const alternatives: Alternative[] = [{ change: 'memory', value: least, required: least }]
  const offer = (change: Alternative['change'], value: string | number, required: number): void => {
    if (required <= memory) alternatives.push({ change, value, required })
  }
  const parts = (changed: Partial<MemoryRequest>): number => {
    const positions = roundUp(
      Math.min(changed.contextLength ?? request.contextLength, reservedPositions),
      pagePositions
    )
    return planMemory(tensors, plan, { ...request, ...changed, contextLength: positions }).required
  }
  const now = parts({})
  offer('contextLength', pagePositions, least - now + parts({ contextLength: pagePositions }))
  if (request.kvType === 'f32') offer('kvType', 'f16', least - now + parts({ kvType: 'f16' }))
  if (request.maxBatchTokens > 32) offer('maxBatchTokens', 32, least - now + parts({ maxBatchTokens: 32 }))
  if (request.threads > 1) offer('threads', 1, fixed + 2 * slot)
  return alternatives
}
