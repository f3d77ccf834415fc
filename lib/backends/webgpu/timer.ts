/** How long the passes of a submit take by the GPU's own clock, where the adapter has timestamps. */
import type { GpuMemory } from './buffers.js'
import { usage } from './flags.js'

/** Passes of one submit that are timed. */
const mostPasses = 256
const stampBytes = 8

export class PassTimer {
  /** Of all submits that were timed so far. */
  ms = 0
  readonly #queries: GPUQuerySet
  readonly #resolved: GPUBuffer
  #passes = 0

  private constructor(queries: GPUQuerySet, resolved: GPUBuffer) {
    this.#queries = queries
    this.#resolved = resolved
  }

  /** GPU_VRAM_EXHAUSTED. */
  static async make(device: GPUDevice, memory: GpuMemory): Promise<PassTimer> {
    const count = 2 * mostPasses
    const resolved = await memory.allocate(count * stampBytes, 'timestamps', usage.queryResolve | usage.copySrc)
    return new PassTimer(device.createQuerySet({ type: 'timestamp', count }), resolved)
  }

  /** A submit begins. */
  begin(): void {
    this.#passes = 0
  }

  /** What the next pass of a submit is begun with. */
  pass(): GPUComputePassDescriptor | undefined {
    if (this.#passes === mostPasses) return undefined
    const first = 2 * this.#passes++
    return {
      timestampWrites: {
        querySet: this.#queries,
        beginningOfPassWriteIndex: first,
        endOfPassWriteIndex: first + 1
      }
    }
  }

  /** Ends a submit: the stamps are to be read from there, then given to `add`. Undefined where it had no pass. */
  resolve(encoder: GPUCommandEncoder): GPUBufferBinding | undefined {
    const count = 2 * this.#passes
    if (count === 0) return undefined
    encoder.resolveQuerySet(this.#queries, 0, count, this.#resolved, 0)
    return { buffer: this.#resolved, offset: 0, size: count * stampBytes }
  }

  /** Nanoseconds at each pass's begin and end. */
  add(stamps: ArrayBuffer): void {
    const at = new BigUint64Array(stamps)
    for (let i = 0; i + 1 < at.length; i += 2)
      this.ms += Math.max(0, Number((at[i + 1] as bigint) - (at[i] as bigint))) / 1e6
  }
}
