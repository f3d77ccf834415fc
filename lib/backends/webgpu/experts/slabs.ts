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
  /** Slots beside these, each in a slab of its own behind theirs: by slab. */
  readonly #beside = new Map<number, GPUBuffer>()
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
    return (this.#slots + this.#beside.size) * this.slotBytes
  }

  /** Of the slabs, first to last. */
  get count(): number {
    return this.#buffers.length
  }

  slabOf(slot: number): number {
    return Math.floor(slot / this.perSlab)
  }

  binding(slab: number): GPUBufferBinding {
    return { buffer: (this.#buffers[slab] ?? this.#beside.get(slab)) as GPUBuffer }
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
    const { buffer, offset } = this.#place(slot)
    this.#device.write(buffer, offset, new Uint8Array(blob))
  }

  /** The same of what is in another slot. */
  copy(from: number, to: number): void {
    this.#device.submit((commands) => commands.copy(this.#place(from), this.#place(to)))
  }

  /** One more slot, behind those whose number does not change any more. Throws GPU_VRAM_EXHAUSTED. */
  async addBeside(): Promise<number> {
    const buffer = await this.#device.memory.allocate(this.slotBytes, "an expert's version")
    let slab = this.#buffers.length
    while (this.#beside.has(slab)) slab++
    this.#beside.set(slab, buffer)
    this.generation++
    return slab * this.perSlab
  }

  removeBeside(slot: number): void {
    const slab = this.slabOf(slot)
    const buffer = this.#beside.get(slab)
    if (buffer) this.#device.memory.free(buffer)
    this.#beside.delete(slab)
    this.generation++
  }

  dispose(): void {
    for (const buffer of [...this.#buffers, ...this.#beside.values()]) this.#device.memory.free(buffer)
    this.#beside.clear()
    this.#buffers = []
    this.#slots = 0
  }

  #place(slot: number): { buffer: GPUBuffer; offset: number; size: number } {
    const { buffer } = this.binding(this.slabOf(slot))
    return { buffer, offset: (slot % this.perSlab) * this.slotBytes, size: this.slotBytes }
  }
}
