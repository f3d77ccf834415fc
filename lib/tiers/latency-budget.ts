/**
 * Which TierSet fits a latency budget: the small knapsack of Lite LLM 042. A pure function of the measurements; equal ones give equal
 * TierSets everywhere.
 */

export interface TierCost {
  name: string
  /** Milliseconds that the tier adds to a token. */
  ms: number
  /** What is gained by enabling it: the bytes of its experts. */
  value: number
}

export interface BudgetProblem {
  /** Milliseconds that one token may take. */
  budgetMs: number
  /** Of a token without any expert. */
  baseMs: number
  /** In the model's order. */
  tiers: readonly TierCost[]
  /** Whether a TierSet may be used at all: it leaves every layer enough experts, and is not ruled out. */
  feasible(tiers: readonly string[]): boolean
}

export interface BudgetSolution {
  /** In the model's order. */
  tiers: string[]
  predictedMs: number
  /** False: no TierSet fits, this is the one that costs least. */
  withinBudget: boolean
}

/** Up to here every TierSet is looked at: 4,096 of them. */
const mostExact = 12

interface Candidate extends BudgetSolution {
  value: number
}

function candidate({ budgetMs, baseMs }: BudgetProblem, chosen: readonly TierCost[]): Candidate {
  const predictedMs = chosen.reduce((sum, { ms }) => sum + ms, baseMs)
  return {
    tiers: chosen.map(({ name }) => name),
    predictedMs,
    withinBudget: predictedMs <= budgetMs,
    value: chosen.reduce((sum, { value }) => sum + value, 0)
  }
}

/** Within the budget before over it; then more value, or when over it less cost. Of equals the first found stays. */
function better(a: Candidate, b: Candidate): boolean {
  if (a.withinBudget !== b.withinBudget) return a.withinBudget
  if (!a.withinBudget) return a.predictedMs < b.predictedMs || (a.predictedMs === b.predictedMs && a.value > b.value)
  return a.value > b.value || (a.value === b.value && a.predictedMs < b.predictedMs)
}

function* subsets(tiers: readonly TierCost[]): Generator<TierCost[]> {
  for (let bits = 1; bits < 2 ** tiers.length; bits++) yield tiers.filter((_, i) => bits & (2 ** i))
}

/** Tiers by value per cost, each kept where the budget still holds; then by cost alone, for the least that is feasible. */
function* greedy(problem: BudgetProblem): Generator<TierCost[]> {
  const { tiers } = problem
  const order = (worth: (tier: TierCost) => number) =>
    [...tiers].sort((a, b) => worth(b) - worth(a) || tiers.indexOf(a) - tiers.indexOf(b))
  const inOrder = (chosen: readonly TierCost[]) => tiers.filter((tier) => chosen.includes(tier))
  let chosen: TierCost[] = []
  for (const tier of order(({ ms, value }) => (ms > 0 ? value / ms : Number.POSITIVE_INFINITY))) {
    const more = inOrder([...chosen, tier])
    if (!candidate(problem, more).withinBudget) continue
    chosen = more
    yield chosen
  }
  chosen = []
  for (const tier of order(({ ms }) => -ms)) {
    chosen = inOrder([...chosen, tier])
    yield chosen
  }
}

/**
 * The feasible TierSet of most value whose predicted latency is within the budget; where none is, the one of least latency, with
 * `withinBudget: false`. Exact up to 12 tiers, by value per cost beyond. Undefined where no TierSet is feasible.
 */
export function solveBudget(problem: BudgetProblem): BudgetSolution | undefined {
  let best: Candidate | undefined
  for (const chosen of problem.tiers.length <= mostExact ? subsets(problem.tiers) : greedy(problem)) {
    const found = candidate(problem, chosen)
    if ((!best || better(found, best)) && problem.feasible(found.tiers)) best = found
  }
  if (!best) return undefined
  const { tiers, predictedMs, withinBudget } = best
  return { tiers, predictedMs, withinBudget }
}
