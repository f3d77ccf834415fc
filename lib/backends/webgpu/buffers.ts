/** GPU memory: every buffer of a device is made and ended here, and counted. */
import { isEngineError } from '../../errors/index.js'
import { limitExceeded, memoryExhausted, validationFailed } from './failures.js'
import { usage } from './flags.js'
import type { DeviceLimits } from './launches/launch.js'

const storage = usage.storage | usage.copySrc | usage.copyDst

/** Sizes are multiples of this, so that copies and writes of whole words always fit. */
const granule = 16

/** What a buffer of so many bytes takes. */
export const sizeOf = (bytes: number): number => Math.max(granule, Math.ceil(bytes / granule) * granule)

/** Sizes that pooled buffers have: four to each power of two, so that at most a fifth is not used. */
function sizeClass(bytes: number): number {
  const step = Math.max(256, 2 ** Math.floor(Math.log2(Math.max(1, bytes)) - 2))
  return Math.max(1, Math.ceil(bytes / step)) * step
}

const poolKey = (flags: number, size: number): string => `${flags}:${size}`

/** A buffer, and whether there is memory for it: `made` rejects where there is none. */
export interface Made {
  buffer: GPUBuffer
  made: Promise<void>
}

/** The memory of the machine, of which a GPU in software takes its own. */
export interface HostMemory {
  /** Whether the machine has so many bytes more, and the system would give them. */
  grants(bytes: number): boolean
}

export interface GpuMemoryOptions {
  device: GPUDevice
  name: string
  limits: DeviceLimits
  /** What WebGPU answers, or why the device cannot. */
  guard: <T>(work: Promise<T>) => Promise<T>
  /** Given where GPU memory is the host's: lavapipe does not say that there is none left, it ends the process. */
  host: HostMemory | undefined
  limitBytes: number | undefined
}

/** Smaller buffers are not asked for beforehand. */
const largeBuffer = 2 ** 20
/** What a GPU in software needs of the host besides its buffers, to compile and to run. */
const hostReserve = 2 ** 29

export class GpuMemory {
  /** Bytes of all buffers, and the most that they were. */
  usedBytes = 0
  peakBytes = 0
  /** The budget; undefined: what the driver gives. */
  readonly limitBytes: number | undefined
  readonly #device: GPUDevice
  readonly #name: string
  readonly #limits: DeviceLimits
  readonly #guard: GpuMemoryOptions['guard']
  readonly #host: HostMemory | undefined
  readonly #buffers = new Set<GPUBuffer>()
  /** Buffers that were given back, by usage and size. */
  readonly #pool = new Map<string, Made[]>()

  constructor({ device, name, limits, guard, host, limitBytes }: GpuMemoryOptions) {
    this.#device = device
    this.#name = name
    this.#limits = limits
    this.#guard = guard
    this.#host = host
    this.limitBytes = limitBytes
  }

  /** How many there are. */
  get buffers(): number {
    return this.#buffers.size
  }

  /**
   * A new buffer of at least `bytes`, filled with zeros. Throws GPU_LIMIT_EXCEEDED (larger than any buffer may be), GPU_VRAM_EXHAUSTED (over
   * the budget, or the driver has no more). `what` names it in failures.
   */
  allocate(bytes: number, what: string, flags: number = storage): Promise<GPUBuffer> {
    return this.#settled(() => this.#make(bytes, what, flags))
  }

  /** Ends a buffer; its memory goes when the work that uses it is done. */
  free(buffer: GPUBuffer): void {
    if (!this.#buffers.delete(buffer)) return
    this.usedBytes -= buffer.size
    buffer.destroy()
  }

  /** A buffer of at least `bytes` for one use, from those that were given back where one fits: what is in it is anything. Throws as `allocate`. */
  take(bytes: number, flags: number): Made {
    const size = sizeClass(bytes)
    const free = this.#pool.get(poolKey(flags, size))
    for (let made = free?.pop(); made; made = free?.pop()) {
      // It was given back before it was refused.
      if (this.#buffers.has(made.buffer)) return made
    }
    return this.#make(size, 'one call', flags)
  }

  /** The same of storage, once it is there. */
  scratch(bytes: number): Promise<GPUBuffer> {
    return this.#settled(() => this.take(bytes, storage))
  }

  /** Gives it back, unmapped; with `made` where that is not known yet. */
  give(buffer: GPUBuffer, made: Promise<void> = Promise.resolve()): void {
    if (!this.#buffers.has(buffer)) return
    const key = poolKey(buffer.usage, buffer.size)
    const free = this.#pool.get(key)
    if (free) free.push({ buffer, made })
    else this.#pool.set(key, [{ buffer, made }])
  }

  /** Ends the buffers that were given back. */
  trim(): void {
    for (const free of this.#pool.values()) for (const { buffer } of free) this.free(buffer)
    this.#pool.clear()
  }

  /** Ends every buffer. */
  dispose(): void {
    for (const buffer of this.#buffers) this.free(buffer)
    this.#pool.clear()
  }

  /** Where the driver has no memory what was given back may be what is missing. */
  async #settled(make: () => Made): Promise<GPUBuffer> {
    const attempt = async () => {
      const { buffer, made } = make()
      await made
      return buffer
    }
    const pooled = this.#pool.size > 0
    try {
      return await attempt()
    } catch (error) {
      if (!pooled || !isEngineError(error) || error.code !== 'GPU_VRAM_EXHAUSTED') throw error
      return attempt()
    }
  }

  #make(bytes: number, what: string, flags: number): Made {
    const size = sizeOf(bytes)
    const most = this.#limits.maxBufferSize
    if (size > most) throw limitExceeded(this.#name, 'maxBufferSize', size, most)
    const limit = this.limitBytes ?? null
    if (!this.#hasRoom(size)) this.trim()
    if (!this.#hasRoom(size)) {
      const left = limit === null ? size : Math.max(0, limit - this.usedBytes)
      const available = left < size ? left : null
      throw memoryExhausted(this.#name, what, { required: size, available, used: this.usedBytes, limit })
    }
    this.#device.pushErrorScope('out-of-memory')
    this.#device.pushErrorScope('validation')
    const buffer = this.#device.createBuffer({ size, usage: flags, label: what })
    const invalid = this.#device.popErrorScope()
    const exhausted = this.#device.popErrorScope()
    this.#buffers.add(buffer)
    this.usedBytes += size
    this.peakBytes = Math.max(this.peakBytes, this.usedBytes)
    const made = this.#guard(Promise.all([invalid, exhausted]))
      .then(([wrong, none]) => {
        const memory = { required: size, available: null, used: this.usedBytes - size, limit }
        // So that who tries again finds what was given back.
        if (none) this.trim()
        if (none) throw memoryExhausted(this.#name, what, memory, none)
        if (wrong) throw validationFailed(this.#name, `a buffer of ${size} bytes for ${what}`, wrong)
      })
      .catch((error) => {
        this.free(buffer)
        throw error
      })
    return { buffer, made }
  }

  /** Within the budget, and where the host is asked it has so much. */
  #hasRoom(size: number): boolean {
    if (this.usedBytes + size > (this.limitBytes ?? Number.MAX_SAFE_INTEGER)) return false
    return size < largeBuffer || this.#host?.grants(size + hostReserve) !== false
  }
}
