/** A seeded layer of experts: its dispatched tokens, its matrices in the file's layout, and what the oracle in doubles makes of them. */
import type { DType, ExpertActivation } from 'tiered-moe/kernels'
import { dispatchOracle, expertRow } from './oracle-moe.js'
import { choices, floats, type Skew, stream, weights } from './values.js'

export interface ExpertLayer {
  tokens: number
  experts: number
  k: number
  skew: Skew
  types: readonly [gate: DType, up: DType, down: DType]
  width: number
  hidden: number
  activation?: ExpertActivation
  /** Its matrices have biases. */
  biased?: boolean
}

export function expertLayer(layer: ExpertLayer, label: string) {
  const { tokens, experts, k, skew, types, width, hidden, activation, biased } = layer
  const next = stream(label)
  const ids = choices(tokens, k, experts, skew, next)
  const file = {
    gate: weights(types[0], hidden, width, next, experts),
    up: weights(types[1], hidden, width, next, experts),
    down: weights(types[2], width, hidden, next, experts)
  }
  const x = floats(tokens * width, next, 'heavy', 0.5)
  const { offsets, slots } = dispatchOracle(ids, experts)
  const biases = biased && {
    gate: floats(experts * hidden, next),
    up: floats(experts * hidden, next),
    down: floats(experts * width, next)
  }
  const options = { ...(activation && { activation }), ...(biases && { biases }) }
  const oracle = () =>
    Array.from(slots).flatMap((slot, row) => {
      const expert = offsets.findIndex((end, e) => e > 0 && end > row) - 1
      const token = Math.floor(slot / k)
      return expertRow(file.gate, file.up, file.down, expert, x.subarray(token * width, (token + 1) * width), options)
    })
  return { x, offsets, slots, file, options, oracle }
}
