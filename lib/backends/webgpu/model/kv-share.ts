/** What the KV cache may take of a model's GPU memory: what is set aside for it, and beyond that what slots of experts leave to it. */
import type { EngineError } from '../../../errors/index.js'
import { isEngineError } from '../../../errors/index.js'
import type { ExpertOptions } from '../../../native.js'
import type { GpuDevice } from '../device.js'
import type { Experts } from '../experts/experts.js'
import { memoryExhausted } from '../failures.js'
import type { KvRoom } from './kv-pool.js'

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
        const all = this.#taken.reduce((sum, taken, pool) => sum + (pool === own ? 0 : taken), bytes)
        await this.#leave(all)
        this.#taken[own] = bytes
        this.#experts?.lend(Math.max(0, all - this.#parts.keyValues))
      }
    }
  }

  /** Slots of experts leave so many bytes to the KV cache. */
  async #leave(bytes: number): Promise<void> {
    const left = this.#both - bytes
    const slots = this.#experts?.slotBytes ?? 0
    if (slots <= left) return
    if (!this.#experts || this.#experts.resident) throw this.#exhausted(bytes, slots)
    // Slots of versions are none of the policy's: it makes room when these are gone.
    if (this.#experts.hasVersions) return
    try {
      await this.#experts.setBudget(Math.max(0, left))
    } catch (cause) {
      if (!isEngineError(cause) || cause.code !== 'RESOURCE_BUDGET_TOO_SMALL') throw cause
      throw this.#exhausted(bytes, cause.details.resourceInfo?.required ?? slots, cause)
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
