/** Which TierSet a request gets: its own, else what its latency budget allows, else the model's active one. */
import { solveBudget } from './latency-budget.js'
import type { ModelTiers, Tier } from './model-tiers.js'
import { Narrowing } from './narrowing.js'
import { type MeasuredCosts, TierCosts } from './tier-costs.js'
import type { TierSet, TierSetName, TierSets } from './tier-sets.js'

export interface Choice {
  tierSet: TierSet
  by: 'request' | 'latency-budget' | 'active'
  /** Of a choice by latency budget: the budget, what a token is predicted to take, and whether that is within it. Milliseconds. */
  budgetMs?: number
  predictedMs?: number
  withinBudget?: boolean
}

export interface BudgetCounts {
  /** Requests whose TierSet a latency budget chose. */
  requests: number
  /** Of these, those for which no TierSet was predicted to fit. */
  unmet: number
  /** Of these, those that took longer per token than their budget. */
  overruns: number
}

/** What a request says of its TierSet. */
export interface TierRequest {
  tierSet?: TierSetName | undefined
  latencyBudgetMs?: number | undefined
}

export interface SelectionInfo {
  tiers: readonly Tier[]
  /** The active one. */
  tierSet: { name: string; tiers: readonly string[] }
  /** Every name that a TierSet can be asked for by. */
  tierSets: readonly string[]
  latencyBudgets: BudgetCounts
}

export class TierSelection {
  readonly #model: ModelTiers
  readonly #sets: TierSets
  readonly #costs: TierCosts
  readonly #narrowing = new Narrowing()
  readonly #counts: BudgetCounts = { requests: 0, unmet: 0, overruns: 0 }
  #active: TierSet

  /** Throws what TierSets.activate does for the first TierSet. */
  constructor(model: ModelTiers, sets: TierSets, first: TierSetName) {
    this.#model = model
    this.#sets = sets
    this.#costs = new TierCosts(model.tiers)
    this.#active = sets.activate(first)
  }

  /** The model's tiers, whatever TierSet is active. */
  get model(): ModelTiers {
    return this.#model
  }

  get active(): TierSet {
    return this.#active
  }

  get counts(): BudgetCounts {
    return { ...this.#counts }
  }

  costs(): MeasuredCosts {
    return this.#costs.costs()
  }

  /** Makes another TierSet the active one and returns the one before. Requests keep what they were given. */
  activate(asked: TierSetName): { previous: TierSet; active: TierSet } {
    const previous = this.#active
    this.#active = this.#sets.activate(asked)
    return { previous, active: this.#active }
  }

  /** What a caller sees of it. */
  info(): SelectionInfo {
    const { name, tiers } = this.#active
    return {
      tiers: this.#model.tiers,
      tierSet: { name, tiers },
      tierSets: this.#sets.names(),
      latencyBudgets: this.counts
    }
  }

  /** CONFIG_UNKNOWN_TIER, ROUTING_TOO_FEW_EXPERTS of a request's own TierSet. */
  select({ tierSet, latencyBudgetMs }: TierRequest): Choice {
    if (tierSet !== undefined) return { tierSet: this.#sets.activate(tierSet), by: 'request' }
    if (latencyBudgetMs === undefined) return { tierSet: this.#active, by: 'active' }
    return this.#within(latencyBudgetMs)
  }

  /** A step of one token per sequence took so long; `tiers`: all that its sequences had enabled. */
  observe(tiers: readonly string[], ms: number): void {
    const inOrder = this.#model.names().filter((name) => tiers.includes(name))
    this.#costs.observe(inOrder, ms)
  }

  /** A request has ended with this mean time per token. True where that overran its budget. */
  ended({ tierSet, budgetMs }: Choice, msPerToken: number): boolean {
    if (budgetMs === undefined || !(msPerToken > budgetMs)) return false
    this.#counts.overruns++
    this.#narrowing.overran(tierSet.tiers, budgetMs)
    return true
  }

  #within(budgetMs: number): Choice {
    const { baseMs, tiers } = this.#costs.costs()
    const suffices = (names: readonly string[]) => this.#sets.suffices(names)
    const allowed = (names: readonly string[]) => this.#narrowing.allows(names, budgetMs) && suffices(names)
    // where overruns rule out every TierSet, the least is still better than none
    const solution =
      solveBudget({ budgetMs, baseMs, tiers, feasible: allowed }) ??
      solveBudget({ budgetMs: -1, baseMs, tiers, feasible: suffices })!
    this.#narrowing.count(budgetMs)
    this.#counts.requests++
    if (!solution.withinBudget) this.#counts.unmet++
    const { predictedMs, withinBudget } = solution
    return { tierSet: this.#sets.activate(solution.tiers), by: 'latency-budget', budgetMs, predictedMs, withinBudget }
  }
}
