/** One GPU device: its memory, its compiled shaders, and the way in which work is submitted and waited for. */
import type { EngineError } from '../../errors/index.js'
import { GpuMemory } from './buffers.js'
import { deviceLost, memoryExhausted, submitTimeout, validationFailed } from './failures.js'
import { mapRead, usage } from './flags.js'
import type { DeviceFacts, Launch, LimitName } from './launches/launch.js'
import type { GpuProvider, OpenedDevice, OptionalFeature } from './open-device.js'
import { openDevice } from './open-device.js'
import type { ShaderSource } from './pipelines.js'
import { Pipelines } from './pipelines.js'

export interface GpuDeviceOptions {
  provider: GpuProvider
  shaders: ShaderSource
  /** Budget of all buffers. Default: what the driver gives. */
  memoryBytes?: number
  /** How long submitted work may take. Default 30 s. */
  timeoutMs?: number
  /** Limits that must be there. */
  limits?: Readonly<Partial<Record<LimitName, number>>>
  /** Features to do without. */
  without?: readonly OptionalFeature[]
}

/** A launch with its buffers, made once and run as often as wanted. */
export interface BoundLaunch {
  readonly key: string
  readonly pipeline: GPUComputePipeline
  readonly group: GPUBindGroup
  readonly workgroups: readonly [number, number, number]
  /** Frees its params; the buffers are the caller's. */
  dispose(): void
}

/** What goes into one submit, in order: each sees what those before it wrote. */
export interface Commands {
  run(bound: BoundLaunch): void
  /** Offsets and sizes in multiples of 4. */
  copy(from: GPUBufferBinding, to: GPUBufferBinding): void
  /** Fills with zeros. */
  clear(what: GPUBufferBinding): void
  /** The bytes as they are then, once the submit is done. Rejects with what failed. */
  read(from: GPUBufferBinding): Promise<ArrayBuffer>
  readonly encoder: GPUCommandEncoder
}

const sizeOf = ({ buffer, offset = 0, size }: GPUBufferBinding): number => size ?? buffer.size - offset

export class GpuDevice {
  readonly device: GPUDevice
  readonly info: GPUAdapterInfo
  readonly name: string
  readonly facts: DeviceFacts
  readonly memory: GpuMemory
  readonly pipelines: Pipelines
  readonly timeoutMs: number
  /** Submits since it was opened. */
  submits = 0
  /** Why the device cannot go on. */
  #failure: EngineError | undefined
  /** What was refused of work that nobody has waited for yet. */
  #refusal: EngineError | undefined
  #disposed = false
  #fail: (failure: EngineError) => void = () => {}
  readonly #failed: Promise<never>

