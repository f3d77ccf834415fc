/** The KV cache of all sequences of one type: per layer one buffer of pages, which all sequences share. */
import type { PlanOp } from '../../../model/plan.js'
import type { KvType } from '../../../native.js'
import type { GpuDevice } from '../device.js'
import { limitExceeded } from '../failures.js'

/** Positions in a page, as the CPU has it (csrc/cpu/kernels.h). */
export const pagePositions = 64
/** Pages of a pool's first buffers. */
const firstPages = 8

export type AttentionOp = Extract<PlanOp, { op: 'attention' }>

const valueBytes: Record<KvType, number> = { f16: 2, f32: 4 }

/** Bytes of one layer's part of a page. */
export const pageBytes = ({ kvHeads, headDim, valueDim }: AttentionOp, type: KvType): number =>
  pagePositions * kvHeads * (headDim + valueDim) * valueBytes[type]

export class KvPool {
  readonly type: KvType
  /** Grows each time that the buffers are others than before. */
  generation = 0
  readonly #device: GpuDevice
  readonly #layers: readonly AttentionOp[]
  #buffers: GPUBuffer[] = []
  /** Pages that the buffers hold, and those of them that nobody has. */
  #pages = 0
  #free: number[] = []

  constructor(device: GpuDevice, type: KvType, layers: readonly AttentionOp[]) {
    this.#device = device
    this.type = type
    this.#layers = layers
  }

  /** The cache of an attention operation, by its place among them. */
  buffer(index: number): GPUBufferBinding {
    return { buffer: this.#buffers[index] as GPUBuffer }
  }

  /** Adds pages to a list until it has `wanted`. GPU_VRAM_EXHAUSTED, GPU_LIMIT_EXCEEDED: the list is as it was. */
  async reserve(list: number[], wanted: number): Promise<void> {
    const missing = wanted - list.length
    if (missing <= 0) return
    if (missing > this.#free.length) await this.#grow(this.#pages + missing - this.#free.length)
    for (let i = 0; i < missing; i++) list.push(this.#free.pop() as number)
  }

  giveBack(pages: readonly number[]): void {
    for (let i = pages.length - 1; i >= 0; i--) this.#free.push(pages[i] as number)
  }

  dispose(): void {
    for (const buffer of this.#buffers) this.#device.memory.free(buffer)
    this.#buffers = []
    this.#free = []
    this.#pages = 0
  }

  /** Larger buffers with what the old ones held: twice as large where the limits allow it, and at least `least` pages. */
  async #grow(least: number): Promise<void> {
    const { maxStorageBufferBindingSize: limit } = this.#device.facts.limits
    const largest = Math.max(...this.#layers.map((layer) => pageBytes(layer, this.type)))
    const most = Math.floor(limit / largest)
    if (least > most) {
      throw limitExceeded(this.#device.name, 'maxStorageBufferBindingSize', least * largest, limit)
    }
    const pages = Math.min(most, Math.max(least, 2 * this.#pages, firstPages))
    const made: GPUBuffer[] = []
    try {
      for (const layer of this.#layers) {
        made.push(await this.#device.memory.allocate(pages * pageBytes(layer, this.type), 'the KV cache'))
      }
    } catch (error) {
      for (const buffer of made) this.#device.memory.free(buffer)
      throw error
    }
    const old = this.#buffers
    if (old.length > 0) {
      this.#device.submit((commands) => {
        for (const [i, buffer] of old.entries()) {
          const size = this.#pages * pageBytes(this.#layers[i] as AttentionOp, this.type)
          commands.copy({ buffer, size }, { buffer: made[i] as GPUBuffer, size })
        }
      })
    }
    for (const buffer of old) this.#device.memory.free(buffer)
    this.#buffers = made
    for (let page = pages - 1; page >= this.#pages; page--) this.#free.push(page)
    this.#pages = pages
    this.generation++
  }
}
