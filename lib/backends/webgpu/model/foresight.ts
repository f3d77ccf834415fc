/**
 * The routes that a routed layer will probably have: its own norm and router on the state before the experts of the layer before it. They
 * decide nothing but which experts are brought ahead of their demand, so no bit depends on them.
 */
import type { OpOf, PlanOp } from '../../../model/plan.js'
import type { BoundLaunch, Commands } from '../device.js'
import { rmsNormLaunch } from '../launches/rms-norm.js'
import type { StepSections } from './routing.js'
import { routing } from './routing.js'
import type { ShapeParts } from './step-shape.js'

/** Of the words that say what is not finite: nobody reads them. */
const statusBytes = 256
/** Larger steps want most experts anyway. */
export const mostForeseenRows = 8

/** Each route of a plan with the norm that makes its state. */
function normedRoutes(ops: readonly PlanOp[]): { route: OpOf<'route'>; norm: OpOf<'rmsNorm'> | undefined }[] {
  let norm: OpOf<'rmsNorm'> | undefined
  const found: { route: OpOf<'route'>; norm: OpOf<'rmsNorm'> | undefined }[] = []
  for (const op of ops) {
    if (op.op === 'rmsNorm') norm = op
    if (op.op === 'route') found.push({ route: op, norm: norm?.out === op.in ? norm : undefined })
  }
  return found
}

export class Foresight {
  readonly #device: ShapeParts['device']
  readonly #layers: BoundLaunch[][] = []
  readonly #buffers: GPUBuffer[] = []
  #ids: GPUBufferBinding | undefined

  private constructor(device: ShapeParts['device']) {
    this.#device = device
  }

  /** Throws what GpuDevice.bind and GpuMemory.allocate do; nothing is held then. */
  static async make(parts: ShapeParts, rows: number, sections: StepSections): Promise<Foresight> {
    const foresight = new Foresight(parts.device)
    try {
      await foresight.#bind(parts, rows, sections)
      return foresight
    } catch (error) {
      foresight.dispose()
      throw error
    }
  }

  /** Runs the norm and the router of a layer, and gives the ids [rows][k]; undefined where the state has no norm of its own. */
  encode(commands: Commands, layer: number): Promise<ArrayBuffer> | undefined {
    const launches = this.#layers[layer]
    if (!launches || launches.length === 0 || !this.#ids) return undefined
    for (const launch of launches) commands.run(launch)
    return commands.read(this.#ids)
  }

  dispose(): void {
    for (const launch of this.#layers.flat()) launch.dispose()
    this.#layers.length = 0
    for (const buffer of this.#buffers) this.#device.memory.free(buffer)
    this.#buffers.length = 0
  }

  async #bind(parts: ShapeParts, rows: number, sections: StepSections): Promise<void> {
    const { device, plan, arena, weights } = parts
    const { k } = arena.sizes.routing
    const widest = Math.max(...Object.values(plan.buffers))
    const out = {
      ids: { buffer: await this.#allocate(rows * k * 4), size: rows * k * 4 },
      weights: { buffer: await this.#allocate(rows * k * 4) }
    }
    this.#ids = out.ids
    const own = {
      state: { buffer: await this.#allocate(rows * widest * 4) },
      status: { buffer: await this.#allocate(statusBytes), size: statusBytes }
    }
    for (const [layer, { route, norm }] of normedRoutes(plan.ops).entries()) {
      const launches: BoundLaunch[] = []
      this.#layers.push(launches)
      if (!norm) continue
      const weight = weights.get(norm.weight)
      const shape = { rows, width: plan.buffers[norm.in] as number, n: weight.columns, epsilon: norm.epsilon }
      const normed = [arena.buffer(norm.in), { buffer: weight.buffer }, own.state, own.status]
      launches.push(await device.bind(rmsNormLaunch(shape, device.facts), normed))
      for (const { launch, bindings } of routing(parts, route, layer, rows, own.state, own.status, out, sections)) {
        launches.push(await device.bind(launch, bindings))
      }
    }
  }

  async #allocate(bytes: number): Promise<GPUBuffer> {
    const buffer = await this.#device.memory.allocate(bytes, 'routes that are foreseen')
    this.#buffers.push(buffer)
    return buffer
  }
}
