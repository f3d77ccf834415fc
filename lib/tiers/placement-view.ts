/** Where every expert of a model is at one moment, by tier and one by one. Reads the store's own state; nothing is kept between two views. */
import type { Whereabouts } from '../native.js'
import { validationError } from '../validation.js'
import type { ExpertKey, ModelTiers } from './model-tiers.js'
import { directives, type Placement, placementNow } from './placement.js'

/** What the store has of an expert. `unavailable`: its last read, or fetch from the archive, failed; the next use tries again. */
export type ExpertResidency = 'absent' | 'loading' | 'resident' | 'unavailable'
const residencies: readonly ExpertResidency[] = ['absent', 'loading', 'resident', 'unavailable']

/** Bits of Whereabouts. */
const [residencyBits, pinnedBit, localBit, ownMemoryBit] = [3, 4, 16, 32] as const

/** Where an expert is: a placement, or `absent` where neither this machine nor an archive has it. */
export type Where = Placement | 'absent'
const places: readonly Where[] = ['hot', 'warm', 'cold', 'archive', 'absent']

export interface ExpertCount {
  experts: number
  /** In the form that memory has: what a checkpoint's blobs take. */
  bytes: number
}

export interface PlacementCounts {
  /** Where the experts are now. */
  now: Record<Where, ExpertCount>
  /**
   * Experts of these that are pinned, that are not although their tier is hot and active (they do not fit, or are beyond its budget), that are
   * being read, and that could not be read or fetched.
   */
  pinned: number
  unpinned: number
  loading: number
  unavailable: number
}

export interface TierPlacementView extends PlacementCounts {
  name: string
  /** Where the tier is wanted. */
  placement: Placement
  experts: number
  bytes: number
}

export interface ExpertPlacement extends ExpertKey {
  /** Where its tier is wanted, and where it is now. */
  placement: Placement
  now: Where
  residency: ExpertResidency
  /** By hand, or as part of a hot tier: it is never evicted. */
  pinned: boolean
  bytes: number
}

export interface PlacementView extends PlacementCounts {
  model: string
  layers: number
  /** Of one layer. */
  experts: number
  /** Bytes of memory that experts may take now, and that they take. */
  budgetBytes: number
  usedBytes: number
  tiers: TierPlacementView[]
  /** [layers][experts]: 0 hot, 1 warm, 2 cold, 3 archive, 4 absent. */
  where: Uint8Array
  /** One expert of this view. VALIDATION_ERROR for one that does not exist. */
  expert(layer: number, expert: number): ExpertPlacement
}

export interface PlacementSource {
  model: string
  tiers: ModelTiers
  /** Undefined where every expert stays in memory. */
  whereabouts: Whereabouts | undefined
  /** What the store was told to do with each expert; undefined where every one has a slot. */
  told: Uint8Array | undefined
  /** What an expert takes where every one stays in memory. */
  expertBytes: number
  /** Has what no local file has. */
  archive: { isUnavailable(layer: number, expert: number): boolean } | undefined
}

const noCounts = (): PlacementCounts => ({
  now: Object.fromEntries(places.map((place) => [place, { experts: 0, bytes: 0 }])) as PlacementCounts['now'],
  pinned: 0,
  unpinned: 0,
  loading: 0,
  unavailable: 0
})

/** The view of what the store says now. One pass over its bits. */
export function viewPlacement({
  model,
  tiers,
  whereabouts,
  told,
  expertBytes,
  archive
}: PlacementSource): PlacementView {
  const { layers, experts } = tiers
  const count = layers * experts
  const bits = whereabouts?.bits ?? new Uint8Array(count).fill(2 | localBit)
  const bytesOf = (layer: number): number => whereabouts?.layerBytes[layer] ?? expertBytes
  // Where every expert has memory of its own, nothing is ever evicted: that is what hot means.
  const roomForAll = !whereabouts || whereabouts.budgetBytes >= count * Math.max(...whereabouts.layerBytes)
  const whereOf = (index: number): Where => {
    const now = bits[index]!
    const resident = (now & residencyBits) === 2
    const local = (now & localBit) !== 0
    if (!resident && !local && !archive) return 'absent'
    const stays = roomForAll || (now & pinnedBit) !== 0
    return placementNow({ resident, pinned: whereabouts?.ownMemory ? (now & ownMemoryBit) !== 0 : stays, local })
  }
  const residencyOf = (index: number): number => {
    const now = bits[index]! & residencyBits
    if (now !== 0 || (bits[index]! & localBit) !== 0) return now
    return archive?.isUnavailable(Math.floor(index / experts), index % experts) ? 3 : now
  }
  const all = noCounts()
  const own = tiers.tiers.map(({ name, placement }) => ({ name, placement, experts: 0, bytes: 0, ...noCounts() }))
  const where = new Uint8Array(count)
  for (let index = 0; index < count; index++) {
    const place = whereOf(index)
    where[index] = places.indexOf(place)
    const residency = residencyOf(index)
    const bytes = bytesOf(Math.floor(index / experts))
    const tier = own[tiers.indexOf(index)]!
    tier.experts++
    tier.bytes += bytes
    for (const counts of [all, tier]) {
      counts.now[place].experts++
      counts.now[place].bytes += bytes
      if (bits[index]! & pinnedBit) counts.pinned++
      if (told?.[index] === directives.preferred) counts.unpinned++
      if (residency === 1) counts.loading++
      if (residency === 3) counts.unavailable++
    }
  }
  return {
    model,
    layers,
    experts,
    budgetBytes: whereabouts?.budgetBytes ?? count * expertBytes,
    usedBytes: whereabouts?.usedBytes ?? count * expertBytes,
    ...all,
    tiers: own,
    where,
    expert(layer, expert) {
      for (const [name, value, end] of [['layer', layer, layers] as const, ['expert', expert, experts] as const]) {
        if (Number.isInteger(value) && value >= 0 && value < end) continue
        throw validationError('placement', name, value, `an integer from 0 to ${end - 1}`)
      }
      const index = layer * experts + expert
      const { placement } = tiers.tiers[tiers.indexOf(index)]!
      const residency = residencies[residencyOf(index)]!
      const pinned = (bits[index]! & pinnedBit) !== 0
      return { ...tiers.keyOf(layer, expert), placement, now: whereOf(index), residency, pinned, bytes: bytesOf(layer) }
    }
  }
}
