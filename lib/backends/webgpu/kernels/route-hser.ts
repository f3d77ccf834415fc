/** The hierarchical part of a route's request and what limits its choice, checked as on the CPU (csrc/cpu/route_hser.h, route_groups.h). */
import { createError } from '../../../errors/index.js'
import type { OnDevice } from '../../../kernels/device-arrays.js'
import type { HserRouting } from '../../../kernels/requests.js'
import type { RouteGroups } from '../../../model/plan.js'
import type { HserShape } from '../launches/route.js'
import { countEnabled, fewestInGroups, lackingLevel } from '../masks.js'
import { arrayArgument, hostArgument, integerArgument, mostChosen, numberArgument, refused } from './arguments.js'
import type { KernelCall } from './call.js'

export interface UpperLevels {
  shape: HserShape
  tierGroups: Uint32Array
  groupExperts: Uint32Array
  /** tierGroups, then groupExperts. */
  topology: Uint32Array
  /** Of groups and tiers, as they follow the experts' router. */
  routers: { name: string; value: unknown; count: number }[]
}

/** Offsets rise from 0 to `total`, each part holding at least `least`. */
function checkOffsets(name: string, offsets: Uint32Array, total: number, least: number): void {
  if (offsets[0] !== 0 || offsets.at(-1) !== total)
    throw refused(name, `offsets from 0 to ${total}`, `${offsets[0]} to ${offsets.at(-1)}`)
  for (let i = 1; i < offsets.length; i++)
    if (offsets[i]! < offsets[i - 1]! + least)
      throw refused(name, `parts of at least ${least}`, `offsets ${offsets[i - 1]}, ${offsets[i]} at ${i - 1}`)
}

const tooFew = (level: string, k: number, enabled: number) =>
  createError('VALIDATION_ERROR', `route: ${enabled} enabled at the level of ${level}, ${k} are to be chosen`, {
    argument: 'enabled',
    level,
    k,
    enabled
  })

/** Reads and checks `hser`. VALIDATION_ERROR. */
export async function readHser(
  call: KernelCall,
  hser: OnDevice<HserRouting> | undefined,
  width: number,
  experts: number,
  k: number
): Promise<UpperLevels> {
  const h: Partial<OnDevice<HserRouting>> = hser ?? {}
  const tierGroups = await hostArgument(call, 'hser.tierGroups', h.tierGroups, 'u32', 2)
  const groupExperts = await hostArgument(call, 'hser.groupExperts', h.groupExperts, 'u32', 2)
  const [tiers, groups] = [tierGroups.length - 1, groupExperts.length - 1]
  const chosen = (name: 'kTier' | 'kGroup' | 'kExpert') => integerArgument(`hser.${name}`, h[name], 1, mostChosen)
  const [kTier, kGroup, kExpert] = [chosen('kTier'), chosen('kGroup'), chosen('kExpert')]
  const bound = integerArgument('hser.bound', h.bound ?? mostChosen, 1, mostChosen)
  const exponentOf = (name: 'tierRouterExponent' | 'groupRouterExponent') =>
    numberArgument(`hser.${name}`, h[name], -200, 200)

  if (tiers > groups || groups > experts)
    throw refused('hser', 'tiers ≤ groups ≤ experts', `${tiers}, ${groups}, ${experts}`)
  const active = kTier * kGroup * kExpert
  if (active !== k) throw refused('k', `kTier · kGroup · kExpert = ${active}`, String(k))
  if (active > bound) {
    const text = `route: ${kTier} · ${kGroup} · ${kExpert} experts would be active, the bound is ${bound}`
    throw createError('VALIDATION_ERROR', text, { argument: 'hser.bound', active, bound })
  }
  if (kTier > tiers) throw tooFew('tier', kTier, tiers)
  checkOffsets('hser.tierGroups', tierGroups, groups, kGroup)
  checkOffsets('hser.groupExperts', groupExperts, experts, kExpert)

  const routers = [
    { name: 'hser.groupRouter', value: h.groupRouter, count: groups * width },
    { name: 'hser.tierRouter', value: h.tierRouter, count: tiers * width }
  ]
  for (const { name, value, count } of routers) arrayArgument(name, value, 'i32', count)
  return {
    shape: {
      tiers,
      groups,
      kTier,
      kGroup,
      kExpert,
      tierExponent: exponentOf('tierRouterExponent'),
      groupExponent: exponentOf('groupRouterExponent')
    },
    tierGroups,
    groupExperts,
    topology: Uint32Array.of(...tierGroups, ...groupExperts),
    routers
  }
}

/** Whether the mask leaves enough at every level. VALIDATION_ERROR {level, k, enabled}. */
export function checkEnabled(
  experts: number,
  k: number,
  enabled: Uint8Array | undefined,
  upper: UpperLevels | undefined,
  groups: RouteGroups | undefined
): void {
  if (!upper) {
    const count = enabled ? countEnabled(enabled) : experts
    if (k <= count) {
      const fewest = groups && enabled ? fewestInGroups(groups, enabled) : k
      if (fewest < k) throw tooFew('group', k, fewest)
      return
    }
    const text = `route: k = ${k}, but ${count} of ${experts} experts are enabled`
    throw createError('VALIDATION_ERROR', text, { argument: 'enabled', k, enabled: count })
  }
  const { shape, tierGroups, groupExperts } = upper
  const lacking = enabled && lackingLevel({ ...shape, tierGroups, groupExperts }, enabled)
  if (lacking) throw tooFew(lacking.level, lacking.k, lacking.enabled)
}
