/** Oracles of routing, dispatch, experts and their sum: integers as BigInt, everything else in doubles, by search where csrc sorts. */
import type { CombineRequest, DispatchResult, ExpertMatmulRequest, Matrix, RouteRequest } from 'tiered-moe/kernels'
import { inBestGroups, rankings } from './oracle-route.js'
import { decodeRow, dotRow, nearestEven, type Reckoned } from './oracle-weights.js'

const mix32 = (x: number): number => {
  let h = x
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d)
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b)
  return (h ^ (h >>> 16)) >>> 0
}

/** The hash that decides between equal scores. */
export function tieHash(seed: ArrayLike<number>, layer: number, position: number, index: number): number {
  let h = 0x9e3779b9
  for (const word of [seed[0]!, seed[1]!, seed[2]!, seed[3]!, layer, position, index])
    h = (mix32((h ^ word) >>> 0) + 0x9e3779b9) >>> 0
  return h
}

/** Numbers as 24-bit integers with one exponent: the least e ≥ −103 with |x| < 2^e, q = x · 2^(23 − e). */
export function integers(x: ArrayLike<number>): { q: bigint[]; exponent: number } {
  const values = Array.from(x)
  const most = Math.max(0, ...values.map(Math.abs))
  let exponent = -103
  while (most >= 2 ** exponent) exponent++
  return { q: values.map((v) => BigInt(nearestEven(v * 2 ** (23 - exponent)))), exponent }
}

/** exp over the largest, divided by their sum. */
export function softmax(x: number[]): number[] {
  const most = Math.max(...x)
  const e = x.map((v) => Math.exp(v - most))
  const sum = e.reduce((a, b) => a + b, 0)
  return e.map((v) => v / sum)
}

export interface RouteOracle {
  ids: number[]
  scores: bigint[]
  weights: number[]
}

/** The mask of a token: `enabled`, or the one that it names. */
export function maskOf({ enabled, maskOf: named, experts }: RouteRequest, token: number): Uint8Array | undefined {
  const mask = named?.[token] ?? 0
  return mask === 0xffffffff ? undefined : enabled?.subarray(mask * experts, (mask + 1) * experts)
}

/** One token's route. `router` are the integers that packRouter made. */
export function routeToken(request: RouteRequest, token: number): RouteOracle {
  const { router, routerExponent, experts, k, layer = 0, positions, form = 'softmax_topk' } = request
  const enabled = maskOf(request, token)
  const width = router.length / experts
  const { q, exponent } = integers(request.states.subarray(token * width, (token + 1) * width))
  const seed = request.seed ?? [0, 0, 0, 0]
  const scores = Array.from({ length: experts }, (_, e) =>
    q.reduce((sum, s, c) => sum + s * BigInt(router[e * width + c]!), 0n)
  )
  const allowed = scores.map((_, e) => e).filter((e) => !enabled || enabled[e])
  const { ranks, logits } = rankings(request, scores, exponent + routerExponent - 46)
  const hash = (row: number) => tieHash(seed, layer, positions[token]!, row)
  const better = (a: bigint, p: number, b: bigint, r: number) => {
    if (a !== b) return a > b
    return hash(p) !== hash(r) ? hash(p) < hash(r) : p < r
  }
  const choice = inBestGroups(request, allowed, ranks, better)
  const ids: number[] = []
  while (ids.length < k)
    ids.push(
      choice.filter((e) => !ids.includes(e)).reduce((best, e) => (better(ranks[e]!, e, ranks[best]!, best) ? e : best))
    )
  const among = form === 'softmax_topk' ? allowed : ids
  const of = among.map((e) => logits[e]!)
  const p = form === 'sigmoid' ? of.map((x) => 1 / (1 + Math.exp(-x))) : softmax(of)
  const weights = ids.map((e) => p[among.indexOf(e)]!)
  const sum = request.normalise ? weights.reduce((a, b) => a + b, 1e-20) : 1
  return { ids, scores, weights: weights.map((w) => (w / sum) * (request.scale ?? 1)) }
}

