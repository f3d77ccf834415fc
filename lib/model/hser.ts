/**
 * The topology of a hierarchical (HSER) model, from a file's metadata: tiers of groups of experts, the same in every layer, experts numbered
 * in (tier, group, expert) order. docs/hser.md has the keys and the tensors. Source of the form: Lite LLM 005.
 */
import { createError } from '../errors/index.js'
import type { GgufTensorInfo } from '../native.js'
import type { Metadata } from './metadata.js'
import type { PlanHser } from './plan.js'

/** Where a tier's experts are to be: in the backend's own memory, host memory, a local file, an object store. */
export type Placement = 'hot' | 'warm' | 'cold' | 'archive'
export const PLACEMENTS: readonly Placement[] = ['hot', 'warm', 'cold', 'archive']

export interface HserTier {
  name: string
  placement: Placement
  /** Experts of each of its groups. */
  groups: number[]
}

export interface HserSizes {
  tiers: HserTier[]
  /** Chosen per token: tiers, groups of each, experts of each. */
  kTier: number
  kGroup: number
  kExpert: number
  /** Most experts that may be active per token. */
  bound: number
}

/** More tiers than this are a damaged file. */
const mostTiers = 256

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0)

function counts(m: Metadata, key: string, parts: number): number[] {
  const list = m.numbers(key)
  if (list.length !== parts || !list.every((n) => Number.isInteger(n) && n >= 1 && n <= 4096)) {
    m.refuse(key, `${parts} integers from 1 to 4096`)
  }
  return list
}

function names(m: Metadata): string[] {
  const list = m.strings('.hser.tiers')
  if (list.length < 1 || list.length > mostTiers || new Set(list).size !== list.length || !list.every(isTierName)) {
    m.refuse('.hser.tiers', `1 to ${mostTiers} names, each once, of a to z, 0 to 9, _ and -, at most 32 characters`)
  }
  return list
}

/** Names that are safe as a folder, in a list and in a manifest. */
export const isTierName = (name: string): boolean => /^[a-z0-9][a-z0-9_-]{0,31}$/.test(name)

/** A tier is placed where its name says, hot where it says nothing. */
export const placementOf = (name: string): Placement => PLACEMENTS.find((placement) => placement === name) ?? 'hot'

function placements(m: Metadata, tiers: readonly string[]): Placement[] {
  if (!m.has('.hser.placements')) return tiers.map(placementOf)
  const list = m.strings('.hser.placements')
  if (list.length !== tiers.length || !list.every((p) => PLACEMENTS.includes(p as Placement))) {
    m.refuse('.hser.placements', `${tiers.length} of ${PLACEMENTS.join(', ')}`)
  }
  return list as Placement[]
}

/**
 * The topology, or undefined for a flat model. METADATA_INVALID {key, found, allowed}: also where a tier has fewer groups, or a group fewer
 * experts, than are chosen, and where more experts would be active than `expert_used_count` allows.
 */
export function readHser(m: Metadata, experts: number, bound: number): HserSizes | undefined {
  if (!m.has('.hser.tiers')) return undefined
  const tierNames = names(m)
  const tierGroups = counts(m, '.hser.tier_groups', tierNames.length)
  const groupExperts = counts(m, '.hser.group_experts', sum(tierGroups))
  if (sum(groupExperts) !== experts) m.refuse('.hser.group_experts', `numbers that add up to the ${experts} experts`)
  const kTier = m.integer('.hser.tiers_used', { max: tierNames.length })
  const kGroup = m.integer('.hser.groups_used', { max: Math.min(...tierGroups) })
  const kExpert = m.integer('.hser.experts_used', { max: Math.min(...groupExperts) })
  if (kTier * kGroup * kExpert > bound) {
    m.refuse('.expert_used_count', `at least the ${kTier} · ${kGroup} · ${kExpert} experts active per token`)
  }
  const placed = placements(m, tierNames)
  let group = 0
  const tiers = tierNames.map((name, i): HserTier => {
    const first = group
    group += tierGroups[i]!
    return { name, placement: placed[i]!, groups: groupExperts.slice(first, group) }
  })
  return { tiers, kTier, kGroup, kExpert, bound }
}

/** Running sums from 0: where each part begins, and the end. */
function offsets(parts: readonly number[]): number[] {
  const out = [0]
  for (const part of parts) out.push(out.at(-1)! + part)
  return out
}

/** The topology as a plan has it. */
export function planHser(sizes: HserSizes, tierRouter: string, groupRouter: string): PlanHser {
  const { tiers, kTier, kGroup, kExpert, bound } = sizes
  return {
    tierRouter,
    groupRouter,
    tierGroups: offsets(tiers.map(({ groups }) => groups.length)),
    groupExperts: offsets(tiers.flatMap(({ groups }) => groups)),
    kTier,
    kGroup,
    kExpert,
    bound
  }
}

/** Groups of all tiers. */
export const groupCount = (sizes: HserSizes): number => sum(sizes.tiers.map(({ groups }) => groups.length))

/** CONFIG_GROUP_COUNT_MISMATCH {configured, manifest, router, tensor} where a group router has another number of rows than there are groups. */
export function checkGroupRouters(sizes: HserSizes, tensors: readonly GgufTensorInfo[]): void {
  const groups = groupCount(sizes)
  for (const { name, shape } of tensors) {
    if (!/^blk\.\d+\.ffn_group_router\.weight$/.test(name)) continue
    const router = shape[1] ?? 1
    if (router !== groups) {
      throw createError(
        'CONFIG_GROUP_COUNT_MISMATCH',
        `the metadata have ${groups} expert groups, the router ${name} has ${router}`,
        { configured: null, manifest: groups, router, tensor: name }
      )
    }
  }
}
