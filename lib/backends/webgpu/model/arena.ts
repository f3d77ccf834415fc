/** GPU memory that every step of a model uses again: the plan's buffers, and what operations need beside them. Made for the largest step. */
import type { OpOf, Plan } from '../../../model/plan.js'
import type { RoutingShape } from '../../../native.js'
import { sizeOf } from '../buffers.js'
import type { GpuDevice } from '../device.js'
import { scratchLimitOf } from '../launches/attention.js'
import { activationBytes } from '../launches/tile.js'
import { headPartsWidth } from './heads-products.js'
import { attentionOps } from './kv-pool.js'
import { headsWidth } from './step-ops.js'

/** The fewest positions that attention is made for. */
export const leastPositions = 256
/** Positions whose logits are computed together. */
export const logitRows = 32
/** Words of failures in a slice of the status buffer, which is bound for itself. */
export const statusWords = 4

export interface ArenaSizes {
  maxBatchTokens: number
  plan: Plan
  routing: RoutingShape
  /** Rows of all routers of a layer, at most. */
  routerRows: number
}

export const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to

export const routeOps = (plan: Plan): OpOf<'route'>[] => plan.ops.filter((op): op is OpOf<'route'> => op.op === 'route')

/** Layers that can fail each for themselves: those of the plan, the end of it, and each part of the logits. */
const statusSlices = ({ plan, maxBatchTokens }: ArenaSizes): number =>
  plan.layers + 1 + Math.ceil(maxBatchTokens / logitRows)

/** Bytes of partial sums that attention over the whole context does with, in steps of any size. */
const partialBytes = ({ plan, maxBatchTokens: rows }: ArenaSizes): number => {
  const positions = 2 ** Math.ceil(Math.log2(Math.max(plan.contextLength, leastPositions)))
  return Math.max(0, ...attentionOps(plan).map((op) => scratchLimitOf({ ...op, rows, positions })))
}

/** Bytes of every buffer, by name. */
function sizes(s: ArenaSizes, alignment: number): Map<string, number> {
  const { maxBatchTokens: rows, plan, routing } = s
  const widths = Object.entries(plan.buffers)
  const widest = Math.max(...widths.map(([, width]) => width))
  const choices = routing.layers * roundUp(rows * routing.k * 4, alignment)
  const sizes = new Map<string, number>(widths.map(([name, width]) => [`buffer ${name}`, rows * width * 4]))
  sizes.set('heads', rows * headsWidth(plan) * 4)
  sizes.set('head parts', rows * headPartsWidth(plan) * 4)
  sizes.set('activations', activationBytes(rows, roundUp(widest, 32)))
  sizes.set('scores', rows * s.routerRows * 8)
  sizes.set('exponents', rows * 4)
  sizes.set('ids', choices)
  sizes.set('weights', choices)
  sizes.set('status', statusSlices(s) * alignment)
  sizes.set('sound', statusSlices(s) * alignment)
  sizes.set('gathered', logitRows * widest * 4)
  sizes.set('logits', logitRows * plan.vocab * 4)
  sizes.set('partials', partialBytes(s))
  return sizes
}

/** Bytes of GPU memory that steps take beside weights and KV cache. */
export const arenaBytes = (s: ArenaSizes, alignment: number): number =>
  [...sizes(s, alignment).values()].reduce((sum, bytes) => sum + sizeOf(bytes), 0)

export class Arena {
  readonly sizes: ArenaSizes
  /** Bytes from one slice of a shared buffer to the next. */
  readonly alignment: number
  readonly #device: GpuDevice
  readonly #buffers = new Map<string, GPUBuffer>()

  private constructor(device: GpuDevice, sizes: ArenaSizes) {
    this.#device = device
    this.sizes = sizes
    this.alignment = device.facts.limits.minStorageBufferOffsetAlignment
  }

  /** GPU_VRAM_EXHAUSTED, GPU_LIMIT_EXCEEDED; nothing is held then. */
  static async make(device: GpuDevice, given: ArenaSizes): Promise<Arena> {
    const arena = new Arena(device, given)
    try {
      for (const [name, bytes] of sizes(given, arena.alignment)) {
        arena.#buffers.set(name, await device.memory.allocate(bytes, `a step's ${name}`))
      }
      const sound = arena.get('sound').buffer
      device.write(sound, 0, new Uint32Array(sound.size / 4).fill(0xffffffff))
      return arena
    } catch (error) {
      arena.dispose()
      throw error
    }
  }

  /** A buffer of the plan. */
  buffer(name: string): GPUBufferBinding {
    return this.get(`buffer ${name}`)
  }

  get(name: string): GPUBufferBinding {
    return { buffer: this.#buffers.get(name) as GPUBuffer }
  }

  /** Bytes of attention's partial sums, which all steps share. */
  get partialBytes(): number {
    return this.get('partials').buffer.size
  }

  /** Where operations say what is wrong with a layer's values; `layer` = the plan's number of layers for what comes after the last. */
  status(layer: number): GPUBufferBinding {
    return { ...this.get('status'), offset: layer * this.alignment, size: statusWords * 4 }
  }

  /** The same of the logits' part `part`. */
  logitStatus(part: number): GPUBufferBinding {
    return this.status(this.sizes.plan.layers + 1 + part)
  }

  /** Bytes of ids, or of weights, of one layer in a step of so many tokens; default: of the most. */
  choiceBytes(rows = this.sizes.maxBatchTokens): number {
    return roundUp(rows * this.sizes.routing.k * 4, this.alignment)
  }

  /** Ids or weights of one routed layer. */
  choices(name: 'ids' | 'weights', layer: number, rows: number): GPUBufferBinding {
    const each = this.choiceBytes(rows)
    return { ...this.get(name), offset: layer * each, size: rows * this.sizes.routing.k * 4 }
  }

  dispose(): void {
    for (const buffer of this.#buffers.values()) this.#device.memory.free(buffer)
    this.#buffers.clear()
  }
}
