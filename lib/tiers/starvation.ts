/**
 * Experts that are hardly ever chosen (S008: starvation). Counts are looked at window by window: an enabled expert that fewer tokens than a
 * threshold were routed to in a whole window is starved. It is told once, and again only when it has been used between. Nothing is done
 * about it: that is the operator's.
 */
import type { ExpertUse, RoutingShape, StepItem } from '../native.js'

export interface StarvationOptions {
  /** Steps of a window. */
  windowSteps: number
  /** Fewer tokens than this in a window are starvation. */
  leastTokens: number
}

export interface StarvedExpert {
  layer: number
  expert: number
  /** Tokens in the window, and steps since its last use (since the load where there was none). */
  tokens: number
  idleSteps: number
}

export class StarvationWatch {
  readonly #options: StarvationOptions
  readonly #experts: number
  readonly #read: () => ExpertUse
  readonly #starved = new Set<number>()
  /** What the requests of this window could use, [layers][experts]. */
  readonly #enabled: Uint8Array
  #before: Float64Array
  #steps = 0
  #listener: (expert: StarvedExpert) => void = () => {}

  constructor({ layers, experts }: RoutingShape, options: StarvationOptions, read: () => ExpertUse) {
    this.#options = options
    this.#experts = experts
    this.#read = read
    this.#enabled = new Uint8Array(layers * experts)
    this.#before = new Float64Array(layers * experts)
  }

  /** Called for each expert that is newly starved, ascending by layer and expert. */
  onStarved(listener: (expert: StarvedExpert) => void): void {
    this.#listener = listener
  }

  /** Those that are starved now, ascending. */
  starved(): { layer: number; expert: number }[] {
    return [...this.#starved].sort((a, b) => a - b).map((index) => this.#place(index))
  }

  /** A step is over. */
  stepped(items: readonly Pick<StepItem, 'enabled'>[]): void {
    for (const { enabled } of items) {
      if (!enabled) this.#enabled.fill(1)
      else for (const [i, on] of enabled.entries()) this.#enabled[i]! |= on
    }
    if (++this.#steps < this.#options.windowSteps) return
    this.#steps = 0
    this.#look(this.#read())
    this.#enabled.fill(0)
  }

  #look({ steps, rows, lastStep }: ExpertUse): void {
    for (let index = 0; index < rows.length; index++) {
      const tokens = rows[index]! - this.#before[index]!
      if (tokens >= this.#options.leastTokens) this.#starved.delete(index)
      else if (this.#enabled[index] && !this.#starved.has(index)) {
        this.#starved.add(index)
        this.#listener({ ...this.#place(index), tokens, idleSteps: steps - lastStep[index]! })
      }
    }
    this.#before = rows
  }

  #place(index: number): { layer: number; expert: number } {
    return { layer: Math.floor(index / this.#experts), expert: index % this.#experts }
  }
}
