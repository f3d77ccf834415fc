/** Whether a TierSet leaves every level of a router enough to choose from. */
import { createError } from '../../../errors/index.js'
import type { OpOf } from '../../../model/plan.js'
import type { RoutingShape } from '../../../native.js'
import { validationError } from '../../../validation.js'
import { countEnabled, fewestInGroups, lackingLevel } from '../masks.js'

/** ROUTING_TOO_FEW_EXPERTS {layer, enabled, k}; VALIDATION_ERROR for a mask that is not [layers][experts]. */
export function checkEnabled(
  routes: readonly OpOf<'route'>[],
  { layers, experts, k }: RoutingShape,
  mask: Uint8Array
): void {
  if (!(mask instanceof Uint8Array) || mask.length < layers * experts) {
    throw validationError('checkEnabled', 'enabled', mask, `a Uint8Array of ${layers * experts}`)
  }
  for (const [layer, route] of routes.entries()) {
    const row = mask.subarray(layer * experts, (layer + 1) * experts)
    const enabled = countEnabled(row)
    const lacking = route.hser && lackingLevel(route.hser, row)
    const fewest = route.groups ? fewestInGroups(route.groups, row) : enabled
    if (enabled >= k && fewest >= k && !lacking) continue
    const text = `${enabled} of ${experts} experts are enabled in layer ${layer}, a token uses ${k}`
    const level = lacking
      ? `; ${lacking.enabled} enabled at the level of ${lacking.level}, ${lacking.k} are to be chosen`
      : enabled >= k
        ? `; ${fewest} enabled in the ${route.groups?.used} groups that have fewest, ${k} are to be chosen`
        : ''
    throw createError('ROUTING_TOO_FEW_EXPERTS', text + level, { layer, enabled, k })
  }
}
