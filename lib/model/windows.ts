/** Sliding windows: which layers see only so many positions. */
import type { Metadata } from './metadata.js'

/**
 * Positions that a token sees in each layer; 0 = all. Keys as llama.cpp has them: `attention.sliding_window`, and
 * `attention.sliding_window_pattern`, a flag for each layer, or a number n: the last of each n layers sees all; 0: none does. METADATA_INVALID.
 */
export function readWindows(m: Metadata, layers: number, pattern: number): number[] {
  const key = '.attention.sliding_window_pattern'
  const window = m.integer('.attention.sliding_window')
  const flags = m.get(key)
  if (Array.isArray(flags)) {
    if (flags.length !== layers || !flags.every((flag) => typeof flag === 'boolean' || flag === 0 || flag === 1)) {
      m.refuse(key, `${layers} flags, or a number`)
    }
    return flags.map((flag) => (flag ? window : 0))
  }
  const each = m.integer(key, { min: 0, default: pattern })
  return Array.from({ length: layers }, (_, layer) => (each === 0 || layer % each < each - 1 ? window : 0))
}
