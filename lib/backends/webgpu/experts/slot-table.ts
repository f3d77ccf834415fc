/** Which slot each expert has, [layers][experts], on the GPU: written only where it has changed. */
import type { SlotItems } from '../../../native.js'
import type { GpuDevice } from '../device.js'

/** No slot, and no entry. */
export const none = 0xffffffff

/** One expert of a part, as SlotItems has it. */
export interface SlotItem {
  entry: number
  slot: number
  admitted: boolean
  evicted: number
}

export function* slotItems(words: SlotItems): Generator<SlotItem> {
  for (let at = 0; at < words.length; at += 4) {
    const [entry, slot, admitted, evicted] = words.subarray(at, at + 4) as unknown as [number, number, number, number]
    yield { entry, slot, admitted: admitted === 1, evicted }
  }
}

export class SlotTable {
  readonly buffer: GPUBuffer
  readonly experts: number
  /** Entries that have a slot. */
  held = 0
  /** Rows written since the load. */
  writes = 0
  readonly #device: GpuDevice
  readonly #rowBytes: number
  readonly #now: Uint32Array
  readonly #written: Uint32Array

  private constructor(device: GpuDevice, buffer: GPUBuffer, rowBytes: number, layers: number, experts: number) {
    this.#device = device
    this.buffer = buffer
    this.#rowBytes = rowBytes
    this.experts = experts
    this.#now = new Uint32Array(layers * experts).fill(none)
    this.#written = new Uint32Array(layers * experts)
  }

  static async make(device: GpuDevice, layers: number, experts: number): Promise<SlotTable> {
    const alignment = device.facts.limits.minStorageBufferOffsetAlignment
    const rowBytes = Math.ceil((experts * 4) / alignment) * alignment
    const buffer = await device.memory.allocate(layers * rowBytes, 'the table of slots')
    const table = new SlotTable(device, buffer, rowBytes, layers, experts)
    for (let layer = 0; layer < layers; layer++) table.show(layer)
    return table
  }

  /** The slots of a layer's experts. */
  binding(layer: number): GPUBufferBinding {
    return { buffer: this.buffer, offset: layer * this.#rowBytes, size: this.experts * 4 }
  }

  /** What the decisions say from now on. */
  apply(items: SlotItems): void {
    for (const { entry, slot, admitted, evicted } of slotItems(items)) {
      if (evicted !== none) this.#set(evicted, none)
      if (admitted) this.#set(entry, slot)
    }
  }

  /** These entries have lost their slot. */
  clear(entries: Iterable<number>): void {
    for (const entry of entries) this.#set(entry, none)
  }

  has(entry: number): boolean {
    return this.#now[entry] !== none
  }

  /** The entry's slot, or `none`. */
  slotOf(entry: number): number {
    return this.#now[entry] as number
  }

  /** Entries in slots from `slot` on. */
  beyond(slot: number): number[] {
    const found: number[] = []
    for (const [entry, at] of this.#now.entries()) if (at !== none && at >= slot) found.push(entry)
    return found
  }

  /** Slots of a layer's experts. */
  *slotsOf(layer: number): Generator<number> {
    for (const slot of this.#row(this.#now, layer)) if (slot !== none) yield slot
  }

  /**
   * The GPU sees a layer's slots in what is submitted afterwards; with `part` those of these items alone. Experts of `beside` have another version
   * in another slot.
   */
  show(layer: number, part?: SlotItems, beside?: ReadonlyMap<number, number>): void {
    let row = this.#row(this.#now, layer)
    if (part) {
      row = new Uint32Array(this.experts).fill(none)
      for (const { entry, slot } of slotItems(part)) row[entry % this.experts] = slot
    }
    if (beside && beside.size > 0) {
      row = row.slice()
      for (const [expert, slot] of beside) row[expert] = slot
    }
    const written = this.#row(this.#written, layer)
    if (row.every((slot, expert) => slot === written[expert])) return
    written.set(row)
    this.#device.write(this.buffer, layer * this.#rowBytes, row)
    this.writes++
  }

  dispose(): void {
    this.#device.memory.free(this.buffer)
  }

  #row(table: Uint32Array, layer: number): Uint32Array {
    return table.subarray(layer * this.experts, (layer + 1) * this.experts)
  }

  #set(entry: number, slot: number): void {
    this.held += Number(slot !== none) - Number(this.has(entry))
    this.#now[entry] = slot
  }
}
