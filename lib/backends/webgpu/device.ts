/** One GPU device: its memory, its compiled shaders, and the way in which work is submitted and waited for. */
import type { EngineError } from '../../errors/index.js'
import { isEngineError } from '../../errors/index.js'
import type { HostMemory } from './buffers.js'
import { GpuMemory } from './buffers.js'
import type { BoundLaunch, Commands, Encoded, StagedCopy, StagedRead } from './commands.js'
import { encodeCommands } from './commands.js'
import { deviceLost, limitExceeded, memoryExhausted, submitTimeout, validationFailed } from './failures.js'
import { mapRead, usage } from './flags.js'
import type { DeviceFacts, Launch, LimitName } from './launches/launch.js'
import type { GpuProvider, OpenedDevice, OptionalFeature } from './open-device.js'
import { openDevice } from './open-device.js'
import type { Pipeline } from './pipelines.js'
import { Pipelines } from './pipelines.js'
import type { ShaderTexts } from './specialise.js'
import { PassTimer } from './timer.js'

export type { BoundLaunch, Commands } from './commands.js'

export interface GpuDeviceOptions {
  provider: GpuProvider
  shaders: ShaderTexts
  /** Budget of all buffers. Default: what the driver gives; of a GPU in software what the machine has available then. */
  memoryBytes?: number
  /** The machine's memory, asked where the GPU is one in software. */
  hostMemory?: HostMemory
  /** How long submitted work may take. Default 30 s. */
  timeoutMs?: number
  /** Limits that must be there. */
  limits?: Readonly<Partial<Record<LimitName, number>>>
  /** The begin (true) and end of a time in which something of this device is waited for. */
  onWaiting?: (waiting: boolean) => void
  /** Features to do without. */
  without?: readonly OptionalFeature[]
  /** Time what it computes by its own clock, where the adapter has timestamps. */
  timestamps?: boolean
}

/** A launch, and what it is to be bound to. */
export interface UnboundLaunch {
  launch: Launch
  buffers: readonly GPUBufferBinding[]
}

/** Where params may begin in a buffer, on every device. */
const paramsAlignment = 256
/** The time that a wait may take runs in so many parts: a thread that is held up, or has much else to do, loses one part at a time. */
const watchedParts = 8

/** The params of all launches, in order. */
function paramsOf(unbound: readonly UnboundLaunch[]): Uint32Array<ArrayBuffer> {
  const last = unbound.at(-1) as UnboundLaunch
  const words = new Uint32Array(((unbound.length - 1) * paramsAlignment + last.launch.params.byteLength) / 4)
  for (const [i, { launch }] of unbound.entries()) words.set(launch.params, (i * paramsAlignment) / 4)
  return words
}

/** What WebGPU refused of a submit, if anything. */
type Refusal = Promise<EngineError | undefined>

export class GpuDevice {
  readonly device: GPUDevice
  readonly info: GPUAdapterInfo
  readonly name: string
  readonly facts: DeviceFacts
  readonly memory: GpuMemory
  readonly pipelines: Pipelines
  readonly timeoutMs: number
  /** Submits since it was opened, and milliseconds in which at least one was waited for. */
  submits = 0
  waitedMs = 0
  /** Waits in progress, and when the first of them began. */
  #waits = 0
  #waitsBegan = 0
  readonly #onWaiting: GpuDeviceOptions['onWaiting']
  #timer: PassTimer | undefined
  /** Why the device cannot go on. */
  #failure: EngineError | undefined
  /** What WebGPU said outside of any submit, and of submits that nothing was read of, until somebody waits. */
  #uncaptured: EngineError | undefined
  #unread: Refusal[] = []
  #disposed = false
  /** Who waits for the device now: told when it fails. */
  readonly #waiting = new Set<(failure: EngineError) => void>()

