/** Tells the store of one model where its experts are to be, whenever what is wanted of them changes. */
import { isEngineError } from '../errors/index.js'
import type { ExpertMemory } from '../expert-budget.js'
import type { NativeModel } from '../native.js'
import type { ModelTiers } from './model-tiers.js'
import { directives, PlacementPlan } from './placement.js'

export interface Steered {
  /** Experts that may no longer be evicted, that are evicted before others, and that the policy has back. */
  pinned: number
  demoted: number
  promoted: number
  /** Experts of active hot tiers that are not pinned, for want of room or beyond their tier's budget: the policy has them. */
  unpinned: number
}

/** Of a model whose experts all have a slot. */
export const nothingSteered: Steered = { pinned: 0, demoted: 0, promoted: 0, unpinned: 0 }

const countOf = (map: Uint8Array, what: number): number => map.reduce((sum, now) => sum + Number(now === what), 0)

/** Slots that stay free of pins: for what is not hot, and for one expert in flight beside each worker's. */
export const pinnableSlots = (slots: number, workers: number): number =>
  Math.max(0, slots - Math.max(workers + 1, Math.ceil(slots / 4)))

/** Where experts are to be before any is read. */
export interface FirstPlacement {
  plan: PlacementPlan
  /** Experts that may be pinned. */
  room: number
  /** Of the plan, as ExpertOptions has it. */
  map: Uint8Array
}

/** `active`: the tiers of the first TierSet. Undefined where every expert has a slot: then nothing is ever evicted. */
export function placeFirst(
  tiers: ModelTiers,
  { experts }: Pick<ExpertMemory, 'experts'>,
  workers: number,
  active: readonly string[]
): FirstPlacement | undefined {
  const slots = Math.floor(experts.certain / experts.slot)
  if (experts.count === 0 || slots >= experts.count) return undefined
  const plan = new PlacementPlan(tiers, experts.slot)
  plan.activate(active)
  const room = pinnableSlots(slots, workers)
  return { plan, room, map: plan.directives(room) }
}

export class Steering {
  readonly plan: PlacementPlan
  readonly #native: NativeModel
  readonly #room: number
  readonly #onUnpinned: (experts: number) => void
  #map: Uint8Array
  #last: Promise<unknown> = Promise.resolve()

  /** `first`: what the model was loaded with. `onUnpinned`: so many experts of hot tiers are not pinned, more than before. */
  constructor(native: NativeModel, { plan, room, map }: FirstPlacement, onUnpinned: (experts: number) => void) {
    this.plan = plan
    this.#native = native
    this.#room = room
    this.#onUnpinned = onUnpinned
    this.#map = map
    const unpinned = countOf(map, directives.preferred)
    if (unpinned > 0) onUnpinned(unpinned)
  }

  /** [layers][experts] of `directives`: what the store was told last. */
  get map(): Uint8Array {
    return this.#map
  }

  /** The tiers that requests use from now on. Experts that come back are read ahead of their use. RESOURCE_BUDGET_TOO_SMALL. */
  activate(tiers: readonly string[]): Promise<Steered> {
    this.plan.activate(tiers)
    return this.apply()
  }

  /** Pins experts whatever their tier, or no longer. RESOURCE_BUDGET_TOO_SMALL where too few slots would be left; then nothing changes. */
  async pin(experts: readonly { layer: number; expert: number }[], pinned: boolean): Promise<Steered> {
    const changed = experts.filter(({ layer, expert }) => this.plan.isPinned(layer, expert) !== pinned)
    for (const { layer, expert } of changed) this.plan.pin(layer, expert, pinned)
    try {
      return await this.apply()
    } catch (error) {
      for (const { layer, expert } of changed) this.plan.pin(layer, expert, !pinned)
      await this.apply()
      throw error
    }
  }

  /** Tells the store what the plan says now. Calls run one after another. */
  apply(): Promise<Steered> {
    const next = this.#last.then(() => this.#apply())
    this.#last = next.catch(() => {})
    return next
  }

  async #apply(): Promise<Steered> {
    const before = this.#map
    let map = this.plan.directives(this.#room)
    try {
      await this.#native.placeExperts(map)
    } catch (error) {
      if (!isEngineError(error) || error.code !== 'RESOURCE_BUDGET_TOO_SMALL') throw error
      // Memory has become short since the load: only what was pinned by hand stays pinned.
      map = this.plan.directives(0)
      await this.#native.placeExperts(map)
    }
    this.#map = map
    const became = (what: number) => map.filter((now, i) => now === what && before[i] !== what).length
    const unpinned = countOf(map, directives.preferred)
    if (unpinned > countOf(before, directives.preferred)) this.#onUnpinned(unpinned)
    return {
      pinned: became(directives.pinned),
      demoted: became(directives.demoted),
      promoted: map.filter((now, i) => now !== directives.demoted && before[i] === directives.demoted).length,
      unpinned
    }
  }
}
