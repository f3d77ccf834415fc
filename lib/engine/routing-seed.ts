/** The routing seed of an engine: 128 bits that break exact ties between experts. It never changes while the engine lives. */
import { randomBytes } from 'node:crypto'
import type { Plan } from '../model/plan.js'
import { DEFAULT_ROUTING_SEED } from '../model/plan-writer.js'

/** Where a seed came from: the caller, this library's constant, the system's random numbers, or those of an engine before this one. */
export type SeedSource = 'option' | 'default' | 'random' | 'journal'

export interface RoutingSeed {
  /** 32 hexadecimal digits. */
  readonly text: string
  /** 4 × u32, most significant first. */
  readonly words: Plan['routingSeed']
  readonly source: SeedSource
}

const wordsOf = (text: string): Plan['routingSeed'] =>
  [0, 8, 16, 24].map((at) => Number.parseInt(text.slice(at, at + 8), 16)) as Plan['routingSeed']

export const textOf = (words: readonly number[]): string =>
  words.map((word) => word.toString(16).padStart(8, '0')).join('')

/**
 * The seed for an option: 32 hexadecimal digits, or `random`. Without one it is the same for all engines, because the same request has to
 * give the same text on each of them. `journaled`: what `random` was before, for the requests that go on.
 */
export function routingSeed(option: string | undefined, journaled?: string): RoutingSeed {
  if (option === undefined) {
    return { text: textOf(DEFAULT_ROUTING_SEED), words: [...DEFAULT_ROUTING_SEED], source: 'default' }
  }
  const random = option === 'random'
  if (random && journaled !== undefined) return { text: journaled, words: wordsOf(journaled), source: 'journal' }
  const text = random ? randomBytes(16).toString('hex') : option.toLowerCase()
  return { text, words: wordsOf(text), source: random ? 'random' : 'option' }
}
