/**
 * What an overrun of a latency budget does to later requests: for the next 16 that bring this budget or a smaller one, neither the TierSet
 * that overran nor one that contains it is chosen. Then it is tried again.
 */
import { contains } from './tier-sets.js'

/** Requests that an overrun narrows. */
export const narrowedRequests = 16

interface Overrun {
  tiers: readonly string[]
  budgetMs: number
  left: number
}

export class Narrowing {
  #overruns: Overrun[] = []

  /** A request with this budget and TierSet took longer per token than it may. */
  overran(tiers: readonly string[], budgetMs: number): void {
    this.#overruns = this.#overruns.filter((o) => !(contains(o.tiers, tiers) && o.budgetMs <= budgetMs))
    this.#overruns.push({ tiers, budgetMs, left: narrowedRequests })
  }

  /** Whether a request with this budget may use these tiers. */
  allows(tiers: readonly string[], budgetMs: number): boolean {
    return !this.#overruns.some((o) => budgetMs <= o.budgetMs && contains(tiers, o.tiers))
  }

  /** A request with this budget has had its TierSet chosen. */
  count(budgetMs: number): void {
    for (const overrun of this.#overruns) if (budgetMs <= overrun.budgetMs) overrun.left--
    this.#overruns = this.#overruns.filter(({ left }) => left > 0)
  }
}
