/** Brings experts into their slots: out of host memory where they are there, else out of their files. */
import type {
  ExpertStepShape,
  NativeCancel,
  NativeExpertReader,
  NativeExpertSlots,
  SlotItems
} from '../../../native.js'
import type { Slabs } from './slabs.js'
import type { SlotTable } from './slot-table.js'
import { slotItems } from './slot-table.js'

export interface TransferParts {
  reader: NativeExpertReader
  slots: NativeExpertSlots
  table: SlotTable
  slabs: Slabs
}

export class Transfer {
  /** Blobs and their bytes that were written to the GPU since the load. */
  uploads = 0
  uploadedBytes = 0
  /** Of the waits for what is read. */
  waitMs = 0
  readonly #parts: TransferParts
  #step: ExpertStepShape | undefined

  constructor(parts: TransferParts) {
    this.#parts = parts
  }

  /** What is read next is the first of a step. */
  beginStep(step: ExpertStepShape): void {
    this.#step = step
  }

  /**
   * Writes what was admitted, of one layer, and resolves when all is in what is submitted afterwards. Throws what the reader does; then those
   * that did not come have lost their slot.
   */
  async bring(items: SlotItems, cancel: NativeCancel): Promise<void> {
    const { reader, slots, table, slabs } = this.#parts
    const missing = new Map<number, { entry: number; slot: number }>()
    let layer = 0
    for (const { entry, slot, admitted } of slotItems(items)) {
      if (!admitted) continue
      layer = Math.floor(entry / table.experts)
      missing.set(entry % table.experts, { entry, slot })
    }
    if (missing.size === 0) return
    const began = performance.now()
    try {
      const step = this.#step
      this.#step = undefined
      const wanted = Uint32Array.from(missing.keys()).sort()
      let come = await reader.begin(layer, wanted, cancel, step)
      while (come) {
        for (const [i, expert] of come.experts.entries()) {
          const blob = come.blobs[i] as ArrayBuffer
          const { slot } = missing.get(expert) as { slot: number }
          slabs.write(slot, blob)
          this.uploads++
          this.uploadedBytes += blob.byteLength
          missing.delete(expert)
        }
        come = missing.size > 0 ? await reader.next(cancel) : undefined
      }
    } catch (error) {
      const lost = [...missing.values()].map(({ entry }) => entry)
      slots.drop(Uint32Array.from(lost))
      table.clear(lost)
      throw error
    } finally {
      this.waitMs += performance.now() - began
    }
  }

  /** The same of several layers, each from the lowest expert on; `progress` after each layer with the experts so far. */
  async fill(items: SlotItems, cancel: NativeCancel, progress: (done: number) => void): Promise<void> {
    let done = 0
    for (const layer of this.#layersOf(items)) {
      await this.bring(layer, cancel)
      done += layer.length / 4
      progress(done)
    }
  }

  /** The same where what cannot be read is of no consequence: it is read again when it is demanded. */
  async bringAhead(items: SlotItems, cancel: NativeCancel): Promise<void> {
    for (const layer of this.#layersOf(items)) await this.bring(layer, cancel).catch(() => {})
  }

  /** What was admitted is not brought: it has no slot. */
  abandon(parts: Iterable<SlotItems>): void {
    const { slots, table } = this.#parts
    const lost: number[] = []
    for (const part of parts) for (const { entry, admitted } of slotItems(part)) if (admitted) lost.push(entry)
    slots.drop(Uint32Array.from(lost))
    table.clear(lost)
  }

  #layersOf(items: SlotItems): SlotItems[] {
    const layers = new Map<number, number[]>()
    for (let at = 0; at < items.length; at += 4) {
      const layer = Math.floor((items[at] as number) / this.#parts.table.experts)
      const words = layers.get(layer) ?? []
      words.push(...items.subarray(at, at + 4))
      layers.set(layer, words)
    }
    return [...layers.values()].map((words) => Uint32Array.from(words))
  }
}
