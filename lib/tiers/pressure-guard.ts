/** Keeps one model's experts and prefixes within what the machine has while it serves: they shrink before the kernel has to kill. */
import { isEngineError } from '../errors/index.js'
import type { ExpertMemory } from '../expert-budget.js'
import type { NativeModel } from '../native.js'
import { PressureController, type PressureDecision } from './memory-pressure.js'
import { type MemoryReading, watchMemory } from './memory-watch.js'

/** How often the memory is looked at: what a neighbour takes meanwhile must not be more than the reserve. */
const lookMs = 100
/** What is to stay free for everything else: less than that, and experts go. */
const reserveBytes = 64 * 2 ** 20

/** Experts in host memory under a budget: a model's on the CPU, or those beside a device's memory. */
export interface GuardedExperts {
  expertStats(): { residentBytes: number; limitBytes: number } | undefined
  setExpertBudget(bytes: number): Promise<void>
  /** Undefined where no prefixes are kept. */
  prefixStats?(): object | undefined
  /** Bytes of cached prefixes that were given up, of so many that were asked for. */
  evictPrefixes?(bytes: number): number
}

export interface GuardedModel {
  native: GuardedExperts
  experts: ExpertMemory['experts']
  /** Threads that compute: each needs an expert, and one is in flight. */
  workers: number
  onChange(decision: PressureDecision & { previous: number }): void
  /** Calls `look` now and then, until the function that it returns is called. */
  watch?: (everyMs: number, look: (reading: MemoryReading) => void) => () => void
}

/** The budget that was reached: pins, and a full KV cache, may leave less to take than was wanted. */
async function reach(native: GuardedModel['native'], budget: number, previous: number): Promise<number> {
  try {
    await native.setExpertBudget(budget)
    return budget
  } catch (error) {
    const least =
      isEngineError(error) && error.code === 'RESOURCE_BUDGET_TOO_SMALL' ? error.details.required : undefined
    if (typeof least !== 'number' || least >= previous || least <= budget) return previous
    return reach(native, least, previous)
  }
}

/** Experts that a model keeps in host memory beside those in a device's. */
export function hostExperts({ hostTier }: NativeModel): GuardedExperts {
  return {
    expertStats: () => {
      const stats = hostTier?.stats()
      return stats && { residentBytes: stats.residentBytes, limitBytes: stats.budgetBytes }
    },
    setExpertBudget: async (bytes) => hostTier?.setBudget(bytes)
  }
}

/** What is kept for requests that may come goes before what those under way use. Gives the bytes that are free again. */
function evictFor(native: GuardedExperts, available: number): number {
  return available < reserveBytes ? (native.evictPrefixes?.(reserveBytes - available) ?? 0) : 0
}

/** Watches until the function that it returns is called. Undefined where all that the model has stays in memory anyway. */
export function guardMemory({
  native,
  experts,
  workers,
  onChange,
  watch = watchMemory
}: GuardedModel): (() => void) | undefined {
  if (!native.expertStats()) {
    return native.prefixStats?.() && watch(lookMs, ({ available }) => void evictFor(native, available))
  }
  const { slot, budget, certain } = experts
  const controller = new PressureController({
    asked: budget,
    // A full KV cache takes its part of the budget too.
    least: (Math.min(workers + 1, experts.count) + Math.ceil(Math.max(0, budget - certain) / slot)) * slot,
    slot,
    reserve: reserveBytes
  })
  let ended = false
  let changing = false
  const stop = watch(lookMs, ({ at, available, stall }) => {
    const stats = changing ? undefined : native.expertStats()
    if (!stats) return
    const known = controller.budget
    controller.settle(stats.limitBytes)
    const previous = controller.budget
    if (previous < known) onChange({ budget: previous, previous: known, reason: 'allocation' })
    const decision = controller.observe({
      at,
      available: available + evictFor(native, available),
      stall,
      resident: stats.residentBytes
    })
    if (!decision) return
    changing = true
    reach(native, decision.budget, previous)
      .then((budget) => {
        controller.settle(budget)
        if (!ended && budget !== previous) onChange({ ...decision, budget, previous })
      })
      .finally(() => {
        changing = false
      })
  })
  return () => {
    ended = true
    stop()
  }
}
