/** Routes in float64 by sorting, for the naive forward pass. */
import type { PlanOp } from '../../lib/model/plan.js'
import { multiply, softmax } from './naive-math.js'

type RouteOp = Extract<PlanOp, { op: 'route' }>

/** A TierSet: whether an expert of a layer may be chosen. */
export type Enabled = (layer: number, expert: number) => boolean

export interface Choice {
  expert: number
  weight: number
}

/** The k best rows of a router among [first, last) that are enabled, with their softmax over these. */
function bestOf(scores: number[], first: number, last: number, k: number, on: (row: number) => boolean): Choice[] {
  const rows = Array.from({ length: last - first }, (_, i) => first + i).filter(on)
  const p = softmax(rows.map((row) => scores[row]!))
  const all = rows.map((row, i) => ({ expert: row, weight: p[i]! }))
  return all.sort((a, b) => b.weight - a.weight).slice(0, k)
}

/** Tiers, then groups of the chosen tiers, then experts of the chosen groups. */
function routeHser(x: number[], read: (name: string) => Float32Array, op: RouteOp, enabled?: Enabled): Choice[] {
  const { tierRouter, groupRouter, tierGroups, groupExperts, kTier, kGroup, kExpert } = op.hser!
  const scoresOf = (weight: Float32Array) => multiply(weight, x, weight.length / x.length)
  const [tiers, groups, experts] = [tierRouter, groupRouter, op.weight].map((name) => scoresOf(read(name)))
  const expertOn = (e: number) => !enabled || enabled(op.layer, e)
  const within = (offsets: number[], part: number, on: (i: number) => boolean) => {
    for (let i = offsets[part]!; i < offsets[part + 1]!; i++) if (on(i)) return true
    return false
  }
  const groupOn = (g: number) => within(groupExperts, g, expertOn)
  const out: Choice[] = []
  for (const tier of bestOf(tiers!, 0, tiers!.length, kTier, (t) => within(tierGroups, t, groupOn))) {
    const [firstGroup, lastGroup] = [tierGroups[tier.expert]!, tierGroups[tier.expert + 1]!]
    for (const group of bestOf(groups!, firstGroup, lastGroup, kGroup, groupOn)) {
      const [first, last] = [groupExperts[group.expert]!, groupExperts[group.expert + 1]!]
      for (const { expert, weight } of bestOf(experts!, first, last, kExpert, expertOn))
        out.push({ expert, weight: tier.weight * group.weight * weight })
    }
  }
  const sum = op.normalise ? out.reduce((a, { weight }) => a + weight, 0) : 1
  return out.map(({ expert, weight }) => ({ expert, weight: weight / sum }))
}

/** Experts of the groups that stay. `ranks`: of the experts; -Infinity for those that are disabled. */
function inBestGroups(ranks: number[], { count, used, score }: NonNullable<RouteOp['groups']>): boolean[] {
  const size = ranks.length / count
  const scores = Array.from({ length: count }, (_, g) => {
    const own = ranks.slice(g * size, (g + 1) * size).sort((a, b) => b - a)
    return score === 'top2' && own[1]! > Number.NEGATIVE_INFINITY ? own[0]! + own[1]! : own[0]!
  })
  const best = scores.map((of, group) => ({ of, group })).sort((a, b) => b.of - a.of)
  const kept = best.slice(0, used).map(({ group }) => group)
  return ranks.map((_, e) => kept.includes(Math.floor(e / size)))
}

function routeFlat(x: number[], read: (name: string) => Float32Array, op: RouteOp, enabled?: Enabled): Choice[] {
  const weight = read(op.weight)
  const [bias, selectionBias] = [op.bias, op.selectionBias].map((name) => (name ? read(name) : undefined))
  const logits = multiply(weight, x, weight.length / x.length).map((score, e) => score + (bias?.[e] ?? 0))
  const disabled = Number.NEGATIVE_INFINITY
  const enabledOnly = (values: number[]) => values.map((v, e) => (!enabled || enabled(op.layer, e) ? v : disabled))
  const sigmoids = logits.map((logit) => 1 / (1 + Math.exp(-logit)))
  const ranks = enabledOnly(op.form === 'sigmoid' ? sigmoids.map((s, e) => s + (selectionBias?.[e] ?? 0)) : logits)
  const inChoice = op.groups && inBestGroups(ranks, op.groups)
  const byRank = ranks.map((rank, expert) => ({ rank, expert })).filter(({ expert }) => inChoice?.[expert] ?? true)
  const chosen = byRank.sort((a, b) => b.rank - a.rank).slice(0, op.k)
  const all = op.form === 'softmax_topk' ? softmax(enabledOnly(logits)) : sigmoids
  const over = softmax(chosen.map(({ expert }) => logits[expert]!))
  const weights = chosen.map(({ expert }, i) => (op.form === 'topk_softmax' ? over[i]! : all[expert]!))
  const sum = op.normalise ? weights.reduce((a, b) => a + b, 1e-20) : 1
  return chosen.map(({ expert }, i) => ({ expert, weight: (weights[i]! / sum) * (op.scale ?? 1) }))
}

/** What a token's state is routed to. */
export const naiveRoute = (
  x: number[],
  read: (name: string) => Float32Array,
  op: RouteOp,
  enabled?: Enabled
): Choice[] => (op.form === 'hser' ? routeHser(x, read, op, enabled) : routeFlat(x, read, op, enabled))
