/** Policies compared on a trace: what each would have kept in memory, and how far from the best possible that is. */
import type { CacheSimulation, NativeTrace, SimulatedPolicy } from '../native.js'
import { native } from '../native.js'

/**
 * Fixed mixes that the default is compared with: weights of the rates of use over 1, 4, 16, 128 and 1024 turns of the layer,
 * and a constant. The same for every layer.
 */
export const fixedMixes: Readonly<Record<string, readonly number[]>> = {
  'last use': [1, 0, 0, 0, 0, 0],
  '4 turns': [0, 1, 0, 0, 0, 0],
  '16 turns': [0, 0, 1, 0, 0, 0],
  '128 turns': [0, 0, 0, 1, 0, 0],
  '1024 turns': [0, 0, 0, 0, 1, 0],
  'last use and 128 turns': [0.2, 0, 0, 0.8, 0, 0],
  '4 and 128 turns': [0, 0.3, 0, 0.7, 0, 0],
  '16 and 1024 turns': [0, 0, 0.5, 0, 0.5, 0],
  'all turns': [0.2, 0.2, 0.2, 0.2, 0.2, 0]
}

export interface PolicyResult extends CacheSimulation {
  policy: SimulatedPolicy
  /** Name of a fixed mix. */
  mix?: string
  /** Hits per use, 0 to 1. */
  hitRate: number
  /** Hits per hit of Belady's optimum, 0 to 1. */
  ofOptimum: number
}

export interface PolicyComparison {
  slots: number
  uses: number
  optimum: PolicyResult
  /** adaptive, lru, lfu, arc. */
  policies: PolicyResult[]
  /** In the order of `fixedMixes`. */
  mixes: PolicyResult[]
}

/** `seed` breaks ties. VALIDATION_ERROR where the trace has a wrong record. */
export async function comparePolicies(
  trace: NativeTrace,
  slots: number,
  options: { seed?: number; mixes?: boolean } = {}
): Promise<PolicyComparison> {
  const { simulateCache } = native()
  const run = async (policy: SimulatedPolicy, mix?: string): Promise<PolicyResult> => {
    const weights = mix === undefined ? {} : { mix: Float64Array.from(fixedMixes[mix]!) }
    const result = await simulateCache(trace, { slots, policy, seed: options.seed ?? 0, decisions: false, ...weights })
    const named = mix === undefined ? {} : { mix }
    return { ...result, policy, ...named, hitRate: result.uses ? result.hits / result.uses : 1, ofOptimum: 1 }
  }
  const policies: SimulatedPolicy[] = ['adaptive', 'lru', 'lfu', 'arc']
  const [optimum, ...others] = await Promise.all([
    run('optimum'),
    ...policies.map((policy) => run(policy)),
    ...(options.mixes === false ? [] : Object.keys(fixedMixes).map((name) => run('mix', name)))
  ])
  for (const result of others) result.ofOptimum = optimum.hits ? result.hits / optimum.hits : 1
  return {
    slots,
    uses: optimum.uses,
    optimum,
    policies: others.slice(0, policies.length),
    mixes: others.slice(policies.length)
  }
}
