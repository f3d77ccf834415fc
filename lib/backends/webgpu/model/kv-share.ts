/** What the KV cache may take of a model's GPU memory: what is set aside for it, and beyond that what slots of experts leave to it. */
import type { EngineError } from '../../../errors/index.js'
import { isEngineError } from '../../../errors/index.js'
import type { ExpertOptions } from '../../../native.js'
import type { GpuDevice } from '../device.js'
import type { Experts } from '../experts/experts.js'
import { memoryExhausted } from '../failures.js'
import type { KvRoom } from './kv-pool.js'

/** The fewest bytes of slots, where a budget is refused for being less. Throws any other error. */
function leastOf(error: unknown): number {
  if (!isEngineError(error) || error.code !== 'RESOURCE_BUDGET_TOO_SMALL') throw error
  return error.details.resourceInfo?.required ?? 0
}

export class KvShare {
  readonly #device: GpuDevice
  readonly #experts: Experts | undefined
  readonly #parts: NonNullable<ExpertOptions['gpuParts']>
  /** What experts and KV cache may take together. */
  readonly #both: number
  /** Bytes of each pool. */
  readonly #taken: number[] = []

  constructor(
    device: GpuDevice,
    experts: Experts | undefined,
    { gpuBudgetBytes, gpuParts }: Required<Pick<ExpertOptions, 'gpuBudgetBytes' | 'gpuParts'>>
  ) {
    this.#device = device
    this.#experts = experts
    this.#parts = gpuParts
    this.#both = gpuBudgetBytes + gpuParts.keyValues
  }

  /** For another pool; what is set aside is the first one's. */
  room(): KvRoom {
    const own = this.#taken.push(0) - 1
    return {
      certain: own === 0 ? this.#parts.keyValues : 0,
      take: async (bytes) => {
        const all = this.#sum() - (this.#taken[own] ?? 0) + bytes
        await this.#leave(all)
        this.#taken[own] = bytes
        this.#experts?.lend(Math.max(0, all - this.#parts.keyValues))
      }
    }
  }

  /** No expert has several versions any more: slots leave what pages have taken meanwhile, or as much of it as they can. */
  async settle(): Promise<void> {
    const experts = this.#experts
    const left = Math.max(0, this.#both - this.#sum())
    if (!experts || experts.resident || experts.hasVersions || experts.slotBytes <= left) return
    try {
      await experts.setBudget(left).catch((error) => experts.setBudget(leastOf(error)))
    } catch (error) {
      // No room for the copy of a slab: pages that are wanted later try again.
      if (!isEngineError(error) || error.code !== 'GPU_VRAM_EXHAUSTED') throw error
    }
  }

  #sum(): number {
    return this.#taken.reduce((sum, bytes) => sum + bytes, 0)
  }

  /** Slots of experts leave so many bytes to the KV cache. */
  async #leave(bytes: number): Promise<void> {
    const left = this.#both - bytes
    const slots = this.#experts?.slotBytes ?? 0
    if (slots <= left) return
    if (!this.#experts || this.#experts.resident) throw this.#exhausted(bytes, slots)
    // Slots of versions are none of the policy's: `settle` makes room when these are gone.
    if (this.#experts.hasVersions) return
    try {
      await this.#experts.setBudget(Math.max(0, left))
    } catch (cause) {
      throw this.#exhausted(bytes, leastOf(cause), cause)
    }
  }

  #exhausted(required: number, slots: number, cause?: unknown): EngineError {
    const available = Math.max(0, this.#both - slots)
    const value = Math.ceil(this.#parts.whole + required - available)
    const { usedBytes: used } = this.#device.memory
    const alternatives = [{ change: 'gpuMemory' as const, value, required: value }]
    const memory = { required, available, used, limit: this.#parts.whole, alternatives }
    return memoryExhausted(this.#device.name, 'the KV cache of all sequences', memory, cause)
  }
}
