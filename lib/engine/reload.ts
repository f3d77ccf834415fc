/** Loads a model of the journal again, as far as it is still there: a tier whose own folder has gone is left out, and told. */
import { isEngineError } from '../errors/index.js'
import { MODE_NAMES } from '../tiers/tier-sets.js'
import type { LoadModelRequest } from './options.js'
import type { EngineParts } from './parts.js'

/** Throws what `load` throws, but for a tier that cannot be found: requests that use it fail with TIER_UNAVAILABLE until it is added again. */
export async function reload(
  { telemetry }: Pick<EngineParts, 'telemetry'>,
  request: LoadModelRequest,
  load: (request: LoadModelRequest) => Promise<unknown>
): Promise<void> {
  try {
    await load(request)
  } catch (error) {
    const tier = isEngineError(error) ? error.details.tier : undefined
    const folder = typeof tier === 'string' ? request.tierFolders?.[tier] : undefined
    if (!isEngineError(error) || typeof tier !== 'string' || typeof folder !== 'string') throw error
    const text = `the tier ${tier} of ${request.id} is not in ${folder}: ${error.message}`
    telemetry.event('tier_missing', text, { model: request.id, tier, folder, code: error.code })
    const tierFolders = { ...request.tierFolders, [tier]: false as const }
    const left = request.latencyBudgetMs === undefined && { tierSet: without(request.tierSet, tier) }
    await reload({ telemetry }, { ...request, tierFolders, ...left }, load)
  }
}

/** The active TierSet as far as it is there; all that there is where nothing of it is, or where it has another name. */
function without(tierSet: LoadModelRequest['tierSet'], tier: string): NonNullable<LoadModelRequest['tierSet']> {
  if (typeof tierSet === 'string') return MODE_NAMES.includes(tierSet) ? tierSet : 'max'
  const left = tierSet?.filter((name) => name !== tier) ?? []
  return left.length > 0 ? left : 'max'
}
