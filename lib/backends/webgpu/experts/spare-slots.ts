/** Slots for versions of experts, which are none of the policy's. */
import { createError, isEngineError } from '../../../errors/index.js'
import type { ExpertParts } from './experts.js'

export class SpareSlots {
  /** Bytes of the budget that the KV cache has. */
  lent = 0
  readonly #parts: ExpertParts
  /** Every expert has a slot for good. */
  readonly #resident: boolean
  /** Of all slots. */
  readonly #budgetBytes: number
  /** Slots behind the policy's that no version needs any more. */
  readonly #idle = new Set<number>()

  constructor(parts: ExpertParts, resident: boolean, budgetBytes: number) {
    this.#parts = parts
    this.#resident = resident
    this.#budgetBytes = budgetBytes
  }

  /**
   * Where every expert has a slot for good there has to be more memory; else it is the policy's last one. RESOURCE_MEMORY_EXHAUSTED,
   * GPU_VRAM_EXHAUSTED.
   */
  async take(): Promise<number> {
    const { slots, slabs, table } = this.#parts
    if (this.#resident) {
      const spare = this.#budgetBytes - this.lent - slabs.bytes
      if (spare < slabs.slotBytes) throw this.#short(spare)
      return slabs.addBeside()
    }
    const last = slots.counts().slots - 1
    try {
      table.clear(slots.resize(last))
    } catch (error) {
      if (!isEngineError(error) || error.code !== 'RESOURCE_BUDGET_TOO_SMALL') throw error
      throw this.#short(0, error)
    }
    const beyond = table.beyond(last)
    slots.drop(Uint32Array.from(beyond))
    table.clear(beyond)
    return last
  }

  giveBack(slot: number): void {
    const { slots, slabs } = this.#parts
    if (this.#resident) {
      slabs.removeBeside(slot)
      return
    }
    this.#idle.add(slot)
    let count = slots.counts().slots
    while (this.#idle.delete(count)) count++
    slots.resize(count)
  }

  #short(free: number, cause?: unknown) {
    const { slotBytes: required } = this.#parts.slabs
    const [available, limit] = [Math.max(0, free), this.#budgetBytes]
    return createError(
      'RESOURCE_MEMORY_EXHAUSTED',
      `another version of an expert takes ${required} bytes of GPU memory beside the one that requests under way need`,
      { resourceInfo: { required, available, current: null, limit, unit: 'bytes' }, required, available },
      { cause }
    )
  }
}
