/**
 * Where each expert is to be: from the tiers' placement, the pins and the active TierSet to what the store is told. Pure: the store's
 * policy decides the rest, and where an expert really is the store alone knows.
 */
import { PLACEMENTS, type Placement } from '../model/hser.js'
import type { TierLabel } from './model-tiers.js'

export type { Placement }

/** What the store is told of an expert, as NativeModel.placeExperts takes it. `preferred`: the policy's, but read before others at the load. */
export const directives = { byPolicy: 0, pinned: 1, demoted: 2, preferred: 3 } as const

export interface PlacementShape {
  layers: number
  /** Of one layer. */
  experts: number
  tiers: readonly TierLabel[]
  /** Name of an expert's tier. */
  tierOf(layer: number, expert: number): string
}

/** What is wanted of one model's experts. */
export class PlacementPlan {
  readonly #shape: PlacementShape
  readonly #expertBytes: number
  /** [layers][experts]: index of the tier. */
  readonly #tierOf: Uint8Array
  readonly #pins = new Set<number>()
  #inactive: ReadonlySet<string> = new Set()

  /** `expertBytes`: what one expert takes of memory. */
  constructor(shape: PlacementShape, expertBytes: number) {
    const { layers, experts, tiers } = shape
    this.#shape = shape
    this.#expertBytes = expertBytes
    const names = tiers.map(({ name }) => name)
    this.#tierOf = new Uint8Array(layers * experts)
    for (let layer = 0; layer < layers; layer++) {
      for (let expert = 0; expert < experts; expert++) {
        this.#tierOf[layer * experts + expert] = names.indexOf(shape.tierOf(layer, expert))
      }
    }
  }

  /** Pins an expert whatever its tier, or no longer. */
  pin(layer: number, expert: number, pinned: boolean): void {
    const index = layer * this.#shape.experts + expert
    if (pinned) this.#pins.add(index)
    else this.#pins.delete(index)
  }

  isPinned(layer: number, expert: number): boolean {
    return this.#pins.has(layer * this.#shape.experts + expert)
  }

  get pins(): number {
    return this.#pins.size
  }

  /** Experts that were pinned whatever their tier. */
  pinned(): { layer: number; expert: number }[] {
    const { experts } = this.#shape
    return [...this.#pins].map((index) => ({ layer: Math.floor(index / experts), expert: index % experts }))
  }

  /** The tiers that requests use now; experts of the others are evicted first. */
  activate(tiers: readonly string[]): void {
    const all = this.#shape.tiers.map(({ name }) => name)
    this.#inactive = new Set(all.filter((name) => !tiers.includes(name)))
  }

  /**
   * What to tell the store, which can pin no more than `room` experts: [layers][experts] of `directives`. Pins come first, then of each hot tier
   * as many as its budget allows, by layer and expert, where all of these fit. What of a hot tier is not pinned is preferred. Experts of cold and
   * archive tiers and of those that are not active are demoted.
   */
  directives(room: number): Uint8Array {
    const { layers, experts, tiers } = this.#shape
    const map = new Uint8Array(layers * experts)
    const left = tiers.map(({ budget = Number.POSITIVE_INFINITY }) => Math.floor(budget / this.#expertBytes))
    for (const [index, tier] of this.#tierOf.entries()) {
      const { name, placement } = tiers[tier]!
      const far = PLACEMENTS.indexOf(placement) >= PLACEMENTS.indexOf('cold')
      if (far || this.#inactive.has(name)) map[index] = directives.demoted
    }
    for (const index of this.#pins) {
      map[index] = directives.pinned
      left[this.#tierOf[index]!]!--
    }
    const hot: number[] = []
    for (const [index, tier] of this.#tierOf.entries()) {
      if (map[index] !== directives.byPolicy || tiers[tier]!.placement !== 'hot') continue
      map[index] = directives.preferred
      if (left[tier]!-- > 0) hot.push(index)
    }
    // Part of what is wanted, chosen by its number, would be in the way of what the policy knows: these are pinned all or none.
    if (this.#pins.size + hot.length <= room) for (const index of hot) map[index] = directives.pinned
    return map
  }
}

/** What is known of one expert's whereabouts. */
export interface Whereabouts {
  resident: boolean
  pinned: boolean
  /** Its bytes are in a local file. */
  local: boolean
}

/** Where an expert is now. On this backend hot and warm are both host memory: hot is what is pinned. */
export function placementNow({ resident, pinned, local }: Whereabouts): Placement {
  if (resident) return pinned ? 'hot' : 'warm'
  return local ? 'cold' : 'archive'
}
