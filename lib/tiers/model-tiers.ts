/** The tiers of one model: which tier every expert of every layer is in. Flat expert ids, as routes have them. */
import { assignHser } from '../checkpoint/tiers.js'
import type { HserSizes, Placement } from '../model/hser.js'

/** What names an expert of a model: its layer, its tier, its group in that tier (0 where the tier has one), and its id in the layer, as routes have it. */
export interface ExpertKey {
  layer: number
  tier: string
  group: number
  expert: number
}

export interface TierLabel {
  name: string
  placement: Placement
  /** Most bytes of its experts that are pinned where it is hot. Not there: all of them, or none where they do not fit. */
  budget?: number
}

export interface Tier extends TierLabel {
  /** Experts and their bytes, of all layers together. */
  experts: number
  bytes: number
  /** False: the model was loaded without its files, and no request can use it until `engine.expand` adds it. */
  available: boolean
}

export interface TierLabels {
  tiers: readonly TierLabel[]
  /** Index of each expert's tier: [layer][expert]. */
  assignment: readonly (readonly number[])[]
  /** The group of each expert in its tier: [layer][expert]. Not there: every tier has one. */
  groups?: readonly (readonly number[])[]
}

/** Everything in one tier. */
export const oneTier = (layers: number, experts: number): TierLabels => ({
  tiers: [{ name: 'all', placement: 'warm' }],
  assignment: Array.from({ length: layers }, () => new Array<number>(experts).fill(0))
})

/** The tiers of a hierarchical model, the same in every layer. */
export function hierarchicalTiers(hser: HserSizes, layers: number): TierLabels {
  const { tiers: assignment, groups } = assignHser(hser, layers)
  return { tiers: hser.tiers.map(({ name, placement }) => ({ name, placement })), assignment, groups }
}

export class ModelTiers {
  /** In the model's order. */
  readonly tiers: readonly Tier[]
  readonly layers: number
  /** Of one layer. */
  readonly experts: number
  /** [layers][experts] */
  readonly #tierOf: Uint8Array
  readonly #groupOf: Uint16Array

  /** `expertBytes`: of one expert of a layer. `leftOut`: tiers that are not here. */
  constructor(
    { tiers, assignment, groups }: TierLabels,
    expertBytes: (layer: number) => number,
    leftOut: readonly string[] = []
  ) {
    this.layers = assignment.length
    this.experts = assignment[0]?.length ?? 0
    this.#tierOf = Uint8Array.from(assignment.flat())
    this.#groupOf = groups ? Uint16Array.from(groups.flat()) : new Uint16Array(this.#tierOf.length)
    const own = tiers.map((tier): Tier => ({ ...tier, experts: 0, bytes: 0, available: !leftOut.includes(tier.name) }))
    for (const [layer, row] of assignment.entries()) {
      for (const tier of row) {
        own[tier]!.experts++
        own[tier]!.bytes += expertBytes(layer)
      }
    }
    this.tiers = own
  }

  names(): string[] {
    return this.tiers.map(({ name }) => name)
  }

  /** Tiers that requests can use. */
  available(): string[] {
    return this.tiers.filter(({ available }) => available).map(({ name }) => name)
  }

  makeAvailable(names: readonly string[]): void {
    for (const tier of this.tiers) if (names.includes(tier.name)) tier.available = true
  }

  /** The name of an expert's tier. */
  tierOf(layer: number, expert: number): string {
    return this.tiers[this.indexOf(layer * this.experts + expert)]!.name
  }

  keyOf(layer: number, expert: number): ExpertKey {
    const group = this.#groupOf[layer * this.experts + expert]!
    return { layer, tier: this.tierOf(layer, expert), group, expert }
  }

  /** The index in `tiers` of the tier of an entry of [layers][experts]. */
  indexOf(entry: number): number {
    return this.#tierOf[entry]!
  }

  /** One byte per (layer, expert): 1 where its tier is one of these. */
  mask(names: readonly string[]): Uint8Array {
    const on = this.tiers.map(({ name }) => (names.includes(name) ? 1 : 0))
    return this.#tierOf.map((tier) => on[tier]!)
  }

  /** A layer's experts whose tier is one of these, ascending. */
  expertsIn(layer: number, names: readonly string[]): number[] {
    const mask = this.mask(names).subarray(layer * this.experts, (layer + 1) * this.experts)
    return Array.from(mask.keys()).filter((expert) => mask[expert] === 1)
  }
}
