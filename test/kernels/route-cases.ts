/** Requests of route that every backend is tried on: both flat forms and the hierarchical one, over shapes, widths and flavours. */
import type { HserRouting, KernelBackend, RouteRequest } from 'tiered-moe/kernels'
import { expertShapes } from './shapes.js'
import { type Flavour, flavours, floats, stream, whole } from './values.js'

type Packer = Pick<KernelBackend, 'packRouter'>
interface RouteCase {
  label: string
  request: RouteRequest
}

const widths = [1, 3, 16, 31, 100]
const word = (next: () => number) => whole(next, 0, 2 ** 32 - 1)

export function* flatCases(packer: Packer): Generator<RouteCase> {
  for (const { experts, k } of expertShapes) {
    for (const width of widths) {
      for (const flavour of flavours) {
        const label = `${experts} experts, k ${k}, width ${width}, ${flavour}`
        const next = stream(label)
        const tokens = whole(next, 0, 4)
        const request: RouteRequest = {
          states: floats(tokens * width, next, flavour),
          ...packer.packRouter(floats(experts * width, next, flavour === 'zero' ? 'normal' : flavour, 0.3)),
          experts,
          k,
          positions: Uint32Array.from({ length: tokens }, () => word(next)),
          form: next() < 0.5 ? 'softmax_topk' : 'topk_softmax',
          normalise: next() < 0.5,
          layer: whole(next, 0, 60),
          seed: Uint32Array.from({ length: 4 }, () => word(next))
        }
        yield { label, request }
      }
    }
  }
}

/** Experts of each group of each tier, and how many are chosen at each level. */
export interface HserShape {
  tiers: number[][]
  k: [tier: number, group: number, expert: number]
}

export const hserShapes: HserShape[] = [
  { tiers: [[1]], k: [1, 1, 1] },
  { tiers: [[5]], k: [1, 1, 3] },
  { tiers: [[3], [4], [5]], k: [2, 1, 2] },
  {
    tiers: [
      [2, 3],
      [4, 2, 2],
      [7, 6]
    ],
    k: [1, 2, 2]
  },
  {
    tiers: [
      [1, 1, 1],
      [1, 1, 1]
    ],
    k: [2, 3, 1]
  },
  {
    tiers: [
      [17, 16],
      [15, 33],
      [8, 9]
    ],
    k: [3, 2, 8]
  },
  { tiers: [[20, 20, 20, 20]], k: [1, 4, 5] }
]

const offsets = (sizes: number[]) => {
  let at = 0
  return Uint32Array.from([0, ...sizes.map((size) => (at += size))])
}

/** The topology of a shape with random routers. */
function routing(
  packer: Packer,
  { tiers, k }: HserShape,
  width: number,
  next: () => number,
  flavour: Flavour = 'normal'
): HserRouting {
  const groups = tiers.flat().length
  const tier = packer.packRouter(floats(tiers.length * width, next, flavour, 0.4))
  const group = packer.packRouter(floats(groups * width, next, flavour, 0.2))
  return {
    tierGroups: offsets(tiers.map((own) => own.length)),
    groupExperts: offsets(tiers.flat()),
    tierRouter: tier.router,
    tierRouterExponent: tier.routerExponent,
    groupRouter: group.router,
    groupRouterExponent: group.routerExponent,
    kTier: k[0],
    kGroup: k[1],
    kExpert: k[2]
  }
}

/** Four tokens through random routers of a shape. */
export function hserRequest(
  packer: Packer,
  shape: HserShape,
  width: number,
  label: string,
  more: Partial<RouteRequest> = {}
): RouteRequest {
  const next = stream(label)
  const tokens = 4
  const experts = shape.tiers.flat().reduce((a, b) => a + b, 0)
  return {
    states: floats(tokens * width, next),
    ...packer.packRouter(floats(experts * width, next, 'normal', 0.3)),
    experts,
    k: shape.k[0] * shape.k[1] * shape.k[2],
    positions: Uint32Array.from({ length: tokens }, () => word(next)),
    form: 'hser',
    hser: routing(packer, shape, width, next),
    seed: Uint32Array.of(9, 8, 7, 6),
    layer: 3,
    ...more
  }
}

export function* hserCases(packer: Packer): Generator<RouteCase> {
  for (const [i, shape] of hserShapes.entries()) {
    for (const width of widths) {
      for (const flavour of flavours) {
        const label = `shape ${i}, width ${width}, ${flavour}`
        const next = stream(label)
        const tokens = whole(next, 0, 3)
        const request = hserRequest(packer, shape, width, label, {
          states: floats(tokens * width, next, flavour),
          positions: Uint32Array.from({ length: tokens }, () => word(next)),
          hser: routing(packer, shape, width, next, flavour === 'zero' ? 'normal' : flavour),
          normalise: next() < 0.5
        })
        yield { label, request }
      }
    }
  }
}
