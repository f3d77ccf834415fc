/** Requests whose numbers do not fit together, shared by every backend: each is to be refused with VALIDATION_ERROR. */
import type { AttentionRequest, RouteRequest } from 'tiered-moe/kernels'
import { kvCacheBytes } from 'tiered-moe/kernels'
import type { HserShape } from './route-cases.js'

/** A sound request, and what makes it unsound. */
export function attentionMisfits(): { good: AttentionRequest; bad: Record<string, Partial<AttentionRequest>> } {
  const good = {
    q: new Float32Array(2 * 4 * 8),
    k: new Float32Array(2 * 2 * 8),
    v: new Float32Array(2 * 2 * 8),
    cache: new Uint8Array(kvCacheBytes({ positions: 64, kvHeads: 2, headDim: 8 })),
    start: 0,
    heads: 4,
    kvHeads: 2,
    headDim: 8
  }
  const bad = {
    'a short k': { k: good.k.subarray(1) },
    'a short v': { v: good.v.subarray(1) },
    'half a token': { q: good.q.subarray(1) },
    'a short cache': { cache: good.cache.subarray(4) },
    'start past the cache': { start: 63 },
    'a huge start': { start: 2 ** 40 },
    'heads that KV heads do not divide': { kvHeads: 3 },
    'no heads': { heads: 0 },
    'no KV heads': { kvHeads: 0 },
    'f32 in a cache for f16': { kvType: 'f32' as const },
    'a scale that is no number': { scale: Number.NaN },
    'a window of less than nothing': { window: -1 },
    'half a window': { window: 1.5 },
    'sinks of too few heads': { sinks: new Float32Array(3) },
    'sinks of too many heads': { sinks: new Float32Array(5) }
  }
  return { good, bad }
}

/** Two tiers of two groups of four experts, two chosen at each level. */
export const hserMisfitShape: HserShape = {
  tiers: [
    [4, 4],
    [4, 4]
  ],
  k: [2, 2, 2]
}

/** What makes a sound request of that shape unsound. */
export function hserMisfits(good: RouteRequest): Record<string, Partial<RouteRequest>> {
  const hser = good.hser!
  const over = hser.tierRouter.slice()
  over[3] = 2 ** 23 + 1
  return {
    'more active than the bound': { hser: { ...hser, bound: 7 } },
    'k is not the product': { k: 4 },
    'more groups than a tier has': { k: 12, hser: { ...hser, kGroup: 3 } },
    'more experts than a group has': { k: 20, hser: { ...hser, kExpert: 5 } },
    'more tiers than there are': { k: 12, hser: { ...hser, kTier: 3 } },
    'groups that end early': { hser: { ...hser, tierGroups: Uint32Array.of(0, 2, 3) } },
    'groups that do not begin at 0': { hser: { ...hser, tierGroups: Uint32Array.of(1, 2, 4) } },
    'experts that go back': { hser: { ...hser, groupExperts: Uint32Array.of(0, 12, 8, 12, 16) } },
    'experts beyond the last': { hser: { ...hser, groupExperts: Uint32Array.of(0, 4, 8, 12, 17) } },
    'no tiers': { hser: { ...hser, tierGroups: Uint32Array.of(0) } },
    'a router too short': { hser: { ...hser, groupRouter: hser.groupRouter.slice(1) } },
    'a number of more than 24 bits': { hser: { ...hser, tierRouter: over } },
    'none chosen': { k: 4, hser: { ...hser, kTier: 0 } }
  }
}

/** Offsets and slots of two tokens with two choices each among two experts, and what no dispatch gives. */
export const goodDispatch = { offsets: Uint32Array.of(0, 2, 4), slots: Uint32Array.of(0, 3, 1, 2) }
export const dispatchMisfits: Record<string, Partial<typeof goodDispatch>> = {
  'offsets that start late': { offsets: Uint32Array.of(1, 2, 4) },
  'offsets that end early': { offsets: Uint32Array.of(0, 2, 3) },
  'offsets that end late': { offsets: Uint32Array.of(0, 2, 5) },
  'offsets that decrease': { offsets: Uint32Array.of(0, 5, 4) },
  'a huge offset': { offsets: Uint32Array.of(0, 2 ** 32 - 1, 4) },
  'a slot too far': { slots: Uint32Array.of(0, 3, 1, 4) },
  'a huge slot': { slots: Uint32Array.of(0, 2 ** 32 - 1, 1, 2) }
}
/** Of rows that are moved, not added up. */
export const exchangeMisfits: typeof dispatchMisfits = {
  ...dispatchMisfits,
  'a slot twice': { slots: Uint32Array.of(0, 3, 1, 1) }
}
