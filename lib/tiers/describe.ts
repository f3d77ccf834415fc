/** A model's tiers, from what its file says. */
import type { ModelDescription } from '../model/index.js'
import { hierarchicalTiers, ModelTiers, oneTier } from './model-tiers.js'

/** A hierarchical model's own tiers; everything in one tier otherwise. */
export function describeTiers({ sizes, descriptor }: ModelDescription): ModelTiers {
  const { hser, layers, experts } = sizes
  const labels = hser ? hierarchicalTiers(hser, layers) : oneTier(layers, experts)
  return new ModelTiers(labels, () => descriptor.expertBytes)
}
