/** Which expert goes to which tier of a checkpoint: a list of tiers with rules, and the counts of their use, become an assignment. */
import { createError, type EngineError } from '../errors/index.js'
import type { HserSizes, Placement } from '../model/hser.js'

/** Of one layer, or of all: flat ids, or a share of the most used. */
export type ExpertChoice =
  /** Those that no tier before has. */
  | 'rest'
  | { ids: number[] }
  /** Layers that are not named have none. */
  | { layers: Map<number, number[]> }
  /** The most used, 0 to 1 of each layer's experts, rounded; of equally used ones those with lower ids. */
  | { share: number }

export interface TierSpec {
  name: string
  placement: Placement
  /** Most bytes of its experts that are pinned where it is hot. */
  budget?: number
  experts: ExpertChoice
}

/** How often each expert was used: [layer][expert]. */
export interface RoutingStatistics {
  layers: number[][]
}

/** The index of each expert's tier, and its group in that: [layer][expert]. */
export interface Assignment {
  tiers: number[][]
  groups: number[][]
}

/** Everything in one tier, loaded as far as memory goes. */
export const ONE_TIER: readonly TierSpec[] = [{ name: 'all', placement: 'warm', experts: 'rest' }]

/** By measured use: the more used half of each layer's experts stays in memory. */
export const MEASURED_TIERS: readonly TierSpec[] = [
  { name: 'hot', placement: 'hot', experts: { share: 0.5 } },
  { name: 'cold', placement: 'cold', experts: 'rest' }
]

const refuse = (path: string, found: string, allowed: string): EngineError =>
  createError('VALIDATION_ERROR', `tiers: ${path} is ${found}, allowed: ${allowed}`, { path, found, allowed })

/** Ids of a layer from the most used to the least. */
const byUse = (counts: readonly number[]): number[] =>
  counts.map((_, expert) => expert).sort((a, b) => counts[b]! - counts[a]! || a - b)

function checkStatistics({ layers: counts }: RoutingStatistics, layers: number, experts: number): void {
  const fits = counts.length === layers && counts.every((layer) => layer.length === experts)
  if (fits) return
  const found = `counts of ${counts.length} layers and ${counts[0]?.length ?? 0} experts`
  throw refuse('statistics', found, `counts of the model's ${layers} layers and ${experts} experts`)
}

/** The experts that a tier asks for in a layer; undefined for the rest. */
function chosen(
  tier: TierSpec,
  path: string,
  layer: number,
  experts: number,
  statistics: RoutingStatistics | undefined
): number[] | undefined {
  const choice = tier.experts
  if (choice === 'rest') return undefined
  if ('ids' in choice) return choice.ids
  if ('layers' in choice) return choice.layers.get(layer) ?? []
  const counts = statistics?.layers[layer]
  if (!counts) throw refuse(path, 'a share', 'lists of experts: a share of the most used needs statistics')
  return byUse(counts).slice(0, Math.round(choice.share * experts))
}

/**
 * Every expert's tier. VALIDATION_ERROR {path, found, allowed} for experts that do not exist, are in two tiers or in none, for layers that
 * do not exist, for a share without statistics, for statistics of another model, and for a tier without any expert.
 */
export function assignTiers(
  tiers: readonly TierSpec[],
  layers: number,
  experts: number,
  statistics?: RoutingStatistics
): Assignment {
  if (statistics) checkStatistics(statistics, layers, experts)
  const used = new Set<number>()
  const assignment: Assignment = { tiers: [], groups: [] }
  for (let layer = 0; layer < layers; layer++) {
    const own = new Array<number>(experts).fill(-1)
    let rest: number | undefined
    tiers.forEach((tier, index) => {
      const path = `tiers[${index}].experts`
      const ids = chosen(tier, path, layer, experts, statistics)
      if (!ids) {
        if (rest !== undefined) throw refuse(path, 'rest', `experts: the rest belongs to ${tiers[rest]!.name}`)
        rest = index
        return
      }
      for (const id of ids) {
        if (!(Number.isInteger(id) && id >= 0 && id < experts)) {
          throw refuse(path, `expert ${id}`, `experts from 0 to ${experts - 1}`)
        }
        if (own[id] !== -1) {
          const other = tiers[own[id]!]!.name
          throw refuse(path, `expert ${id} of layer ${layer}`, `experts that no other tier has (it is in ${other})`)
        }
        own[id] = index
      }
    })
    const left = own.indexOf(-1)
    if (left !== -1 && rest === undefined) {
      throw refuse(
        'tiers',
        `without expert ${left} of layer ${layer}`,
        "tiers that have every expert, or one with 'rest'"
      )
    }
    assignment.tiers.push(own.map((index) => (index === -1 ? rest! : index)))
    assignment.groups.push(new Array<number>(experts).fill(0))
    for (const index of assignment.tiers[layer]!) used.add(index)
  }
  checkTiers(tiers, layers, used)
  return assignment
}

function checkTiers(tiers: readonly TierSpec[], layers: number, used: ReadonlySet<number>): void {
  tiers.forEach(({ name, experts }, index) => {
    const path = `tiers[${index}]`
    if (!used.has(index)) throw refuse(`${path}.experts`, 'none', `at least one expert for the tier ${name}`)
    if (typeof experts === 'string' || !('layers' in experts)) return
    for (const layer of experts.layers.keys()) {
      if (layer >= layers) throw refuse(`${path}.experts`, `layer ${layer}`, `layers from 0 to ${layers - 1}`)
    }
  })
}

/** The tiers of a hierarchical model: its own. `asked` may place them elsewhere and limit them. VALIDATION_ERROR for other tiers. */
export function hserTiers({ tiers: own }: HserSizes, asked: readonly TierSpec[] | undefined): TierSpec[] {
  const names = own.map(({ name }) => name).join(', ')
  if (!asked) return own.map(({ name, placement }) => ({ name, placement, experts: 'rest' }))
  if (asked.map(({ name }) => name).join(', ') !== names || asked.some(({ experts }) => experts !== 'rest')) {
    const found = `tiers ${asked.map(({ name }) => name).join(', ')}`
    throw refuse('tiers', found, `the model's own without lists of experts: ${names}`)
  }
  return [...asked]
}

/** Experts of a hierarchical model are numbered in (tier, group, expert) order, the same in every layer. */
export function assignHser({ tiers: own }: HserSizes, layers: number): Assignment {
  const places = own.flatMap(({ groups }, tier) =>
    groups.flatMap((experts, group) => Array.from({ length: experts }, () => ({ tier, group })))
  )
  const each = <Item>(items: Item[]) => Array.from({ length: layers }, () => [...items])
  return { tiers: each(places.map(({ tier }) => tier)), groups: each(places.map(({ group }) => group)) }
}
