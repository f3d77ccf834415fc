/** The tiers of one model: which tier every expert of every layer is in. Flat expert ids, as routes have them. */
import type { HserSizes, Placement } from '../model/hser.js'

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
}

/** Everything in one tier. */
export const oneTier = (layers: number, experts: number): TierLabels => ({
  tiers: [{ name: 'all', placement: 'warm' }],
  assignment: Array.from({ length: layers }, () => new Array<number>(experts).fill(0))
})

/** The tiers of a hierarchical model, the same in every layer. */
export function hierarchicalTiers({ tiers }: HserSizes, layers: number): TierLabels {
  const own = tiers.flatMap(({ groups }, tier) =>
    new Array<number>(groups.reduce((sum, experts) => sum + experts, 0)).fill(tier)
  )
  return {
    tiers: tiers.map(({ name, placement }) => ({ name, placement })),
    assignment: Array.from({ length: layers }, () => own)
  }
}

export class ModelTiers {
  /** In the model's order. */
  readonly tiers: readonly Tier[]
  readonly layers: number
  /** Of one layer. */
  readonly experts: number
  /** [layers][experts] */
  readonly #tierOf: Uint8Array

  /** `expertBytes`: of one expert of a layer. `leftOut`: tiers that are not here. */
  constructor(
    { tiers, assignment }: TierLabels,
    expertBytes: (layer: number) => number,
    leftOut: readonly string[] = []
  ) {
    this.layers = assignment.length
    this.experts = assignment[0]?.length ?? 0
    this.#tierOf = Uint8Array.from(assignment.flat())
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
