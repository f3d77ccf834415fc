/** Tables of rotations: cosines and sines of a step's positions, made by the CPU's own kernel, so that they have the same bits. */
import type { Plan } from '../../../model/plan.js'
import type { NativeBackend } from '../../../native.js'

export class Rotation {
  readonly base: number
  readonly rotaryDim: number
  readonly #host: Pick<NativeBackend, 'call'>
  /** Pairs (1, 0): turned, they are a cosine and a sine. */
  #units = new Float32Array(0)

  constructor(host: Pick<NativeBackend, 'call'>, base: number, rotaryDim: number) {
    this.#host = host
    this.base = base
    this.rotaryDim = rotaryDim
  }

  /** Fills [positions][rotaryDim / 2] pairs of cosine and sine. */
  fill(positions: Uint32Array, table: Float32Array): void {
    if (this.#units.length < table.length) this.#units = Float32Array.from(table, (_, i) => 1 - (i % 2))
    table.set(this.#units.subarray(0, table.length))
    this.#host.call('rope', [table, positions, 1, this.rotaryDim, this.rotaryDim, this.base, 'interleaved'], false)
  }
}

/** The tables that a plan's operations use, each once. */
export function rotationsOf(plan: Plan, host: Pick<NativeBackend, 'call'>): Rotation[] {
  const rotations: Rotation[] = []
  for (const op of plan.ops) {
    if (op.op !== 'rope') continue
    const { base, rotaryDim } = op
    if (!rotations.some((known) => known.base === base && known.rotaryDim === rotaryDim)) {
      rotations.push(new Rotation(host, base, rotaryDim))
    }
  }
  return rotations
}
