/** The launches that make the logits of some rows, which were gathered before. */
import type { PlanOp } from '../../../model/plan.js'
import type { BoundLaunch, Commands } from '../device.js'
import { multiply } from './products.js'
import type { ShapeParts } from './step-shape.js'

type LogitsOp = Extract<PlanOp, { op: 'logits' }>

export const logitsOp = (ops: readonly PlanOp[]): LogitsOp | undefined =>
  ops.find((op): op is LogitsOp => op.op === 'logits')

export class LogitsShape {
  readonly #launches: readonly BoundLaunch[]

  private constructor(launches: readonly BoundLaunch[]) {
    this.#launches = launches
  }

  /** Throws what GpuDevice.bind does. */
  static async make(parts: ShapeParts, count: number, part: number): Promise<LogitsShape> {
    const { device, plan, arena } = parts
    const op = logitsOp(plan.ops) as LogitsOp
    const made: Promise<BoundLaunch>[] = []
    multiply(
      parts,
      {
        input: arena.get('gathered'),
        width: plan.buffers[op.in] as number,
        products: [{ weight: op.weight, out: arena.get('logits') }],
        add: false,
        rows: count,
        status: arena.logitStatus(part)
      },
      (launch, bindings) => made.push(device.bind(launch, bindings))
    )
    const settled = await Promise.allSettled(made)
    const launches = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
    const shape = new LogitsShape(launches)
    const failed = settled.find((one) => one.status === 'rejected')
    if (!failed) return shape
    shape.dispose()
    throw failed.reason
  }

  encode(commands: Commands): void {
    for (const launch of this.#launches) commands.run(launch)
  }

  dispose(): void {
    for (const launch of this.#launches) launch.dispose()
  }
}
