/** Tiers that the caller of loadModel gives: labels on a plain model's experts, or other placements of the tiers that a model has. */
import { z } from 'zod'
import { assignTiers } from '../checkpoint/tiers.js'
import { readTiers, tierSpecs } from '../checkpoint/tiers-file.js'
import { createError } from '../errors/index.js'
import { groupCount, PLACEMENTS, type Placement } from '../model/hser.js'
import type { ModelDescription } from '../model/index.js'
import { validated } from '../schemas.js'
import type { TierLabels } from './model-tiers.js'

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
  groups: z.number().int().min(1).optional().describe('an integer from 1 on')
})

/**
 * The tiers of a load. VALIDATION_ERROR for tiers that do not hold every expert once, CONFIG_UNKNOWN_TIER {tier, known} and
 * CONFIG_GROUP_COUNT_MISMATCH {configured, manifest, router, tier} where the model has tiers of its own, FILE_READ_FAILED.
 */
export async function configureTiers(
  given: string | readonly { name: string }[],
  { description, tiers: own, ownTiers }: Described
): Promise<TierLabels> {
  const { layers, experts } = description.sizes
  if (!ownTiers) {
    const specs = typeof given === 'string' ? await readTiers(given) : tierSpecs({ tiers: given.map(placed) }, 'tiers')
    const tiers = specs.map(({ name, placement }) => ({ name, placement }))
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
  const placements = new Map<string, Placement>()
  for (const item of given) {
    const { name, placement, groups } = validated(ownSchema, item, 'loadModel tiers')
    checkTier(description, own, name, groups)
    if (placement) placements.set(name, placement)
  }
  return {
    ...own,
    tiers: own.tiers.map((tier) => ({ ...tier, placement: placements.get(tier.name) ?? tier.placement }))
  }
}

/** The placement may be left out: then the name says it, or it is hot. */
const placed = (tier: { name: string }): object => ({
  placement: PLACEMENTS.find((placement) => placement === tier.name) ?? 'hot',
  ...tier
})

function checkTier(description: ModelDescription, { tiers }: TierLabels, name: string, configured?: number): void {
  const known = tiers.map((tier) => tier.name)
  if (!known.includes(name)) {
    const text = `there is no tier ${JSON.stringify(name)} in the model; tiers: ${known.join(', ')}`
    throw createError('CONFIG_UNKNOWN_TIER', text, { tier: name, known, tierSets: [] })
  }
  const { hser } = description.sizes
  const manifest = hser?.tiers.find((tier) => tier.name === name)?.groups.length ?? 1
  if (configured === undefined || configured === manifest) return
  const text = `tier ${name} is configured with ${configured} expert groups, the model has ${manifest}`
  const router = hser ? groupCount(hser) : 1
  throw createError('CONFIG_GROUP_COUNT_MISMATCH', text, { tier: name, configured, manifest, router })
}
