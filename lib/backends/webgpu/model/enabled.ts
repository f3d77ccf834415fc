/** Whether a TierSet leaves every level of a router enough to choose from. */
import { createError } from '../../../errors/index.js'
import type { PlanHser, PlanOp } from '../../../model/plan.js'
import type { RoutingShape } from '../../../native.js'
import { validationError } from '../../../validation.js'

type RouteOp = Extract<PlanOp, { op: 'route' }>

const countEnabled = (mask: Uint8Array): number => mask.reduce((sum, enabled) => sum + (enabled ? 1 : 0), 0)

/** What is lacking at a level of a hierarchical router; '' = nothing. A group without an expert is disabled, a tier without a group too. */
function lacking({ tierGroups, groupExperts, kTier, kGroup, kExpert }: PlanHser, mask: Uint8Array): string {
  const tooFew = (level: string, k: number, enabled: number) =>
    `${enabled} enabled at the level of ${level}, ${k} are to be chosen`
  let tiers = 0
  for (let tier = 0; tier + 1 < tierGroups.length; tier++) {
    let groups = 0
    for (let group = tierGroups[tier] as number; group < (tierGroups[tier + 1] as number); group++) {
      const experts = countEnabled(mask.subarray(groupExperts[group], groupExperts[group + 1]))
      if (experts === 0) continue
      if (experts < kExpert) return tooFew('expert', kExpert, experts)
      groups++
    }
    if (groups === 0) continue
    if (groups < kGroup) return tooFew('group', kGroup, groups)
    tiers++
  }
  return tiers < kTier ? tooFew('tier', kTier, tiers) : ''
}

/** ROUTING_TOO_FEW_EXPERTS {layer, enabled, k}; VALIDATION_ERROR for a mask that is not [layers][experts]. */
export function checkEnabled(routes: readonly RouteOp[], { layers, experts, k }: RoutingShape, mask: Uint8Array): void {
  if (!(mask instanceof Uint8Array) || mask.length < layers * experts) {
    throw validationError('checkEnabled', 'enabled', mask, `a Uint8Array of ${layers * experts}`)
  }
  for (const [layer, route] of routes.entries()) {
    const row = mask.subarray(layer * experts, (layer + 1) * experts)
    const enabled = countEnabled(row)
    const levels = route.hser ? lacking(route.hser, row) : ''
    if (enabled >= k && levels === '') continue
    const text = `${enabled} of ${experts} experts are enabled in layer ${layer}, a token uses ${k}`
    throw createError('ROUTING_TOO_FEW_EXPERTS', levels ? `${text}; ${levels}` : text, { layer, enabled, k })
  }
}
