/** Golden cases of the latency budget solver, of the running costs, and of what an overrun does. */
import t from 'tap'
import { type BudgetProblem, solveBudget } from '../../lib/tiers/latency-budget.js'
import { ModelTiers } from '../../lib/tiers/model-tiers.js'
import { Narrowing, narrowedRequests } from '../../lib/tiers/narrowing.js'
import { TierSelection } from '../../lib/tiers/selection.js'
import { TierCosts } from '../../lib/tiers/tier-costs.js'
import { TierSets } from '../../lib/tiers/tier-sets.js'
import { random } from '../fixtures/weights.js'

const tiers = [
  { name: 'hot', ms: 2, value: 4 },
  { name: 'warm', ms: 5, value: 8 },
  { name: 'cold', ms: 40, value: 32 },
  { name: 'archive', ms: 200, value: 64 }
]
const problem = (budgetMs: number, more: Partial<BudgetProblem> = {}): BudgetProblem => ({
  budgetMs,
  baseMs: 10,
  tiers,
  feasible: () => true,
  ...more
})

t.test('golden cases', async (t) => {
  const golden: [budget: number, tiers: string[], predicted: number, within: boolean][] = [
    [1000, ['hot', 'warm', 'cold', 'archive'], 257, true],
    [257, ['hot', 'warm', 'cold', 'archive'], 257, true],
    [256, ['warm', 'cold', 'archive'], 255, true],
    [254, ['hot', 'cold', 'archive'], 252, true],
    [216, ['warm', 'archive'], 215, true],
    [211, ['archive'], 210, true],
    [200, ['hot', 'warm', 'cold'], 57, true],
    [56, ['warm', 'cold'], 55, true],
    [49, ['hot', 'warm'], 17, true],
    [15, ['warm'], 15, true],
    [12, ['hot'], 12, true],
    [11, ['hot'], 12, false],
    [0, ['hot'], 12, false]
  ]
  for (const [budget, names, predictedMs, withinBudget] of golden)
    t.same(solveBudget(problem(budget)), { tiers: names, predictedMs, withinBudget }, `${budget} ms`)
})

t.test('only feasible TierSets are chosen', async (t) => {
  const withWarm = (names: readonly string[]) => names.includes('warm')
  t.same(solveBudget(problem(54, { feasible: withWarm }))?.tiers, ['hot', 'warm'])
  t.same(solveBudget(problem(1, { feasible: withWarm })), { tiers: ['warm'], predictedMs: 15, withinBudget: false })
  t.equal(solveBudget(problem(100, { feasible: () => false })), undefined)
  t.equal(solveBudget(problem(100, { tiers: [] })), undefined)
})

t.test('of equals the first, whatever the order of the search', async (t) => {
  const equal = ['x', 'y', 'z'].map((name) => ({ name, ms: 1, value: 1 }))
  t.same(solveBudget(problem(12, { tiers: equal }))?.tiers, ['x', 'y'])
  const free = equal.map((tier) => ({ ...tier, ms: 0 }))
  t.same(solveBudget(problem(10, { tiers: free }))?.tiers, ['x', 'y', 'z'])
})

t.test('exact: never beaten by any subset; many tiers: within the budget, and close', async (t) => {
  const next = random(7)
  for (let run = 0; run < 200; run++) {
    const many = run % 4 === 0
    const own = Array.from({ length: many ? 14 : 1 + Math.floor(next() * 7) }, (_, i) => ({
      name: `t${i}`,
      ms: Math.floor(next() * 20),
      value: Math.floor(next() * 50)
    }))
    const budgetMs = 10 + Math.floor(next() * 80)
    let best = -1
    for (let bits = 1; bits < 2 ** own.length; bits++) {
      const chosen = own.filter((_, i) => bits & (2 ** i))
      const ms = chosen.reduce((sum, tier) => sum + tier.ms, 10)
      if (ms <= budgetMs)
        best = Math.max(
          best,
          chosen.reduce((sum, tier) => sum + tier.value, 0)
        )
    }
    const found = solveBudget(problem(budgetMs, { tiers: own }))!
    const value = own.filter(({ name }) => found.tiers.includes(name)).reduce((sum, tier) => sum + tier.value, 0)
    t.equal(found.withinBudget, best >= 0)
    if (best >= 0) t.ok(many ? value >= 0.8 * best : value === best, `${value} of ${best}`)
  }
})

t.test('running costs: the first step whole, later ones less, never below zero', async (t) => {
  const costs = new TierCosts([
    { name: 'hot', bytes: 4 },
    { name: 'cold', bytes: 32 }
  ])
  t.same(costs.costs(), {
    baseMs: 0,
    tiers: [
      { name: 'hot', ms: 0, value: 4 },
      { name: 'cold', ms: 0, value: 32 }
    ],
    samples: 0
  })
  costs.observe(['hot'], 8)
  t.match(
    costs.costs(),
    { baseMs: 4, tiers: [{ ms: 4 }, { ms: 4 }], samples: 1 },
    'an unmeasured tier costs the dearest'
  )
  costs.observe(['hot', 'cold'], 38)
  t.match(costs.costs(), { baseMs: 14, tiers: [{ ms: 14 }, { ms: 10 }] })
  for (let i = 0; i < 400; i++) {
    costs.observe(['hot'], 8)
    costs.observe(['hot', 'cold'], 38)
  }
  const { baseMs, tiers: own } = costs.costs()
  t.ok(Math.abs(baseMs + own[0]!.ms - 8) < 1.5, 'what one TierSet takes is found')
  t.ok(Math.abs(baseMs + own[0]!.ms + own[1]!.ms - 38) < 1.5, 'and what another takes')
  costs.observe(['hot'], Number.NaN)
  costs.observe([], 5)
  t.same(costs.costs().samples, 802, 'what is no measurement is not counted')
  for (let i = 0; i < 100; i++) costs.observe(['hot', 'cold'], 0)
  t.ok(costs.costs().baseMs >= 0 && costs.costs().tiers.every(({ ms }) => ms >= 0))
})