  private constructor(opened: OpenedDevice, options: GpuDeviceOptions) {
    const { device, info, name, facts } = opened
    this.device = device
    this.info = info
    this.name = name
    this.facts = facts
    this.memory = new GpuMemory(device, name, facts.limits, options.memoryBytes)
    this.pipelines = new Pipelines(device, name, options.shaders)
    this.timeoutMs = options.timeoutMs ?? 30_000
    this.#failed = new Promise((_, reject) => {
      this.#fail = (failure) => {
        this.#failure ??= failure
        reject(this.#failure)
      }
    })
    this.#failed.catch(() => {})
    device.lost.then((lost) => this.#fail(deviceLost(name, lost)))
    device.onuncapturederror = ({ error }) => {
      this.#refusal ??= this.#refused('a command', error)
    }
  }

  static async open(options: GpuDeviceOptions): Promise<GpuDevice> {
    return new GpuDevice(await openDevice(options.provider, options.limits ?? {}, options.without ?? []), options)
  }

  /** Throws why the device cannot go on, if it cannot: GPU_DEVICE_LOST, GPU_SUBMIT_TIMEOUT. */
  check(): void {
    if (this.#failure) throw this.#failure
  }

  /** Compiles what is not compiled yet, and reports each. Throws as Pipelines.get. */
  async warmUp(
    variants: readonly Pick<Launch, 'shader' | 'defines'>[],
    onProgress?: (done: number, count: number) => void
  ) {
    let done = 0
    const one = async (variant: Pick<Launch, 'shader' | 'defines'>) => {
      await this.pipelines.get(variant)
      onProgress?.(++done, variants.length)
    }
    await this.#orFailure(Promise.all(variants.map(one)))
  }

  /**
   * Makes a launch ready: `buffers` are the bindings 1, 2, …; binding 0 is made of its params. Throws as Pipelines.get, and
   * GPU_VALIDATION_FAILED where the buffers do not fit the shader.
   */
  async bind(launch: Launch, buffers: readonly GPUBufferBinding[]): Promise<BoundLaunch> {
    this.check()
    const { pipeline, layout, key } = await this.#orFailure(this.pipelines.get(launch))
    const params = await this.memory.allocate(
      launch.params.byteLength,
      `params of ${key}`,
      usage.uniform | usage.copyDst
    )
    this.write(params, 0, launch.params)
    this.device.pushErrorScope('validation')
    const resources = [{ buffer: params }, ...buffers]
    const group = this.device.createBindGroup({
      label: key,
      layout,
      entries: resources.map((resource, binding) => ({ binding, resource }))
    })
    const wrong = await this.device.popErrorScope()
    const dispose = () => this.memory.free(params)
    if (wrong) {
      dispose()
      throw validationFailed(this.name, `the buffers of ${key}`, wrong)
    }
    return { key, pipeline, group, workgroups: launch.workgroups, dispose }
  }

  /** Copies bytes to a buffer, before what is submitted afterwards; offset and length in multiples of 4. */
  write(to: GPUBuffer, offset: number, data: ArrayBufferView): void {
    this.device.queue.writeBuffer(to, offset, data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
  }

  /** Encodes and submits; does not wait. What WebGPU refuses of it is thrown by the next `finished` or `read`. */
  submit(encode: (commands: Commands) => void): void {
    this.check()
    this.device.pushErrorScope('validation')
    const encoder = this.device.createCommandEncoder()
    const afterwards: (() => void)[] = []
    let pass: GPUComputePassEncoder | undefined
    const outside = () => {
      pass?.end()
      pass = undefined
      return encoder
    }
    const commands: Commands = {
      get encoder() {
        return outside()
      },
      run: ({ pipeline, group, workgroups: [x, y, z] }) => {
        if (x * y * z === 0) return
        pass ??= encoder.beginComputePass()
        pass.setPipeline(pipeline)
        pass.setBindGroup(0, group)
        pass.dispatchWorkgroups(x, y, z)
      },
      copy: (from, to) => {
        outside().copyBufferToBuffer(from.buffer, from.offset ?? 0, to.buffer, to.offset ?? 0, sizeOf(from))
      },
      clear: (what) => outside().clearBuffer(what.buffer, what.offset ?? 0, sizeOf(what)),
      read: (from) => {
        const bytes = sizeOf(from)
        const staging = this.memory.take(bytes, usage.mapRead | usage.copyDst)
        outside().copyBufferToBuffer(from.buffer, from.offset ?? 0, staging.buffer, 0, bytes)
        return new Promise((resolve, reject) => {
          afterwards.push(() => this.#map(staging, bytes).then(resolve, reject))
        })
      }
    }
    encode(commands)
    outside()
    this.device.queue.submit([encoder.finish()])
    this.submits++
    this.device.popErrorScope().then(
      (wrong) => {
        if (wrong) this.#refusal ??= validationFailed(this.name, 'a submit', wrong)
      },
      // The device is lost: `check` says so.
      () => {}
    )
    for (const next of afterwards) next()
  }

  /** All submitted work is done. Throws GPU_SUBMIT_TIMEOUT, GPU_DEVICE_LOST, and what was refused since the last wait. */
  async finished(): Promise<void> {
    await this.#watched(this.device.queue.onSubmittedWorkDone())
  }

  /** The bytes of a buffer after all that was submitted. Throws as `finished`. */
  read(from: GPUBufferBinding): Promise<ArrayBuffer> {
    let bytes: Promise<ArrayBuffer> | undefined
    this.submit((commands) => {
      bytes = commands.read(from)
    })
    return bytes as Promise<ArrayBuffer>
  }

  /** Ends the device and all its buffers. Waits for nothing. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.#failure ??= deviceLost(this.name, { reason: 'disposed', message: 'the backend was disposed' })
    this.memory.dispose()
    this.device.destroy()
  }

  async #map(staging: { buffer: GPUBuffer; made: Promise<void> }, bytes: number): Promise<ArrayBuffer> {
    await staging.made
    await this.#watched(staging.buffer.mapAsync(mapRead, 0, staging.buffer.size))
    const copy = staging.buffer.getMappedRange(0, Math.ceil(bytes / 8) * 8).slice(0, bytes)
    staging.buffer.unmap()
    this.memory.give(staging.buffer)
    return copy
  }

  /** Waits for the GPU as long as it may take. */
  async #watched<T>(work: Promise<T>): Promise<T> {
    this.check()
    let timer: ReturnType<typeof setTimeout> | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        this.#fail(submitTimeout(this.name, this.timeoutMs))
        reject(this.#failure)
      }, this.timeoutMs)
    })
    try {
      const result = await this.#orFailure(Promise.race([work, late]))
      const refusal = this.#refusal
      this.#refusal = undefined
      if (refusal) throw refusal
      return result
    } finally {
      clearTimeout(timer)
    }
  }

  /** Where the device failed meanwhile, that is the reason, whatever the work says. */
  async #orFailure<T>(work: Promise<T>): Promise<T> {
    try {
      return await Promise.race([work, this.#failed])
    } catch (error) {
      this.check()
      throw error
    }
  }

  #refused(operation: string, error: GPUError): EngineError {
    const isMemory = error.constructor.name === 'GPUOutOfMemoryError'
    const { usedBytes, limitBytes = null } = this.memory
    const memory = { required: 0, available: null, used: usedBytes, limit: limitBytes }
    return isMemory
      ? memoryExhausted(this.name, operation, memory, error)
      : validationFailed(this.name, operation, error)
  }
}
