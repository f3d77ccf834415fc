/** Tables of rotations: cosines and sines of a step's positions, made by the CPU's own kernel, so that they have the same bits. */
import { scalingArgs } from '../../../kernels/rope-scaling.js'
import type { OpOf, Plan } from '../../../model/plan.js'
import type { NativeBackend } from '../../../native.js'

type RopeOp = Pick<OpOf<'rope'>, 'base' | 'rotaryDim' | 'scaling' | 'divisors'>

/** The same of operations that have one table. */
export const rotationKey = ({ base, rotaryDim, scaling, divisors }: RopeOp): string =>
  JSON.stringify([base, rotaryDim, scaling, divisors])

export class Rotation {
  readonly key: string
  readonly rotaryDim: number
  readonly #host: Pick<NativeBackend, 'call'>
  /** What the kernel takes behind the positions. */
  readonly #args: readonly unknown[]
  /** Pairs (1, 0): turned, they are a cosine and a sine. */
  #units = new Float32Array(0)

  constructor(host: Pick<NativeBackend, 'call'>, op: RopeOp, divisors: Float32Array | undefined) {
    const { base, rotaryDim, scaling } = op
    this.key = rotationKey(op)
    this.#host = host
    this.rotaryDim = rotaryDim
    this.#args = [1, rotaryDim, rotaryDim, base, 'interleaved', divisors, ...scalingArgs(scaling)]
  }

  /** Fills [positions][rotaryDim / 2] pairs of cosine and sine. */
  fill(positions: Uint32Array, table: Float32Array): void {
    if (this.#units.length < table.length) this.#units = Float32Array.from(table, (_, i) => 1 - (i % 2))
    table.set(this.#units.subarray(0, table.length))
    this.#host.call('rope', [table, positions, ...this.#args], false)
  }
}

/** The operations with tables that differ, one of each. */
export function ropeOps(plan: Plan): OpOf<'rope'>[] {
  const found = new Map<string, OpOf<'rope'>>()
  for (const op of plan.ops) if (op.op === 'rope' && !found.has(rotationKey(op))) found.set(rotationKey(op), op)
  return [...found.values()]
}

/** The tables that a plan's operations use, each once. `vector`: a vector of the plan. Throws as the kernel where divisors are less than 2^-30. */
export function rotationsOf(
  plan: Plan,
  host: Pick<NativeBackend, 'call'>,
  vector: (name: string) => Float32Array
): Rotation[] {
  return ropeOps(plan).map((op) => {
    const rotation = new Rotation(host, op, op.divisors === undefined ? undefined : vector(op.divisors))
    rotation.fill(Uint32Array.of(0), new Float32Array(op.rotaryDim))
    return rotation
  })
}
