/** Which TierSet a request gets: its own, else what its latency budget or the model's allows, else the model's active one. */
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

/** In place of a TierSet: the one that is predicted to hold so many milliseconds a token. */
export interface LatencyBudget {
  latencyBudgetMs: number
}

export const isLatencyBudget = (asked: TierSetName | LatencyBudget): asked is LatencyBudget =>
  typeof asked === 'object' && 'latencyBudgetMs' in asked

/** What a request says of its TierSet. */
export interface TierRequest {
  tierSet?: TierSetName | undefined
  latencyBudgetMs?: number | undefined
}

export interface SelectionInfo {
  tiers: readonly Tier[]
  /** The active one. */
  tierSet: { name: string; tiers: readonly string[] }
  /** By which each request's TierSet is chosen instead, where one was loaded with or activated. Milliseconds per token. */
  latencyBudgetMs?: number
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
  /** Of requests that do not say. */
  #budgetMs: number | undefined

  /** Throws what TierSets.activate does for the first TierSet. */
  constructor(model: ModelTiers, sets: TierSets, first: TierSetName | LatencyBudget) {
    this.#model = model
    this.#sets = sets
    this.#costs = new TierCosts(model.tiers)
    const { tierSet, budgetMs } = this.#named(first)
    this.#active = tierSet
    this.#budgetMs = budgetMs
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

  /**
   * Makes another TierSet the active one and returns the one before; by a latency budget, the one that fits now, and later requests that do not
   * say each get what fits then. Requests keep what they were given.
   */
  activate(asked: TierSetName | LatencyBudget): { previous: TierSet; choice: Choice } {
    const previous = this.#active
    const choice = this.#named(asked)
    this.#active = choice.tierSet
    this.#budgetMs = choice.budgetMs
    return { previous, choice }
  }

  /** What a caller sees of it. */
  info(): SelectionInfo {
    const { name, tiers } = this.#active
    return {
      tiers: this.#model.tiers,
      tierSet: { name, tiers },
      ...(this.#budgetMs !== undefined && { latencyBudgetMs: this.#budgetMs }),
      tierSets: this.#sets.names(),
      latencyBudgets: this.counts
    }
  }

  /** CONFIG_UNKNOWN_TIER, ROUTING_TOO_FEW_EXPERTS of a request's own TierSet. */
  select({ tierSet, latencyBudgetMs = this.#budgetMs }: TierRequest): Choice {
    if (tierSet !== undefined) return this.#named(tierSet)
    if (latencyBudgetMs === undefined) return { tierSet: this.#active, by: 'active' }
    const choice = this.#within(latencyBudgetMs)
    this.#narrowing.count(latencyBudgetMs)
    this.#counts.requests++
    if (!choice.withinBudget) this.#counts.unmet++
    return choice
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

  #named(asked: TierSetName | LatencyBudget): Choice {
    if (isLatencyBudget(asked)) return this.#within(asked.latencyBudgetMs)
    return { tierSet: this.#sets.activate(asked), by: 'request' }
  }

  #within(budgetMs: number): Choice {
    const { baseMs, tiers } = this.#costs.costs()
    const suffices = (names: readonly string[]) => this.#sets.suffices(names)
    const allowed = (names: readonly string[]) => this.#narrowing.allows(names, budgetMs) && suffices(names)
    // where overruns rule out every TierSet, the least is still better than none
    const solution =
      solveBudget({ budgetMs, baseMs, tiers, feasible: allowed }) ??
      solveBudget({ budgetMs: -1, baseMs, tiers, feasible: suffices })!
    const { predictedMs, withinBudget } = solution
    return { tierSet: this.#sets.activate(solution.tiers), by: 'latency-budget', budgetMs, predictedMs, withinBudget }
  }
}
