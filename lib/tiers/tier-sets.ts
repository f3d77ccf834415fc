/** TierSets: the tiers that a request may use, by a mode, an alias, a tier's name or a list of names. */
import { createError, isEngineError } from '../errors/index.js'
import { PLACEMENTS, type Placement } from '../model/hser.js'
import type { ModelTiers } from './model-tiers.js'

/** The fixed modes (Lite LLM 041): tiers up to a placement. `max` is every tier. */
export const MODES = { fast: 'hot', balanced: 'warm', deep: 'cold', max: 'archive' } as const satisfies Record<
  string,
  Placement
>
export const MODE_NAMES: readonly string[] = Object.keys(MODES)

/** How a TierSet is asked for. */
export type TierSetName = string | readonly string[]

export interface TierSet {
  /** What it was asked for by; of a list, the tiers' names joined with '+'. */
  name: string
  /** Names, in the model's order; at least one. */
  tiers: readonly string[]
  /** Experts of all layers together. */
  experts: number
  /** [layers][experts], 0 = not to be used. Undefined where every tier is enabled: then nothing differs from the plain model. */
  enabled: Uint8Array | undefined
}

/** Whether a TierSet has another's tiers and perhaps more. */
export const contains = (tiers: readonly string[], others: readonly string[]): boolean =>
  others.every((name) => tiers.includes(name))

export class TierSets {
  readonly #model: ModelTiers
  readonly #aliases: ReadonlyMap<string, TierSetName>
  readonly #check: (enabled: Uint8Array) => void
  /** By tiers, so that equal TierSets share one mask. */
  readonly #known = new Map<string, Omit<TierSet, 'name'>>()

  /**
   * `check` throws ROUTING_TOO_FEW_EXPERTS for a mask that leaves a layer too few. CONFIG_UNKNOWN_TIER where an alias names no tier,
   * VALIDATION_ERROR where it takes the name of a mode or a tier.
   */
  constructor(
    model: ModelTiers,
    check: (enabled: Uint8Array) => void,
    aliases: Readonly<Record<string, TierSetName>> = {}
  ) {
    this.#model = model
    this.#check = check
    this.#aliases = new Map(Object.entries(aliases))
    for (const [alias, meaning] of this.#aliases) {
      if (MODE_NAMES.includes(alias) || model.names().includes(alias)) {
        const allowed = 'a name that is neither a mode nor a tier'
        throw createError('VALIDATION_ERROR', `tierSets: ${alias} is the name of a mode or tier, allowed: ${allowed}`, {
          path: `tierSets.${alias}`,
          found: alias,
          allowed
        })
      }
      this.#tiersOf(meaning, false)
    }
  }

  /** Every name that a TierSet can be asked for by. */
  names(): string[] {
    return [...MODE_NAMES, ...this.#aliases.keys(), ...this.#model.names()]
  }

  /**
   * The TierSet of a name or of a list of tiers, fit to be used. CONFIG_UNKNOWN_TIER {tier, known, tierSets}; TIER_UNAVAILABLE {tier, available}
   * for one that the model was loaded without (modes do not count it); ROUTING_TOO_FEW_EXPERTS {tierSet, tiers, layer, enabled, k} where a layer has fewer experts than a token uses.
   */
  activate(asked: TierSetName): TierSet {
    const tiers = this.tiersOf(asked)
    const name = typeof asked === 'string' ? asked : tiers.join('+')
    const key = tiers.join('+')
    let known = this.#known.get(key)
    if (!known) {
      known = this.#create(name, tiers)
      this.#known.set(key, known)
    }
    return { name, ...known }
  }

  /** Names of the tiers of a TierSet, in the model's order. CONFIG_UNKNOWN_TIER, TIER_UNAVAILABLE. */
  tiersOf(asked: TierSetName): string[] {
    const tiers = this.#tiersOf(asked, true)
    this.#checkAvailable(tiers)
    return tiers
  }

  /** Whether these tiers are here and leave every layer enough experts. */
  suffices(tiers: readonly string[]): boolean {
    try {
      this.activate(tiers)
      return true
    } catch (error) {
      if (isEngineError(error) && ['ROUTING_TOO_FEW_EXPERTS', 'TIER_UNAVAILABLE'].includes(error.code)) return false
      throw error
    }
  }

  #create(name: string, tiers: readonly string[]): Omit<TierSet, 'name'> {
    const own = this.#model.tiers.filter((tier) => tiers.includes(tier.name))
    const experts = own.reduce((sum, tier) => sum + tier.experts, 0)
    if (own.length === this.#model.tiers.length) return { tiers, experts, enabled: undefined }
    const enabled = this.#model.mask(tiers)
    try {
      this.#check(enabled)
    } catch (error) {
      if (!isEngineError(error) || error.code !== 'ROUTING_TOO_FEW_EXPERTS') throw error
      const text = `TierSet ${name} (${tiers.join(', ')}): ${error.message}`
      throw createError(error.code, text, { ...error.details, tierSet: name, tiers: [...tiers] }, { cause: error })
    }
    return { tiers, experts, enabled }
  }

  #tiersOf(asked: TierSetName, aliases: boolean): string[] {
    const names = this.#model.names()
    if (typeof asked === 'string') {
      const alias = aliases ? this.#aliases.get(asked) : undefined
      if (alias !== undefined) return this.#tiersOf(alias, false)
      if (Object.hasOwn(MODES, asked)) return this.#upTo(MODES[asked as keyof typeof MODES])
      if (!names.includes(asked)) throw this.#unknown(asked)
      return [asked]
    }
    for (const name of asked) if (!names.includes(name)) throw this.#unknown(name)
    return names.filter((name) => asked.includes(name))
  }

  #checkAvailable(tiers: readonly string[]): void {
    const available = this.#model.available()
    const tier = tiers.find((name) => !available.includes(name))
    if (tier === undefined) return
    const text = `the model was loaded without the tier ${tier}; available: ${available.join(', ')}`
    throw createError('TIER_UNAVAILABLE', text, { tier, available })
  }

  /** The available tiers placed no colder than this; where there are none, the hottest that there are. */
  #upTo(placement: Placement): string[] {
    const rank = (of: Placement) => PLACEMENTS.indexOf(of)
    const here = this.#model.tiers.filter(({ available }) => available)
    const hottest = Math.min(...here.map((tier) => rank(tier.placement)))
    const most = Math.max(rank(placement), hottest)
    return here.filter((tier) => rank(tier.placement) <= most).map(({ name }) => name)
  }

  #unknown(tier: string) {
    const known = this.#model.names()
    const sets = [...MODE_NAMES, ...this.#aliases.keys()]
    return createError(
      'CONFIG_UNKNOWN_TIER',
      `there is no tier ${JSON.stringify(tier)}; tiers: ${known.join(', ')}; TierSets: ${sets.join(', ')}`,
      { tier, known, tierSets: sets }
    )
  }
}
