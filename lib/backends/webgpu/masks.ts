/** Masks of TierSets as the route shader reads them. */
import type { RouteGroups } from '../../model/plan.js'
import { maskWords } from './launches/route.js'

/** Bits of a mask [layers][experts] (0 = disabled): `maskWords(experts)` words a layer, expert e being bit e % 32 of word e / 32. */
export function maskBits(enabled: Uint8Array, experts: number): Uint32Array<ArrayBuffer> {
  const words = maskWords(experts)
  const out = new Uint32Array((enabled.length / experts) * words)
  for (const [at, on] of enabled.entries()) {
    const expert = at % experts
    if (on !== 0) out[Math.floor(at / experts) * words + (expert >>> 5)]! |= 1 << (expert & 31)
  }
  return out
}

/** How many experts a mask enables. */
export const countEnabled = (mask: Uint8Array): number => mask.reduce((count, on) => count + (on ? 1 : 0), 0)

/** The levels of a hierarchical router: offsets [tiers + 1] of groups and [groups + 1] of experts, and how many of each level are chosen. */
export interface Levels {
  tierGroups: ArrayLike<number>
  groupExperts: ArrayLike<number>
  kTier: number
  kGroup: number
  kExpert: number
}

/**
 * The first level at which a layer's mask leaves less than is chosen, as csrc/cpu/route_hser.h has it. A group without an expert is disabled, and so
 * is a tier without a group.
 */
export function lackingLevel(
  { tierGroups, groupExperts, kTier, kGroup, kExpert }: Levels,
  mask: Uint8Array
): { level: 'tier' | 'group' | 'expert'; k: number; enabled: number } | undefined {
  let tiers = 0
  for (let tier = 0; tier + 1 < tierGroups.length; tier++) {
    let groups = 0
    for (let group = tierGroups[tier] as number; group < (tierGroups[tier + 1] as number); group++) {
      const enabled = countEnabled(mask.subarray(groupExperts[group], groupExperts[group + 1]))
      if (enabled === 0) continue
      if (enabled < kExpert) return { level: 'expert', k: kExpert, enabled }
      groups++
    }
    if (groups === 0) continue
    if (groups < kGroup) return { level: 'group', k: kGroup, enabled: groups }
    tiers++
  }
  return tiers < kTier ? { level: 'tier', k: kTier, enabled: tiers } : undefined
}

/**
 * Experts that the groups of a limited choice leave a token at least (csrc/cpu/route_groups.h): those that a layer's mask enables in the groups that
 * have fewest.
 */
export function fewestInGroups({ count, used }: RouteGroups, mask: Uint8Array): number {
  const size = mask.length / count
  const counts = Array.from({ length: count }, (_, g) => countEnabled(mask.subarray(g * size, (g + 1) * size)))
  const some = counts.filter((own) => own > 0).sort((a, b) => a - b)
  return some.slice(0, used).reduce((sum, own) => sum + own, 0)
}
