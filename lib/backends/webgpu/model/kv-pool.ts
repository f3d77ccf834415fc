/** The KV cache of all sequences of one type: per layer one buffer of pages, which all sequences share. */
import { isEngineError } from '../../../errors/index.js'
import { pagePositions } from '../../../kernels/layout.js'
import type { OpOf, Plan } from '../../../model/plan.js'
import type { KvType } from '../../../native.js'
import type { GpuDevice } from '../device.js'
import { limitExceeded, memoryExhausted } from '../failures.js'

/** Pages of a pool's first buffers. */
const firstPages = 4

export type AttentionOp = OpOf<'attention'>

/** Those of a plan: each has a cache of its own. */
export const attentionOps = (plan: Plan): AttentionOp[] =>
  plan.ops.filter((op): op is AttentionOp => op.op === 'attention')

const valueBytes: Record<KvType, number> = { f16: 2, f32: 4 }

/** Bytes of one layer's part of a page. */
export const pageBytes = ({ kvHeads, headDim, valueDim }: AttentionOp, type: KvType): number =>
  pagePositions * kvHeads * (headDim + valueDim) * valueBytes[type]

/** Of a model that may take no more than so much memory. */
export interface KvRoom {
  /** Bytes that are set aside for pages. */
  readonly certain: number
  /** Pages take up to so many bytes from now on. GPU_VRAM_EXHAUSTED {required, available, alternatives}; then nothing has changed. */
  take(bytes: number): Promise<void>
}

export class KvPool {
  readonly type: KvType
  /** Grows each time that the buffers are others than before. */
  generation = 0
  readonly #device: GpuDevice
  /** Of each layer. */
  readonly #pageBytes: readonly number[]
  readonly #room: KvRoom | undefined
  #buffers: GPUBuffer[] = []
  /** Pages that the buffers hold, and those of them that nobody has. */
  #pages = 0
  #free: number[] = []

  constructor(device: GpuDevice, type: KvType, layers: readonly AttentionOp[], room?: KvRoom) {
    this.#device = device
    this.type = type
    this.#pageBytes = layers.map((layer) => pageBytes(layer, type))
    this.#room = room
  }

  /** How many pages there are, in use or not. */
  get pages(): number {
    return this.#pages
  }

  /** The cache of an attention operation, by its place among them. */
  buffer(index: number): GPUBufferBinding {
    return { buffer: this.#buffers[index] as GPUBuffer }
  }

  /**
   * Adds pages to a sequence's list until it has `wanted`. GPU_LIMIT_EXCEEDED where no binding holds so many, GPU_VRAM_EXHAUSTED where others
   * have them: the list is as it was.
   */
  async reserve(list: number[], wanted: number): Promise<void> {
    const missing = wanted - list.length
    if (missing <= 0) return
    if (missing > this.#free.length) {
      this.#checkBinding(wanted, missing)
      await this.#grow(this.#pages + missing - this.#free.length)
    }
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

  /** A sequence has `wanted` pages with `missing` ones: its own are never too many because of those of others. */
  #checkBinding(wanted: number, missing: number): void {
    const { name, facts } = this.#device
    const { maxStorageBufferBindingSize: limit } = facts.limits
    const largest = Math.max(...this.#pageBytes)
    if (wanted > this.#most) throw limitExceeded(name, 'maxStorageBufferBindingSize', wanted * largest, limit)
    const held = this.#pages - this.#free.length
    if (held + missing <= this.#most) return
    const [required, available] = [missing * largest, (this.#most - held) * largest]
    const text = 'the KV cache of all sequences, of which a binding holds a layer'
    throw memoryExhausted(name, text, { required, available, used: held * largest, limit })
  }

  /** Pages of which a binding holds each layer. */
  get #most(): number {
    return Math.floor(this.#device.facts.limits.maxStorageBufferBindingSize / Math.max(...this.#pageBytes))
  }

  /** Room for at least `least` pages, and for later ones where the limits and memory allow it. */
  async #grow(least: number): Promise<void> {
    try {
      await this.#growTo(Math.min(this.#most, Math.max(least, this.#wanted())), this.#room === undefined)
    } catch (error) {
      if (!isEngineError(error) || error.code !== 'GPU_VRAM_EXHAUSTED') throw error
      // There is no room for the old buffers beside the new ones, or for so many pages: a layer at a time needs the least.
      await this.#growTo(least, false)
    }
  }

  /** Twice as many pages as now; where memory is set aside for them first all of that, and then a quarter more. */
  #wanted(): number {
    if (!this.#room) return Math.max(2 * this.#pages, firstPages)
    const whole = this.#pageBytes.reduce((sum, bytes) => sum + bytes, 0)
    return Math.max(Math.ceil(1.25 * this.#pages), Math.floor(this.#room.certain / whole))
  }

  /** `together`: all layers at once, so that either all have so many pages or none. */
  async #growTo(pages: number, together: boolean): Promise<void> {
    const whole = this.#pageBytes.reduce((sum, bytes) => sum + bytes, 0)
    // A layer's old buffer is there until it is copied.
    await this.#room?.take(pages * whole + this.#pages * Math.max(...this.#pageBytes))
    const layers = [...this.#pageBytes.keys()]
    for (const some of together ? [layers] : layers.map((layer) => [layer])) await this.#enlarge(some, pages)
    for (let page = pages - 1; page >= this.#pages; page--) this.#free.push(page)
    this.#pages = pages
  }

  /** Buffers of so many pages for these layers, with what the old ones held. Where there is no memory for them all is as it was. */
  async #enlarge(layers: readonly number[], pages: number): Promise<void> {
    const { memory } = this.#device
    const made: { layer: number; buffer: GPUBuffer; before: GPUBuffer | undefined; size: number }[] = []
    try {
      for (const layer of layers) {
        const bytes = this.#pageBytes[layer] as number
        const before = this.#buffers[layer]
        // From a time when another layer found no memory.
        if (before && before.size >= pages * bytes) continue
        const buffer = await memory.allocate(pages * bytes, 'the KV cache')
        made.push({ layer, buffer, before, size: this.#pages * bytes })
      }
    } catch (error) {
      for (const { buffer } of made) memory.free(buffer)
      throw error
    }
    if (made.length === 0) return
    this.#device.submit((commands) => {
      for (const { buffer, before, size } of made)
        if (before && size > 0) commands.copy({ buffer: before, size }, { buffer, size })
    })
    for (const { layer, buffer, before } of made) {
      if (before) memory.free(before)
      this.#buffers[layer] = buffer
    }
    this.generation++
  }
}
