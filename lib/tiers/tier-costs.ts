/**
 * What enabling a tier costs, learnt from measured steps. A step's time per token is taken as a base and a part per enabled tier; what the
 * sum misses of a measurement is spread evenly over its parts, by a weight that begins at 1 for a TierSet's first step and falls to 1/16: a
 * running average that also tells the costs of TierSets never seen. Depends on the measurements and their order alone.
 */
import type { TierCost } from './latency-budget.js'

/** A measurement counts at least this much, so that old ones fade. */
const leastWeight = 1 / 16

export interface MeasuredCosts {
  baseMs: number
  /** In the model's order. */
  tiers: TierCost[]
  /** Steps measured. */
  samples: number
}

export class TierCosts {
  readonly #value: ReadonlyMap<string, number>
  readonly #ms = new Map<string, number>()
  /** Measurements by TierSet. */
  readonly #seen = new Map<string, number>()
  #base = 0
  #samples = 0

  /** `tiers`: in the model's order. */
  constructor(tiers: readonly { name: string; bytes: number }[]) {
    this.#value = new Map(tiers.map(({ name, bytes }) => [name, bytes]))
  }

  /** A step of one token per sequence with these tiers enabled (of several sequences: all of theirs) took so long. */
  observe(tiers: readonly string[], ms: number): void {
    if (!Number.isFinite(ms) || ms < 0 || tiers.length === 0) return
    const key = tiers.join('+')
    const seen = (this.#seen.get(key) ?? 0) + 1
    this.#seen.set(key, seen)
    this.#samples++
    const predicted = tiers.reduce((sum, name) => sum + (this.#ms.get(name) ?? 0), this.#base)
    const part = ((ms - predicted) * Math.max(1 / seen, leastWeight)) / (tiers.length + 1)
    this.#base = Math.max(0, this.#base + part)
    for (const name of tiers) this.#ms.set(name, Math.max(0, (this.#ms.get(name) ?? 0) + part))
  }

  /** A tier that was never measured is taken to cost what the dearest measured one does. */
  costs(): MeasuredCosts {
    const dearest = Math.max(0, ...this.#ms.values())
    const tiers = [...this.#value].map(([name, value]) => ({ name, ms: this.#ms.get(name) ?? dearest, value }))
    return { baseMs: this.#base, tiers, samples: this.#samples }
  }
}
