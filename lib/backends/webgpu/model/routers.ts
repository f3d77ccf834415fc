/** The routers of each layer as the kernels bind them: of a hierarchical model those of its three levels one after another. */
import type { OpOf, Plan, PlanHser } from '../../../model/plan.js'
import type { GpuDevice } from '../device.js'
import { routeOps } from './arena.js'
import type { Router } from './step-shape.js'
import type { GpuWeight, GpuWeights } from './weights.js'

/** A router with its biases. */
function flat(experts: GpuWeight, { bias, selectionBias }: OpOf<'route'>, weights: GpuWeights): Router {
  const own = bias === undefined ? undefined : weights.get(bias)
  return {
    binding: { buffer: experts.buffer },
    exponent: experts.exponent,
    ...(own && { bias: { binding: { buffer: own.buffer }, exponent: own.exponent } }),
    ...(selectionBias !== undefined && { selectionBias: { buffer: weights.get(selectionBias).buffer } })
  }
}

export class Routers {
  readonly layers: Router[] = []
  readonly #device: GpuDevice
  readonly #buffers: GPUBuffer[] = []

  private constructor(device: GpuDevice) {
    this.#device = device
  }

  /** GPU_VRAM_EXHAUSTED, GPU_LIMIT_EXCEEDED; nothing is held then. */
  static async make(device: GpuDevice, plan: Plan, weights: GpuWeights): Promise<Routers> {
    const routers = new Routers(device)
    try {
      for (const op of routeOps(plan)) {
        const experts = weights.get(op.weight)
        routers.layers.push(
          op.hser ? await routers.#hierarchical(experts, op.hser, weights) : flat(experts, op, weights)
        )
      }
      return routers
    } catch (error) {
      routers.dispose()
      throw error
    }
  }

  dispose(): void {
    for (const buffer of this.#buffers) this.#device.memory.free(buffer)
    this.#buffers.length = 0
  }

  async #hierarchical(experts: GpuWeight, hser: PlanHser, weights: GpuWeights): Promise<Router> {
    const { tierGroups, groupExperts, kTier, kGroup, kExpert } = hser
    const [groups, tiers] = [weights.get(hser.groupRouter), weights.get(hser.tierRouter)]
    const levels = [experts, groups, tiers]
    const bytes = ({ rows, columns }: GpuWeight) => rows * columns * 4
    const buffer = await this.#allocate(levels.reduce((sum, level) => sum + bytes(level), 0))
    this.#device.submit((commands) => {
      let offset = 0
      for (const level of levels) {
        const size = bytes(level)
        commands.copy({ buffer: level.buffer, size }, { buffer, offset, size })
        offset += size
      }
    })
    const offsets = Uint32Array.from([...tierGroups, ...groupExperts])
    const topology = await this.#allocate(offsets.byteLength)
    this.#device.write(topology, 0, offsets)
    return {
      binding: { buffer },
      exponent: experts.exponent,
      topology: { buffer: topology },
      hser: {
        tiers: tiers.rows,
        groups: groups.rows,
        kTier,
        kGroup,
        kExpert,
        tierExponent: tiers.exponent,
        groupExponent: groups.exponent
      }
    }
  }

  async #allocate(bytes: number): Promise<GPUBuffer> {
    const buffer = await this.#device.memory.allocate(bytes, 'routers')
    this.#buffers.push(buffer)
    return buffer
  }
}
