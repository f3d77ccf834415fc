/** What an expert's gate and up become, in float64. */
import type { OpOf } from '../../lib/model/plan.js'

export function naiveActivation(kind: OpOf<'experts'>['activation'], gate: number, up: number): number {
  if (kind === 'silu') return (gate / (1 + Math.exp(-gate))) * up
  const g = Math.min(gate, 7)
  return (g / (1 + Math.exp(-1.702 * g))) * (Math.max(-7, Math.min(7, up)) + 1)
}
