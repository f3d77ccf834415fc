/** One sequence on the GPU: its pages of the KV cache, and the routes of its positions where they are captured. */
import { createError } from '../../../errors/index.js'
import { pagePositions } from '../../../kernels/layout.js'
import type { NativeSequence, RoutingShape } from '../../../native.js'
import { validationError } from '../../../validation.js'
import type { KvPool } from './kv-pool.js'

export class GpuSequence implements NativeSequence {
  readonly pool: KvPool
  readonly maxTokens: number
  readonly captures: boolean
  /** Page numbers, one per 64 positions; entries that this list has are the sequence's until it is disposed. */
  readonly pages: number[] = []
  readonly #choices: number
  #length = 0
  #ids = new Int32Array(0)
  #weights = new Float32Array(0)
  #disposed = false
  /** Steps under way with this sequence in them. */
  #steps = 0

  constructor(pool: KvPool, maxTokens: number, routing: RoutingShape, captures: boolean) {
    this.pool = pool
    this.maxTokens = maxTokens
    this.captures = captures && routing.layers > 0
    this.#choices = routing.layers * routing.k
  }

  get length(): number {
    return this.#length
  }

  get disposed(): boolean {
    return this.#disposed
  }

  /** A step begins that this sequence is in: its pages stay until `leave`, disposed or not. */
  enter(): void {
    this.#steps++
  }

  leave(): void {
    this.#steps--
    if (this.#disposed) this.#release()
  }

  /** Pages for `tokens` positions. CONTEXT_LENGTH_EXCEEDED {required, limit}, GPU_VRAM_EXHAUSTED, GPU_LIMIT_EXCEEDED. */
  async reserve(tokens: number): Promise<void> {
    if (tokens > this.maxTokens) {
      const text = `the sequence was made for ${this.maxTokens} positions, ${tokens} are needed`
      throw createError('CONTEXT_LENGTH_EXCEEDED', text, { required: tokens, limit: this.maxTokens })
    }
    await this.pool.reserve(this.pages, Math.ceil(tokens / pagePositions))
    if (this.captures) this.#makeRoom(tokens)
  }

  /** Positions from `length` on hold what the step wrote. */
  advance(count: number): void {
    this.#length += count
  }

  truncate(length: number): void {
    this.#check()
    if (!Number.isSafeInteger(length) || length < 0)
      throw validationError('truncate', 'length', length, 'a length from 0 on')
    if (length < this.#length) this.#length = length
  }

  /** Routes of the layer for `count` positions from `from` on, [count][k], out of arrays of the step. */
  keepRoutes(from: number, count: number, layer: number, k: number, ids: Int32Array, weights: Float32Array): void {
    for (let t = 0; t < count; t++) {
      const to = (from + t) * this.#choices + layer * k
      this.#ids.set(ids.subarray(t * k, (t + 1) * k), to)
      this.#weights.set(weights.subarray(t * k, (t + 1) * k), to)
    }
  }

  copyRoutes(from: number, count: number, ids: Int32Array, weights: Float32Array): void {
    this.#check()
    const [begin, end] = [from * this.#choices, (from + count) * this.#choices]
    const inside = Number.isSafeInteger(from) && Number.isSafeInteger(count) && from >= 0 && count >= 0
    if (!inside || from + count > this.#length) {
      throw validationError('copyRoutes', 'count', count, `positions among the ${this.#length} that the sequence holds`)
    }
    if (!this.captures) return
    if (ids.length < end - begin || weights.length < end - begin) {
      throw validationError('copyRoutes', 'ids', ids, `room for ${end - begin} choices`)
    }
    ids.set(this.#ids.subarray(begin, end))
    weights.set(this.#weights.subarray(begin, end))
  }

  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.#release()
  }

  #release(): void {
    if (this.#steps === 0) this.pool.giveBack(this.pages.splice(0))
  }

  #check(): void {
    if (this.#disposed) throw validationError('sequence', 'this', this, 'a sequence that is not disposed')
  }

  #makeRoom(tokens: number): void {
    const needed = tokens * this.#choices
    if (this.#ids.length >= needed) return
    const length = Math.min(this.maxTokens * this.#choices, Math.max(needed, 2 * this.#ids.length))
    const [ids, weights] = [new Int32Array(length), new Float32Array(length)]
    ids.set(this.#ids)
    weights.set(this.#weights)
    this.#ids = ids
    this.#weights = weights
  }
}
