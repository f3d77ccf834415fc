/** A placement view as data: what its `expert()` says of each expert goes as a byte, and what it takes. */
import type { ExpertPlacement, PlacementView } from '../tiers/placement-view.js'
import { validationError } from '../validation.js'

export interface PlacementData extends Omit<PlacementView, 'expert'> {
  /** [layers][experts]: bits 0-1 placement, 2-3 residency, 4 pinned. */
  bits: Uint8Array
  /** [layers][experts]: bytes. */
  sizes: Float64Array
  /** [layers][experts]: index into `tiers`, and the group. */
  labels: Uint8Array
  groups: Uint16Array
}

const placements = ['hot', 'warm', 'cold', 'archive'] as const
const residencies = ['absent', 'loading', 'resident', 'unavailable'] as const
const places = ['hot', 'warm', 'cold', 'archive', 'absent'] as const

export function placementData({ expert, ...view }: PlacementView): PlacementData {
  const { layers, experts, tiers } = view
  const all = Array.from({ length: layers * experts }, (_, i) => expert(Math.floor(i / experts), i % experts))
  const names = tiers.map(({ name }) => name)
  return {
    ...view,
    bits: Uint8Array.from(
      all,
      ({ placement, residency, pinned }) =>
        placements.indexOf(placement) | (residencies.indexOf(residency) << 2) | (pinned ? 16 : 0)
    ),
    sizes: Float64Array.from(all, ({ bytes }) => bytes),
    labels: Uint8Array.from(all, ({ tier }) => names.indexOf(tier)),
    groups: Uint16Array.from(all, ({ group }) => group)
  }
}

export function placementView({ bits, sizes, labels, groups, ...view }: PlacementData): PlacementView {
  const { layers, experts, tiers, where } = view
  return {
    ...view,
    expert(layer: number, expert: number): ExpertPlacement {
      for (const [name, value, end] of [['layer', layer, layers] as const, ['expert', expert, experts] as const]) {
        if (Number.isInteger(value) && value >= 0 && value < end) continue
        throw validationError('placement', name, value, `an integer from 0 to ${end - 1}`)
      }
      const index = layer * experts + expert
      const own = bits[index]!
      return {
        layer,
        tier: tiers[labels[index]!]!.name,
        group: groups[index]!,
        expert,
        placement: placements[own & 3]!,
        now: places[where[index]!]!,
        residency: residencies[(own >> 2) & 3]!,
        pinned: (own & 16) !== 0,
        bytes: sizes[index]!
      }
    }
  }
}