t.test('an overrun narrows the next requests, then is forgotten', async (t) => {
  const narrowing = new Narrowing()
  narrowing.overran(['hot', 'warm'], 20)
  t.notOk(narrowing.allows(['hot', 'warm'], 20))
  t.notOk(narrowing.allows(['hot', 'warm', 'cold'], 15), 'nor a larger TierSet, nor a smaller budget')
  t.ok(narrowing.allows(['hot', 'warm'], 21), 'a larger budget is not narrowed')
  t.ok(narrowing.allows(['hot'], 20))
  for (let i = 0; i < narrowedRequests; i++) {
    t.notOk(narrowing.allows(['hot', 'warm'], 20))
    narrowing.count(20)
    narrowing.count(30)
  }
  t.ok(narrowing.allows(['hot', 'warm'], 20))
})

const labels = {
  tiers: [
    { name: 'hot', placement: 'hot' as const },
    { name: 'cold', placement: 'cold' as const }
  ],
  assignment: [[0, 0, 1, 1, 1, 1]]
}

function selection() {
  const model = new ModelTiers(labels, () => 1)
  return new TierSelection(model, new TierSets(model, () => {}), 'max')
}

t.test('a request: its own TierSet, else its budget, else the active one', async (t) => {
  const own = selection()
  t.match(own.select({}), { by: 'active', tierSet: { name: 'max', tiers: ['hot', 'cold'] } })
  t.match(own.select({ tierSet: 'fast', latencyBudgetMs: 5 }), { by: 'request', tierSet: { tiers: ['hot'] } })
  own.activate('fast')
  t.match(own.select({}), { by: 'active', tierSet: { name: 'fast', tiers: ['hot'] } })
  for (let i = 0; i < 4; i++) own.observe(['hot'], 4)
  for (let i = 0; i < 40; i++) own.observe(['cold', 'hot'], 20)
  for (let i = 0; i < 40; i++) own.observe(['hot'], 4)
  t.match(own.select({ latencyBudgetMs: 30 }), {
    by: 'latency-budget',
    tierSet: { tiers: ['hot', 'cold'] },
    withinBudget: true
  })
  t.match(own.select({ latencyBudgetMs: 10 }), { tierSet: { tiers: ['hot'] }, withinBudget: true, budgetMs: 10 })
  t.match(own.select({ latencyBudgetMs: 1 }), { tierSet: { tiers: ['hot'] }, withinBudget: false })
  t.same(own.counts, { requests: 3, unmet: 1, overruns: 0 })
})

t.test("the model's budget: of requests that do not say, until a TierSet is activated", async (t) => {
  const own = selection()
  for (let i = 0; i < 4; i++) own.observe(['hot'], 4)
  for (let i = 0; i < 40; i++) own.observe(['cold', 'hot'], 20)
  for (let i = 0; i < 40; i++) own.observe(['hot'], 4)
  const { previous, choice } = own.activate({ latencyBudgetMs: 6 })
  t.match(previous, { name: 'max' })
  t.match(choice, { by: 'latency-budget', withinBudget: true })
  t.same(choice.tierSet.tiers, ['hot'])
  t.same(own.counts, { requests: 0, unmet: 0, overruns: 0 }, 'it is no request')
  t.match(own.info(), { latencyBudgetMs: 6, tierSet: { tiers: ['hot'] } })
  t.match(own.select({}), { by: 'latency-budget', tierSet: { tiers: ['hot'] } })
  t.match(own.select({ latencyBudgetMs: 100 }), { tierSet: { tiers: ['hot', 'cold'] } })
  for (let i = 0; i < 400; i++) own.observe(['cold', 'hot'], 5)
  t.match(own.select({}), { tierSet: { tiers: ['hot', 'cold'] } }, 'costs have changed')
  t.same(own.active.tiers, ['hot'], 'the active one has not')
  own.activate('fast')
  t.match(own.select({}), { by: 'active', tierSet: { tiers: ['hot'] } })
})

t.test('an overrun is counted and narrows later budgets; where nothing is left, the least is used', async (t) => {
  const own = selection()
  const first = own.select({ latencyBudgetMs: 10 })
  t.same(first.tierSet.tiers, ['hot', 'cold'], 'nothing is measured: everything is tried')
  t.equal(own.ended(first, 9), false)
  t.equal(own.ended(own.select({}), 1e9), false, 'a request without a budget cannot overrun it')
  t.equal(own.ended(first, 11), true)
  const second = own.select({ latencyBudgetMs: 10 })
  t.equal(second.tierSet.tiers.length, 1)
  t.equal(own.ended(second, 12), true)
  const third = own.select({ latencyBudgetMs: 10 })
  t.equal(third.tierSet.tiers.length, 1)
  t.notSame(third.tierSet.tiers, second.tierSet.tiers)
  t.equal(own.ended(third, 12), true)
  t.match(own.select({ latencyBudgetMs: 10 }), { withinBudget: false, tierSet: { tiers: ['hot'] } })
  t.same(own.counts, { requests: 4, unmet: 1, overruns: 3 })
  t.same(own.select({ latencyBudgetMs: 11 }).tierSet.tiers, ['hot', 'cold'], 'a larger budget is free')
})