  private constructor(opened: OpenedDevice, options: GpuDeviceOptions) {
    const { device, info, name, facts } = opened
    this.device = device
    this.info = info
    this.name = name
    this.facts = facts
    const host = info.isFallbackAdapter ? options.hostMemory : undefined
    this.memory = new GpuMemory({
      device,
      name,
      limits: facts.limits,
      guard: (work) => this.#orFailure(work),
      host,
      limitBytes: options.memoryBytes
    })
    this.pipelines = new Pipelines(device, name, options.shaders)
    this.timeoutMs = options.timeoutMs ?? 30_000
    this.#onWaiting = options.onWaiting
    device.lost.then((lost) => this.#fail(deviceLost(name, lost)))
    device.onuncapturederror = ({ error }) => {
      this.#uncaptured ??= this.#refused('a command', error)
    }
  }

  static async open(options: GpuDeviceOptions): Promise<GpuDevice> {
    const made = new GpuDevice(await openDevice(options.provider, options.limits ?? {}, options.without ?? []), options)
    try {
      if (options.timestamps && made.facts.timestamps) made.#timer = await PassTimer.make(made.device, made.memory)
      return made
    } catch (error) {
      made.dispose()
      throw error
    }
  }

  /** Milliseconds that submitted passes have taken by the device's own clock, as far as is known; undefined where they are not timed. */
  get computedMs(): number | undefined {
    return this.#timer?.ms
  }

  /** Throws why the device cannot go on, if it cannot: GPU_DEVICE_LOST, GPU_SUBMIT_TIMEOUT. */
  check(): void {
    if (this.#failure) throw this.#failure
  }

  /**
   * Makes launches ready, all or none of them: `buffers` are the bindings 1, 2, …; binding 0 is made of the params, which share a buffer. Throws
   * as Pipelines.get, GPU_LIMIT_EXCEEDED for a binding that is too large, and GPU_VALIDATION_FAILED where the buffers do not fit the shader.
   */
  async bindAll(unbound: readonly UnboundLaunch[]): Promise<BoundLaunch[]> {
    this.check()
    if (unbound.length === 0) return []
    for (const { buffers } of unbound) for (const binding of buffers) this.#checkBinding(binding)
    const compiled = await this.#orFailure(Promise.all(unbound.map(({ launch }) => this.pipelines.get(launch))))
    const words = paramsOf(unbound)
    const { key } = compiled[0] as Pipeline
    const params = await this.memory.allocate(words.byteLength, `params of ${key}`, usage.uniform | usage.copyDst)
    this.write(params, 0, words)
    this.device.pushErrorScope('validation')
    const bound = new Set<BoundLaunch>()
    for (const [i, { launch, buffers }] of unbound.entries()) {
      const { pipeline, layout, key } = compiled[i] as Pipeline
      const resources = [{ buffer: params, offset: i * paramsAlignment, size: launch.params.byteLength }, ...buffers]
      const group = this.device.createBindGroup({
        label: key,
        layout,
        entries: resources.map((resource, binding) => ({ binding, resource }))
      })
      const one: BoundLaunch = {
        key,
        pipeline,
        group,
        workgroups: launch.workgroups,
        dispose: () => {
          if (bound.delete(one) && bound.size === 0) this.memory.free(params)
        }
      }
      bound.add(one)
    }
    const made = [...bound]
    try {
      const wrong = await this.#orFailure(this.device.popErrorScope())
      if (!wrong) return made
      throw validationFailed(
        this.name,
        `the buffers of ${unbound.length > 1 ? `${unbound.length} launches` : key}`,
        wrong
      )
    } catch (error) {
      for (const one of made) one.dispose()
      throw error
    }
  }

  /** GPU_LIMIT_EXCEEDED. */
  #checkBinding({ buffer, offset = 0, size = buffer.size - offset }: GPUBufferBinding): void {
    const { maxStorageBufferBindingSize: most } = this.facts.limits
    if (size > most) throw limitExceeded(this.name, 'maxStorageBufferBindingSize', size, most)
  }

  /** One launch. */
  async bind(launch: Launch, buffers: readonly GPUBufferBinding[]): Promise<BoundLaunch> {
    const [bound] = await this.bindAll([{ launch, buffers }])
    return bound as BoundLaunch
  }

  /** Copies bytes to a buffer, before what is submitted afterwards; offset and length in multiples of 4. */
  write(to: GPUBuffer, offset: number, data: ArrayBufferView): void {
    this.device.queue.writeBuffer(to, offset, data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
  }

  /** Encodes and submits; does not wait. What WebGPU refuses of it is thrown by its reads, or else by the next `finished`. */
  submit(encode: (commands: Commands) => void): void {
    this.check()
    this.device.pushErrorScope('validation')
    let encoded: Encoded = { reads: [], stamps: undefined }
    let refused: Refusal
    try {
      const encoder = this.device.createCommandEncoder()
      encoded = encodeCommands(encoder, this.memory, encode, this.#timer)
      this.device.queue.submit([encoder.finish()])
      this.submits++
    } finally {
      refused = this.device.popErrorScope().then(
        (wrong) => (wrong ? validationFailed(this.name, 'a submit', wrong) : undefined),
        // The device is lost: `check` says so.
        () => undefined
      )
    }
    this.#unread.push(refused)
    const { reads, stamps } = encoded
    if (stamps) this.#time(stamps).catch(() => {})
    if (reads.length === 0) return
    const refusals = this.#unread.splice(0)
    for (const read of reads) this.#map(read, refusals).then(read.resolve, read.reject)
  }

  /** All submitted work is done. Throws GPU_SUBMIT_TIMEOUT, GPU_DEVICE_LOST, and what was refused since the last wait. */
  async finished(): Promise<void> {
    const refusals = this.#unread.splice(0)
    await this.#watched(this.device.queue.onSubmittedWorkDone())
    await this.#throwRefusal(refusals)
  }

  /** The bytes of a buffer after all that was submitted. Throws as `finished`. */
  read(from: GPUBufferBinding): Promise<ArrayBuffer> {
    let bytes: Promise<ArrayBuffer> | undefined
    this.submit((commands) => {
      bytes = commands.read(from)
    })
    return bytes as Promise<ArrayBuffer>
  }

  /** Ends the device and all its buffers. Waits for nothing: what is under way rejects with GPU_DEVICE_LOST. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.#fail(deviceLost(this.name, { reason: 'disposed', message: 'the backend was disposed' }))
    this.memory.dispose()
    // Dawn's `destroy` waits for work under way, on the JavaScript thread.
    const destroy = () => this.device.destroy()
    this.device.queue.onSubmittedWorkDone().then(destroy, destroy)
  }

  async #map({ staging, bytes, into }: StagedRead, refusals: readonly Refusal[]): Promise<ArrayBuffer> {
    try {
      await this.#orFailure(staging.made)
      await this.#watched(staging.buffer.mapAsync(mapRead, 0, Math.ceil(bytes / 8) * 8))
    } catch (error) {
      // Nobody knows when it will be mapped, if ever.
      this.memory.free(staging.buffer)
      throw error
    }
    const mapped = staging.buffer.getMappedRange(0, Math.ceil(bytes / 8) * 8)
    const copy = into ?? new ArrayBuffer(bytes)
    new Uint8Array(copy).set(new Uint8Array(mapped, 0, bytes))
    staging.buffer.unmap()
    this.memory.give(staging.buffer)
    await this.#throwRefusal(refusals)
    return copy
  }

  /** What fails of it is told by what waits for the submit's work. */
  async #time({ staging: { buffer, made }, bytes }: StagedCopy): Promise<void> {
    await made
    await buffer.mapAsync(mapRead, 0, bytes)
    this.#timer?.add(buffer.getMappedRange(0, bytes).slice(0))
    buffer.unmap()
    this.memory.give(buffer)
  }

  async #throwRefusal(refusals: readonly Refusal[]): Promise<void> {
    const settled = await Promise.all(refusals)
    const refusal = settled.find((error) => error !== undefined) ?? this.#uncaptured
    this.#uncaptured = undefined
    if (refusal) throw refusal
  }

  #fail(failure: EngineError): void {
    this.#failure ??= failure
    for (const tell of this.#waiting) tell(this.#failure)
    this.#waiting.clear()
  }

  /** Waits for the GPU as long as it may take. */
  async #watched<T>(work: Promise<T>): Promise<T> {
    if (this.#waits++ === 0) this.#beginWaiting()
    let timer: ReturnType<typeof setTimeout> | undefined
    let left = watchedParts
    const wait = (): void => {
      timer = setTimeout(() => (--left > 0 ? wait() : this.#fail(submitTimeout(this.name, this.timeoutMs))), part)
    }
    const part = this.timeoutMs / watchedParts
    wait()
    try {
      return await this.#orFailure(work)
    } finally {
      if (--this.#waits === 0) this.#endWaiting()
      clearTimeout(timer)
    }
  }

  #beginWaiting(): void {
    this.#waitsBegan = performance.now()
    this.#onWaiting?.(true)
  }

  #endWaiting(): void {
    this.waitedMs += performance.now() - this.#waitsBegan
    this.#onWaiting?.(false)
  }

  /** Where the device fails meanwhile, that is the reason, whatever the work says. */
  #orFailure<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#failure) {
        // Nobody else asks how it ends.
        work.catch(() => {})
        return reject(this.#failure)
      }
      this.#waiting.add(reject)
      work
        .finally(() => this.#waiting.delete(reject))
        .then(resolve, (error) => {
          if (isEngineError(error)) return reject(error)
          // WebGPU ends what waits for a device before it says that the device is lost.
          setTimeout(() => reject(this.#failure ?? validationFailed(this.name, 'waiting for the device', error)))
        })
    })
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
