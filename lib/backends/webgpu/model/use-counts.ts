/** How often each expert was used since the load. */
import type { ExpertUse, RoutingShape } from '../../../native.js'

export class UseCounts {
  readonly #experts: number
  readonly #rows: Float64Array
  readonly #lastStep: Float64Array
  #steps = 0

  constructor({ layers, experts }: RoutingShape) {
    this.#experts = experts
    this.#rows = new Float64Array(layers * experts)
    this.#lastStep = new Float64Array(layers * experts)
  }

  begin(): void {
    this.#steps++
  }

  /** The choices of a step in one layer. */
  add(layer: number, ids: Int32Array): void {
    const first = layer * this.#experts
    for (const id of ids) {
      const at = first + id
      this.#rows[at] = (this.#rows[at] as number) + 1
      this.#lastStep[at] = this.#steps
    }
  }

  read(): ExpertUse {
    return { steps: this.#steps, rows: this.#rows.slice(), lastStep: this.#lastStep.slice() }
  }
}
