/** A model's tiers, from what its file says. */
import type { ModelDescription } from '../model/index.js'
import type { TierLabels } from './model-tiers.js'
import { hierarchicalTiers, ModelTiers, oneTier } from './model-tiers.js'

/** A hierarchical model's own tiers; everything in one tier otherwise. */
export function modelTierLabels({ sizes }: ModelDescription): TierLabels {
  const { hser, expertLayers: layers, experts } = sizes
  return hser ? hierarchicalTiers(hser, layers) : oneTier(layers, experts)
}

/** `labels`: a checkpoint's, where the model has none of its own. `leftOut`: tiers that are not here. */
export function describeTiers(
  description: ModelDescription,
  labels = modelTierLabels(description),
  leftOut: readonly string[] = []
): ModelTiers {
  return new ModelTiers(labels, () => description.descriptor.expertBytes, leftOut)
}
