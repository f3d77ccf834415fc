/** Launches of route (shaders/route_scores, shaders/route): scores of all rows, then the choice of each token. */
import type { RouteGroups } from '../../../model/plan.js'
import type { DeviceFacts, Launch } from './launch.js'
import { bits, grid, words } from './launch.js'

/** The upper levels of the hierarchical form. */
export interface HserShape {
  tiers: number
  groups: number
  kTier: number
  kGroup: number
  kExpert: number
  tierExponent: number
  groupExponent: number
  /** With the binding `asked`: scores as the CPU gives them, -2^63 for rows of routers that were not asked. */
  scores?: boolean
}

export interface RouteShape {
  tokens: number
  width: number
  experts: number
  k: number
  form: 'softmax_topk' | 'topk_softmax' | 'sigmoid' | 'hser'
  normalise: boolean
  /** Of the weights. */
  scale: number
  /** Exponent of the router's bias, which is then bound. */
  biasExponent?: number | undefined
  /** A selection bias is bound. */
  selectionBias: boolean
  groups?: RouteGroups | undefined
  /** As the tie hash takes it. */
  layer: number
  seed: ArrayLike<number>
  /** Of the experts' router. */
  exponent: number
  hser?: HserShape
  /** Where this layer's bits of mask m begin in the table of masks: word m · stride + offset. */
  mask: { stride: number; offset: number }
}

/** Rows of all routers together, as they lie in the router buffer: experts, then groups, then tiers. */
export const routerRows = ({ experts, hser }: Pick<RouteShape, 'experts' | 'hser'>): number =>
  experts + (hser ? hser.groups + hser.tiers : 0)

/** Words of one layer's mask. */
export const maskWords = (experts: number): number => Math.ceil(experts / 32)

/** Buffers: states, router, scores (out, 8 bytes a row), exponents (out), status. */
function scoresLaunch(shape: RouteShape, facts: DeviceFacts): Launch {
  const rows = routerRows(shape)
  const blocks = Math.ceil(rows / 4)
  return {
    shader: 'route_scores',
    defines: {},
    workgroups: grid(shape.tokens * blocks, facts),
    params: words(shape.tokens, rows, shape.width, blocks)
  }
}

/**
 * Buffers: scores, exponents, positions, masks, mask of each token, ids (out), weights (out), status; HSER: topology, and asked (out) with `scores`;
 * other forms: bias and selection bias, those that there are.
 */
function chooseLaunch(shape: RouteShape, facts: DeviceFacts): Launch {
  const { tokens, experts, k, form, normalise, scale, biasExponent, selectionBias, groups } = shape
  const { layer, seed, exponent, hser, mask } = shape
  const upper = hser
    ? [hser.groups, hser.tiers, hser.kTier, hser.kGroup, hser.kExpert, hser.groupExponent - 46, hser.tierExponent - 46]
    : []
  return {
    shader: 'route',
    defines: {
      HSER: hser !== undefined,
      SCORES: hser?.scores === true,
      SIGMOID: form === 'sigmoid',
      BY_SIGMOID: form === 'sigmoid' && (selectionBias || groups?.score === 'top2'),
      BIAS: biasExponent !== undefined,
      SELECTION: selectionBias,
      GROUPS: groups !== undefined,
      TOP2: groups?.score === 'top2',
      PICKED: hser ? 1024 : Math.ceil(k / 256) * 256
    },
    workgroups: grid(tokens, facts),
    params: words(
      ...Array.from(seed),
      layer,
      tokens,
      routerRows(shape),
      experts,
      k,
      form === 'topk_softmax' ? 1 : 0,
      normalise ? 1 : 0,
      exponent - 46,
      mask.stride,
      mask.offset,
      bits(scale),
      biasExponent ?? 0,
      groups?.count ?? 0,
      groups?.used ?? 0,
      ...upper,
      // the uniform block has room for the upper levels in the flat form too
      ...(hser ? [] : new Array<number>(7).fill(0))
    )
  }
}

/** The two passes of a route, to run in this order. */
export const routeLaunches = (shape: RouteShape, facts: DeviceFacts): { scores: Launch; choose: Launch } => ({
  scores: scoresLaunch(shape, facts),
  choose: chooseLaunch(shape, facts)
})

/** The status word in which integers that are too large are told of. */
const ranges = { router: 1, bias: 2, selectionBias: 3 }

/** Buffers: integers of a router, of its bias, or of a selection bias; status. */
export const rangeLaunch = (kind: keyof typeof ranges, count: number, facts: DeviceFacts): Launch => ({
  shader: 'router_range',
  defines: { WORD: ranges[kind], WIDE: kind === 'selectionBias' },
  workgroups: grid(Math.ceil(count / 1024), facts),
  params: words(count)
})
