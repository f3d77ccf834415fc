/**
 * Sizes of multi-head latent attention: keys and values of all heads come from one compressed row per position, which is what the cache
 * holds, beside one rotated key for all heads. Source: DeepSeek-V2 (2024), section 2.1; the keys are those of llama.cpp's converter.
 */
import type { Metadata } from './metadata.js'

export interface LatentSizes {
  /** Width of the compressed query; 0: queries come straight from the state. */
  queryRank: number
  /** Width of the compressed keys and values. */
  rank: number
  /** Floats of a head's query that meet the compressed keys, and of those that are rotated. */
  plain: number
  rotated: number
  /** Floats of a head's value. */
  value: number
  /** The file has one matrix that gives keys and values (`attn_kv_b`), not one for each. */
  joined: boolean
}

/** METADATA_INVALID {key, found, allowed}, also where a width is not the sum of its parts. */
export function readLatent(m: Metadata, heads: number, most: { headDim: number; width: number }): LatentSizes {
  const a = '.attention'
  const size = { max: most.headDim }
  const joined = !m.has(`${a}.key_length_mla`)
  const key = m.integer(joined ? `${a}.key_length` : `${a}.key_length_mla`, size)
  const value = m.integer(joined ? `${a}.value_length` : `${a}.value_length_mla`, size)
  const rotated = m.integer('.rope.dimension_count', { max: key - 1 })
  if (rotated % 2 !== 0) m.refuse('.rope.dimension_count', 'an even number')
  const rank = m.integer(`${a}.kv_lora_rank`, { max: most.headDim - rotated })
  const widest = Math.max(rank + rotated, key, value)
  if (heads * widest > most.width) m.refuse(`${a}.head_count`, `heads × ${widest} of at most ${most.width}`)
  if (!joined) {
    for (const [name, wanted] of [
      ['head_count_kv', 1],
      ['key_length', rank + rotated],
      ['value_length', rank]
    ] as const) {
      if (m.has(`${a}.${name}`) && m.get(`${a}.${name}`) !== wanted) {
        m.refuse(`${a}.${name}`, `${wanted}: the cache holds what all heads share`)
      }
    }
  }
  const queryRank = m.integer(`${a}.q_lora_rank`, { min: 0, max: most.width, default: 0 })
  return { queryRank, rank, plain: key - rotated, rotated, value, joined }
}
