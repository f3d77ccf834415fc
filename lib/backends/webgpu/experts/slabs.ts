/**
 * GPU memory for experts: slots of one blob each, in buffers (slabs) that are at most as large as the device lets a shader bind. Slot s lies
 * in slab ⌊s / slotsPerSlab⌋.
 */
import type { GpuDevice } from '../device.js'
import { limitExceeded } from '../failures.js'
import type { DeviceLimits } from '../launches/launch.js'

/**
 * Slots of a slab: as many as may be bound, and whole layers of `experts` where several of these fit, so that a layer that lies in one piece
 * lies in one slab. Throws GPU_LIMIT_EXCEEDED where not even one does.
 */
export function slotsPerSlab(
  name: string,
  slotBytes: number,
  experts: number,
  { maxStorageBufferBindingSize, maxBufferSize }: DeviceLimits
): number {
  const [limit, most] =
    maxStorageBufferBindingSize <= maxBufferSize
      ? (['maxStorageBufferBindingSize', maxStorageBufferBindingSize] as const)
      : (['maxBufferSize', maxBufferSize] as const)
  const fit = Math.floor(most / slotBytes)
  if (fit === 0) throw limitExceeded(name, limit, slotBytes, most)
  return fit >= experts ? fit - (fit % experts) : fit
}

export class Slabs {
  readonly slotBytes: number
  readonly perSlab: number
  /** Changes with the buffers: what is bound to them is bound anew. */
  generation = 0
  #slots = 0
  #buffers: GPUBuffer[] = []
  readonly #device: GpuDevice

  constructor(device: GpuDevice, slotBytes: number, perSlab: number) {
    this.#device = device
    this.slotBytes = slotBytes
    this.perSlab = perSlab
  }

  get slots(): number {
    return this.#slots
  }

  get bytes(): number {
    return this.#slots * this.slotBytes
  }

  /** Of the slabs, first to last. */
  get count(): number {
    return this.#buffers.length
  }

  slabOf(slot: number): number {
    return Math.floor(slot / this.perSlab)
  }

  binding(slab: number): GPUBufferBinding {
    return { buffer: this.#buffers[slab] as GPUBuffer }
  }

  /** Another number of slots; those that there are before and after keep their bytes. Throws GPU_VRAM_EXHAUSTED; then nothing has changed. */
  async resize(slots: number): Promise<void> {
    const { memory } = this.#device
    const sizes = Array.from(
      { length: Math.ceil(slots / this.perSlab) },
      (_, slab) => Math.min(this.perSlab, slots - slab * this.perSlab) * this.slotBytes
    )
    const next: GPUBuffer[] = []
    const made: GPUBuffer[] = []
    try {
      for (const [slab, size] of sizes.entries()) {
        const now = this.#buffers[slab]
        if (now?.size === size) {
          next.push(now)
          continue
        }
        const buffer = await memory.allocate(size, `experts, ${size / this.slotBytes} slots`)
        made.push(buffer)
        next.push(buffer)
      }
    } catch (error) {
      for (const buffer of made) memory.free(buffer)
      throw error
    }
    const replaced = this.#buffers.filter((buffer) => !next.includes(buffer))
    this.#device.submit((commands) => {
      for (const [slab, buffer] of next.entries()) {
        const before = this.#buffers[slab]
        if (!before || before === buffer) continue
        const size = Math.min(before.size, buffer.size)
        commands.copy({ buffer: before, size }, { buffer, size })
      }
    })
    for (const buffer of replaced) memory.free(buffer)
    this.#buffers = next
    this.#slots = slots
    this.generation++
  }

  /** The blob is in the slot for what is submitted afterwards. */
  write(slot: number, blob: ArrayBuffer): void {
    const buffer = this.#buffers[this.slabOf(slot)] as GPUBuffer
    this.#device.write(buffer, (slot % this.perSlab) * this.slotBytes, new Uint8Array(blob))
  }

  dispose(): void {
    for (const buffer of this.#buffers) this.#device.memory.free(buffer)
    this.#buffers = []
    this.#slots = 0
  }
}