export function dispatchOracle(ids: Int32Array, experts: number): DispatchResult {
  const order = Array.from(ids, (expert, slot) => ({ expert, slot }))
  order.sort((a, b) => a.expert - b.expert || a.slot - b.slot)
  const rows = new Uint32Array(ids.length)
  for (const [row, { slot }] of order.entries()) rows[slot] = row
  return {
    offsets: Uint32Array.from({ length: experts + 1 }, (_, e) => order.filter(({ expert }) => expert < e).length),
    slots: Uint32Array.from(order, ({ slot }) => slot),
    rows
  }
}

/** Each token's weighted sum of its rows, with `add` on top of what `start` holds. */
export function combineOracle(
  { values, weights, rows, k, width, add }: Pick<CombineRequest, 'values' | 'weights' | 'rows' | 'k' | 'width' | 'add'>,
  start: Float32Array
): Reckoned[] {
  const sum = (numbers: number[]) => numbers.reduce((a, b) => a + b, 0)
  return Array.from(start, (own, i) => {
    const token = Math.floor(i / width)
    const terms = Array.from({ length: k }, (_, s) => {
      const slot = token * k + s
      return weights[slot]! * values[rows[slot]! * width + (i % width)]!
    })
    if (add) terms.push(own)
    return { value: sum(terms), scale: sum(terms.map(Math.abs)), terms: terms.length }
  })
}

const silu = (x: number) => x / (1 + Math.exp(-x))
const clamp = (x: number, least: number, most: number) => Math.max(least, Math.min(most, x))

/** What is made of gate and up, and bounds of its derivatives by each. */
function activated(kind: ExpertMatmulRequest['activation'], g: number, u: number) {
  if (kind !== 'clamped_swiglu') return { value: silu(g) * u, byGate: 1.1 * Math.abs(u), byUp: Math.abs(silu(g)) }
  const gate = clamp(g, Number.NEGATIVE_INFINITY, 7)
  const swish = gate / (1 + Math.exp(-1.702 * gate))
  const up = clamp(u, -7, 7) + 1
  return { value: swish * up, byGate: 1.1 * Math.abs(up), byUp: Math.abs(swish) }
}

/**
 * down · act(gate · x, up · x) of one row, with the biases of its expert; the hidden row is rounded to float, as the contract's activations are. The scale carries
 * what gate and up added up, because an error of theirs is one of the hidden row.
 */
export function expertRow(
  gate: Matrix,
  up: Matrix,
  down: Matrix,
  expert: number,
  x: Float32Array,
  { activation, biases }: Pick<ExpertMatmulRequest, 'activation' | 'biases'> = {}
): Reckoned[] {
  const row = (matrix: Matrix, r: number) => expert * matrix.rows + r
  const hidden = Array.from({ length: gate.rows }, (_, i) => {
    const [g, u] = [dotRow(gate, row(gate, i), x), dotRow(up, row(up, i), x)]
    const [ofGate, ofUp] = [biases?.gate?.[row(gate, i)] ?? 0, biases?.up?.[row(up, i)] ?? 0]
    const { value: exact, byGate, byUp } = activated(activation, g.value + ofGate, u.value + ofUp)
    const value = Math.fround(exact)
    const scale = Math.abs(value) + byGate * (g.scale + Math.abs(ofGate)) + byUp * (u.scale + Math.abs(ofUp))
    return { value, scale }
  })
  const values = hidden.map((h) => h.value)
  return Array.from({ length: down.rows }, (_, r) => {
    const added = biases?.down?.[row(down, r)] ?? 0
    const value = dotRow(down, row(down, r), values).value + added
    const weights = decodeRow(down, row(down, r))
    const scale = hidden.reduce((sum, h, c) => sum + h.scale * Math.abs(weights[c]!), Math.abs(added))
    return { value, scale, terms: gate.rows + gate.columns }
  })
}
