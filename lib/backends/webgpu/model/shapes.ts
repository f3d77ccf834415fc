/** The shapes of a model's steps, each encoded once: few are in use at a time, and those used last are kept. */

import { pagePositions } from '../../../kernels/layout.js'
import { leastPositions, logitRows } from './arena.js'
import type { KvPool } from './kv-pool.js'
import { LogitsShape } from './logits-shape.js'
import type { Item } from './step-items.js'
import type { ShapeKey, ShapeParts } from './step-shape.js'
import { StepShape } from './step-shape.js'

export const mostShapes = 6
const mostLogits = 8
/** The fewest entries of page tables. */
const leastPages = 16

/** Up to so many positions, times rows, attention is made for all that the pool has: its partial sums take some megabytes. */
const steadyPositions = 2 ** 17

const powerOfTwo = (n: number, least: number): number => Math.max(least, 2 ** Math.ceil(Math.log2(n)))

/** The most positions that a token of these items sees. */
export const farthest = (items: readonly Item[]): number =>
  Math.max(0, ...items.map(({ sequence, tokens }) => sequence.length + tokens.length))

/** Of so many sequences with one token each. */
const steadyKey = (rows: number, held: number): ShapeKey => ({
  rows,
  positions: held * pagePositions,
  pages: held,
  together: false,
  steady: true
})

/** What a step of these items looks like: the same for many steps. `held`: pages of the pool. */
export function keyOf(items: readonly Item[], held: number): ShapeKey {
  let [rows, pages, together] = [0, 0, false]
  for (const { sequence, tokens } of items) {
    rows += tokens.length
    pages += Math.ceil((sequence.length + tokens.length) / pagePositions)
    together ||= tokens.length > 1
  }
  if (!together && rows * held * pagePositions <= steadyPositions) return steadyKey(rows, held)
  const positions = powerOfTwo(farthest(items), leastPositions)
  return { rows, positions, pages: powerOfTwo(pages, leastPages), together, steady: false }
}

interface Disposable {
  dispose(): void
}

/** Keeps the last used of what `make` makes. */
class Kept<Made extends Disposable> {
  readonly #made = new Map<string, Made>()
  readonly #most: number

  constructor(most: number) {
    this.#most = most
  }

  async get(key: string, make: () => Promise<Made>, fits: (made: Made) => boolean = () => true): Promise<Made> {
    const kept = this.#made.get(key)
    const known = kept && fits(kept) ? kept : undefined
    if (kept && !known) kept.dispose()
    this.#made.delete(key)
    const made = known ?? (await make())
    this.#made.set(key, made)
    const [oldest] = this.#made.keys()
    if (this.#made.size > this.#most && oldest !== undefined) this.#drop(oldest)
    return made
  }

  forget(unless: (made: Made) => boolean): void {
    for (const [key, made] of [...this.#made]) if (!unless(made)) this.#drop(key)
  }

  #drop(key: string): void {
    this.#made.get(key)?.dispose()
    this.#made.delete(key)
  }
}

export class Shapes {
  readonly #parts: ShapeParts
  readonly #steps = new Kept<StepShape>(mostShapes)
  readonly #logits: Kept<LogitsShape>

  constructor(parts: ShapeParts) {
    this.#parts = parts
    // Beside those of steps of other sizes, all parts of the largest step: they are in use at once.
    this.#logits = new Kept(mostLogits + Math.ceil(parts.arena.sizes.maxBatchTokens / logitRows))
  }

  step(key: ShapeKey, pool: KvPool): Promise<StepShape> {
    // What is bound to buffers that the pool has no more is of no use. Of these one whose key comes again is made anew then: so as many are
    // kept after a pool has grown as before.
    const current = (shape: StepShape) => shape.generation === pool.generation
    this.#steps.forget((shape) => shape.pool !== pool || !shape.key.steady || current(shape))
    const { rows, positions, pages, together } = key
    const name = [pool.type, rows, positions, pages, together].join()
    return this.#steps.get(name, () => StepShape.make(this.#parts, key, pool), current)
  }

  /** The logits of `count` rows as part `part` of a step's; unless it `gathers` them, of the step's first rows. */
  logits(count: number, part: number, gathers: boolean): Promise<LogitsShape> {
    return this.#logits.get(`${count} ${part} ${gathers}`, () => LogitsShape.make(this.#parts, count, part, gathers))
  }

  /** Compiles what a decoded token needs, and makes room for its first positions. Throws as KvPool.reserve and `step`. */
  async warmUp(pool: KvPool): Promise<void> {
    const pages: number[] = []
    await pool.reserve(pages, 1)
    pool.giveBack(pages)
    await this.step(steadyKey(1, pool.pages), pool)
    await this.logits(1, 0, false)
  }

  /** The next steps are encoded anew. */
  forgetSteps(): void {
    this.#steps.forget(() => false)
  }

  dispose(): void {
    this.forgetSteps()
    this.#logits.forget(() => false)
  }
}
