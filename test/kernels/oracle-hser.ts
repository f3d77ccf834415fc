/** Oracle of the hierarchical route: three flat choices, each by search, with BigInt scores and weights in doubles. */
import type { RouteRequest } from 'tiered-moe/kernels'
import { integers, maskOf, type RouteOracle, softmax, tieHash } from './oracle-moe.js'

/** What a router says where it was not asked. */
const unasked = -(2n ** 63n)

interface Chosen {
  row: number
  probability: number
}

export function routeTokenHser(request: RouteRequest, token: number): RouteOracle {
  const { router, routerExponent, experts, layer = 0, positions } = request
  const enabled = maskOf(request, token)
  const hser = request.hser!
  const width = router.length / experts
  const groups = hser.groupExperts.length - 1
  const tiers = hser.tierGroups.length - 1
  const { q, exponent } = integers(request.states.subarray(token * width, (token + 1) * width))
  const seed = request.seed ?? [0, 0, 0, 0]
  const scores: bigint[] = new Array(experts + groups + tiers).fill(unasked)

  const range = (offsets: Uint32Array, part: number) =>
    Array.from({ length: offsets[part + 1]! - offsets[part]! }, (_, i) => offsets[part]! + i)
  const expertOn = (e: number) => (enabled?.[e] ?? 1) !== 0
  const groupOn = (g: number) => range(hser.groupExperts, g).some(expertOn)
  const tierOn = (t: number) => range(hser.tierGroups, t).some(groupOn)

  /** The k best of a router's rows. `base`: the number of its first row in the stack. */
  const best = (
    matrix: Int32Array,
    scale: number,
    base: number,
    rows: number[],
    k: number,
    on: (row: number) => boolean
  ) => {
    for (const row of rows) scores[base + row] = q.reduce((sum, s, c) => sum + s * BigInt(matrix[row * width + c]!), 0n)
    const allowed = rows.filter(on)
    const p = softmax(allowed.map((row) => Math.fround(Number(scores[base + row]) * 2 ** (exponent + scale - 46))))
    const hash = (row: number) => tieHash(seed, layer, positions[token]!, base + row)
    const order = [...allowed].sort((a, b) => {
      const [x, y] = [scores[base + a]!, scores[base + b]!]
      return x !== y ? (x > y ? -1 : 1) : hash(a) - hash(b) || a - b
    })
    return order.slice(0, k).map((row): Chosen => ({ row, probability: p[allowed.indexOf(row)]! }))
  }

  const ids: number[] = []
  const weights: number[] = []
  const allTiers = Array.from({ length: tiers }, (_, t) => t)
  for (const tier of best(hser.tierRouter, hser.tierRouterExponent, experts + groups, allTiers, hser.kTier, tierOn)) {
    const own = range(hser.tierGroups, tier.row)
    for (const group of best(hser.groupRouter, hser.groupRouterExponent, experts, own, hser.kGroup, groupOn)) {
      const inside = range(hser.groupExperts, group.row)
      for (const expert of best(router, routerExponent, 0, inside, hser.kExpert, expertOn)) {
        ids.push(expert.row)
        weights.push(tier.probability * group.probability * expert.probability)
      }
    }
  }
  const sum = request.normalise ? weights.reduce((a, b) => a + b, 0) : 1
  return { ids, scores, weights: weights.map((w) => w / sum) }
}
