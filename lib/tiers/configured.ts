/** Tiers that the caller of loadModel gives: labels on a plain model's experts, or other placements of the tiers that a model has. */
import { z } from 'zod'
import { assignTiers } from '../checkpoint/tiers.js'
import { readTiers, tierSpecs } from '../checkpoint/tiers-file.js'
import { createError } from '../errors/index.js'
import { groupCount, PLACEMENTS, type Placement } from '../model/hser.js'
import type { ModelDescription } from '../model/index.js'
import { validated } from '../schemas.js'
import { byteSize, isByteSize, validationError } from '../validation.js'
import type { TierLabel, TierLabels } from './model-tiers.js'

interface Described {
  description: ModelDescription
  tiers: TierLabels
  ownTiers: boolean
}

const ownSchema = z.strictObject({
  name: z.string().describe('the name of a tier'),
  placement: z
    .enum(PLACEMENTS as [Placement, ...Placement[]])
    .optional()
    .describe(PLACEMENTS.join(', ')),
  budget: z.custom<number | string>(isByteSize).transform(byteSize).optional().describe('bytes, or a text as 2GiB'),
  groups: z.number().int().min(1).optional().describe('an integer from 1 on')
})

/**
 * The tiers of a load. VALIDATION_ERROR for tiers that do not hold every expert once and for the budget of one that is not hot, CONFIG_UNKNOWN_TIER {tier, known} and
 * CONFIG_GROUP_COUNT_MISMATCH {configured, manifest, router, tier} where the model has tiers of its own, FILE_READ_FAILED.
 */
export async function configureTiers(
  given: string | readonly { name: string }[],
  { description, tiers: own, ownTiers }: Described
): Promise<TierLabels> {
  const { expertLayers: layers, experts } = description.sizes
  if (!ownTiers) {
    const specs = typeof given === 'string' ? await readTiers(given) : tierSpecs({ tiers: given.map(placed) }, 'tiers')
    const tiers = specs.map(({ name, placement, budget }) => ({
      name,
      placement,
      ...(budget !== undefined && { budget })
    }))
    for (const tier of tiers) checkBudget(tier, tier.budget)
    return { tiers, assignment: assignTiers(specs, layers, experts).tiers }
  }
  if (typeof given === 'string') {
    const allowed = 'a list of {name, placement}: the model has tiers of its own'
    throw createError('VALIDATION_ERROR', `loadModel: tiers is ${JSON.stringify(given)}, allowed: ${allowed}`, {
      path: 'tiers',
      found: given,
      allowed
    })
  }
  const changed = new Map(own.tiers.map((tier) => [tier.name, tier]))
  for (const item of given) {
    const { name, placement, budget, groups } = validated(ownSchema, item, 'loadModel tiers')
    const tier = checkTier(description, own, name, groups)
    const now = { ...tier, ...(placement && { placement }), ...(budget !== undefined && { budget }) }
    checkBudget(now, budget)
    changed.set(name, now)
  }
  return { ...own, tiers: [...changed.values()] }
}

/** A budget limits what is pinned, and of other tiers nothing is. */
function checkBudget({ name, placement }: TierLabel, budget: number | undefined): void {
  if (budget === undefined || placement === 'hot') return
  const allowed = 'of a hot tier only: of others nothing is pinned'
  throw validationError('loadModel', `tiers: the budget of ${name}`, budget, allowed)
}

/** The placement may be left out: then the name says it, or it is hot. */
const placed = (tier: { name: string }): object => ({
  placement: PLACEMENTS.find((placement) => placement === tier.name) ?? 'hot',
  ...tier
})

function checkTier(description: ModelDescription, { tiers }: TierLabels, name: string, configured?: number): TierLabel {
  const known = tiers.map((tier) => tier.name)
  const own = tiers.find((tier) => tier.name === name)
  if (!own) {
    const text = `there is no tier ${JSON.stringify(name)} in the model; tiers: ${known.join(', ')}`
    throw createError('CONFIG_UNKNOWN_TIER', text, { tier: name, known, tierSets: [] })
  }
  const { hser } = description.sizes
  const manifest = hser?.tiers.find((tier) => tier.name === name)?.groups.length ?? 1
  if (configured === undefined || configured === manifest) return own
  const text = `tier ${name} is configured with ${configured} expert groups, the model has ${manifest}`
  const router = hser ? groupCount(hser) : 1
  throw createError('CONFIG_GROUP_COUNT_MISMATCH', text, { tier: name, configured, manifest, router })
}
