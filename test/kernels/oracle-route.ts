/** What routes rank by beside exact products, in BigInt from the contract (csrc/cpu/route_score.h, route_groups.h): bias, sigmoid in Q30, groups. */
import type { RouteRequest } from 'tiered-moe/kernels'

/** a · 2^shift to the nearest, ties to even. */
export function scaled(a: bigint, shift: number): bigint {
  if (shift >= 0) return a << BigInt(shift)
  const unit = 1n << BigInt(-shift)
  const low = a >> BigInt(-shift)
  const twice = 2n * (a - low * unit)
  return twice > unit || (twice === unit && (low & 1n) === 1n) ? low + 1n : low
}

/** score + bias, and the exponent of their unit. */
function biased(score: bigint, exponent: number, bias: number, biasExponent: number) {
  const unit = Math.max(exponent, biasExponent - 23 - 38)
  return { score: scaled(score, exponent - unit) + scaled(BigInt(bias), biasExponent - 23 - unit), exponent: unit }
}

const one = 2n ** 30n
const factorial = (n: number): number => (n < 2 ? 1 : n * factorial(n - 1))
const powers = Array.from({ length: 12 }, (_, k) => BigInt(Math.round((Math.LN2 ** k / factorial(k)) * 2 ** 31)))
const log2e = BigInt(Math.round(Math.LOG2E * 2 ** 31))

/** The sigmoid of score · 2^exponent in Q30. */
export function sigmoidQ30(score: bigint, exponent: number): bigint {
  const most = 2n ** 32n - 1n
  const exact = scaled(score < 0n ? -score : score, exponent + 27)
  const y = (exact > most ? most : exact) * log2e
  const [whole, fraction] = [y >> 58n, (y >> 26n) & most]
  const power = powers.reduceRight((p, c) => c - ((fraction * p) >> 32n), 0n)
  const e = whole > 30n ? 0n : ((power >> whole) + 1n) >> 1n
  const s = ((2n * one * one) / (one + e) + 1n) / 2n
  return score < 0n ? one - s : s
}

export interface Rankings {
  ranks: bigint[]
  logits: number[]
}

/** Of each expert: what it is ordered by, and its logit. */
export function rankings(request: RouteRequest, scores: bigint[], exponent: number): Rankings {
  const { form, bias, biasExponent = 0, selectionBias, groups } = request
  const sums = scores.map((score, e) => (bias ? biased(score, exponent, bias[e]!, biasExponent) : { score, exponent }))
  const bySigmoid = form === 'sigmoid' && (selectionBias !== undefined || groups?.score === 'top2')
  return {
    ranks: sums.map((sum, e) =>
      bySigmoid ? sigmoidQ30(sum.score, sum.exponent) + (selectionBias?.[e] ?? 0n) : sum.score
    ),
    logits: sums.map((sum) => Math.fround(Number(sum.score) * 2 ** sum.exponent))
  }
}

type Better = (a: bigint, indexOfA: number, b: bigint, indexOfB: number) => boolean

/** The experts of `allowed` that are in the best groups. */
export function inBestGroups(
  { groups, experts }: RouteRequest,
  allowed: number[],
  ranks: bigint[],
  better: Better
): number[] {
  if (!groups) return allowed
  const groupOf = (expert: number) => Math.floor(expert / (experts / groups.count))
  const scoreOf = (group: number) => {
    const own = allowed.filter((e) => groupOf(e) === group).map((e) => ranks[e]!)
    own.sort((a, b) => (a > b ? -1 : 1))
    return groups.score === 'top2' && own.length > 1 ? own[0]! + own[1]! : own[0]!
  }
  const present = [...new Set(allowed.map(groupOf))]
  const kept = present.filter(
    (g) => present.filter((o) => better(scoreOf(o), experts + o, scoreOf(g), experts + g)).length < groups.used
  )
  return allowed.filter((e) => kept.includes(groupOf(e)))
}
