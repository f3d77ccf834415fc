/** Multipliers of Granite's models, which were trained with constants in place of learned scales. */
import type { Metadata } from './metadata.js'

export interface Multipliers {
  /** Of the embeddings. */
  embedding: number
  /** Of what attention and experts add to the residual stream. */
  residual: number
  /** What logits are divided by. */
  logits: number
}

export const multiplierKeys = ['.embedding_scale', '.residual_scale', '.logit_scale'] as const

/** As llama.cpp's converter writes them; 0, or none, is 1. METADATA_INVALID. */
export function readMultipliers(m: Metadata): Multipliers {
  const read = (key: string) => (m.has(key) && m.get(key) !== 0 ? m.number(key, { min: 1e-6, max: 1e6 }) : 1)
  const [embedding, residual, logits] = multiplierKeys.map(read) as [number, number, number]
  return { embedding, residual, logits }
}
