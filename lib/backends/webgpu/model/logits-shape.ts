/** The launches that make the logits of some rows: of the first ones of a step, or of such as were gathered before. */
import type { OpOf, PlanOp } from '../../../model/plan.js'
import type { BoundLaunch, Commands, UnboundLaunch } from '../device.js'
import { logitRows } from './arena.js'
import { multiply, quantising, takesBlocks } from './products.js'
import type { Run, ShapeParts } from './step-shape.js'

export const logitsOp = (ops: readonly PlanOp[]): OpOf<'logits'> | undefined =>
  ops.find((op): op is OpOf<'logits'> => op.op === 'logits')

export class LogitsShape {
  /** The rows are to be copied to the arena's `gathered` first. */
  readonly gathers: boolean
  readonly #launches: readonly BoundLaunch[]

  private constructor(launches: readonly BoundLaunch[], gathers: boolean) {
    this.#launches = launches
    this.gathers = gathers
  }

  /** Throws what GpuDevice.bind does. */
  static async make(parts: ShapeParts, count: number, part: number, gathers: boolean): Promise<LogitsShape> {
    const { device, plan, arena, weights } = parts
    const op = logitsOp(plan.ops) as OpOf<'logits'>
    const columns = plan.buffers[op.in] as number
    const input = gathers ? arena.get('gathered') : { ...arena.buffer(op.in), offset: part * logitRows * columns * 4 }
    const matrices = [weights.get(op.weight)]
    const unbound: UnboundLaunch[] = []
    const run: Run = (launch, buffers) => unbound.push({ launch, buffers })
    if (takesBlocks(matrices)) {
      quantising(parts, input, { rows: count, columns }, arena.logitStatus(part), run)
    }
    multiply(parts, { input, matrices, out: arena.get('logits'), rows: count }, run)
    return new LogitsShape(await device.bindAll(unbound), gathers)
  }

  encode(commands: Commands): void {
    for (const launch of this.#launches) commands.run(launch)
  }

  dispose(): void {
    for (const launch of this.#launches) launch.dispose()
  }
}
