/** One call of a kernel on a GPU: its arrays as buffers, its launches, and what comes back. */
import { createError } from '../../../errors/index.js'
import type { Element, HostArrays, OnDevice } from '../../../kernels/device-arrays.js'
import type { KernelName, KernelTable } from '../../../kernels/requests.js'
import type { BoundLaunch, Commands, GpuDevice } from '../device.js'
import { bindingOf, bytesOf, GpuArray, hostArray, writeArray } from '../device-array.js'
import type { DeviceFacts, Launch } from '../launches/launch.js'
import { arrayArgument, liesOver, overlap } from './arguments.js'

/** What a kernel's file exports. The result's arrays are those that `output` gave: they are filled when the call settles. */
export type GpuKernel<Name extends KernelName> = (
  call: KernelCall,
  request: OnDevice<KernelTable[Name]['request']>
) => Promise<OnDevice<KernelTable[Name]['result']>>

export interface Output<E extends Element> {
  binding: GPUBufferBinding
  /** The caller's, or a new one. */
  array: HostArrays[E] | GpuArray<E>
}

/** Words of `status`, none of which is set. */
const statusWords = 64
/** A status word that nothing was reported in. */
export const unset = 0xffffffff

export class KernelCall {
  readonly op: KernelName
  readonly device: GpuDevice
  readonly #taken: GPUBuffer[] = []
  readonly #launches: BoundLaunch[] = []
  /** What the next submit does, in order: launches, and copies between them. */
  readonly #queued: ((commands: Commands) => void)[] = []
  readonly #arrays: { name: string; array: ArrayBufferView | GpuArray<Element>; output: boolean; alone: boolean }[] = []
  /** Done with the launches' own submit, in order. */
  readonly #afterwards: ((commands: Commands) => void)[] = []
  readonly #results: Promise<() => void>[] = []
  #status: { binding: GPUBufferBinding; check: (words: Uint32Array) => void | Promise<void> } | undefined

  constructor(op: KernelName, device: GpuDevice) {
    this.op = op
    this.device = device
  }

  get facts(): DeviceFacts {
    return this.device.facts
  }

  /** An array that shaders read. VALIDATION_ERROR {argument, expected, actual} unless it has at least `least` such elements. */
  async input<E extends Element>(name: string, value: unknown, element: E, least = 0): Promise<GPUBufferBinding> {
    const array = arrayArgument(name, value, element, least)
    this.#remember(name, array, false, false)
    if (array instanceof GpuArray) return this.#own(name, array)
    const binding = await this.scratch(array.byteLength)
    writeArray(this.device, binding.buffer, array)
    return binding
  }

  /**
   * An array that shaders write, `length` elements from its begin; a new one where the caller gave none. `keeps`: what is in it is read too.
   * `alone`: VALIDATION_ERROR where it lies over another array of the call.
   */
  async output<E extends Element>(
    name: string,
    given: unknown,
    element: E,
    length: number,
    { keeps = false, alone = false } = {}
  ): Promise<Output<E>> {
    const array = given === undefined ? this.#allocate(element, length) : arrayArgument(name, given, element, length)
    this.#remember(name, array, true, alone)
    const bytes = bytesOf(element, length)
    if (array instanceof GpuArray) {
      const own = this.#own(name, array)
      const read = this.#arrays.some((other) => !other.output && other.array === array)
      if (!read) return { binding: own, array }
      // One buffer cannot be read and written through two bindings of a dispatch.
      const binding = await this.scratch(bytes)
      const whole = { buffer: binding.buffer, size: Math.ceil(bytes / 4) * 4 }
      if (keeps && bytes > 0) this.queue((commands) => commands.copy({ ...own, size: whole.size }, whole))
      if (bytes > 0) this.#afterwards.push((commands) => commands.copy(whole, own))
      return { binding, array }
    }
    const binding = await this.scratch(bytes)
    if (keeps) writeArray(this.device, binding.buffer, (array as Float32Array).subarray(0, length))
    if (bytes > 0) {
      this.#afterwards.push((commands) => {
        const read = commands.read({ buffer: binding.buffer, size: Math.ceil(bytes / 4) * 4 })
        this.#results.push(
          read.then((data) => () => (array as Float32Array).set(hostArray(element, data, length) as Float32Array))
        )
      })
    }
    return { binding, array }
  }

  /** Memory of the call's own; what is in it is anything. */
  async scratch(bytes: number): Promise<GPUBufferBinding> {
    const buffer = await this.device.memory.scratch(bytes)
    this.#taken.push(buffer)
    return bindingOf(buffer, bytes)
  }

  /**
   * The status words that shaders report in, all 0xffffffff before. `check` throws what they mean; default: the first is the lowest row with a
   * value that is not finite, RUNTIME_NAN_DETECTED {token}.
   */
  async status(
    check: (words: Uint32Array) => void | Promise<void> = (words) => this.checkFinite(words[0]!)
  ): Promise<GPUBufferBinding> {
    const binding = await this.scratch(statusWords * 4)
    this.device.write(binding.buffer, 0, new Uint32Array(statusWords).fill(unset))
    this.answers(binding, check)
    return binding
  }

  /** `check` is given the words of a buffer when all of the call has run, and throws what they mean. In place of `status`. */
  answers(binding: GPUBufferBinding, check: (words: Uint32Array) => void | Promise<void>): void {
    this.#status = { binding, check }
  }

  /** RUNTIME_NAN_DETECTED {token} where a status word names one. */
  checkFinite(token: number): void {
    if (token === unset) return
    throw createError('RUNTIME_NAN_DETECTED', `${this.op}: row ${token} has a value that is not finite`, { token })
  }

  /** Queues a launch with its buffers 1, 2, …; launches run in the order in which they were queued. */
  async run(launch: Launch, buffers: readonly GPUBufferBinding[]): Promise<void> {
    const bound = await this.device.bind(launch, buffers)
    this.#launches.push(bound)
    this.queue((commands) => commands.run(bound))
  }

  /** Queues commands between launches. */
  queue(encode: (commands: Commands) => void): void {
    this.#queued.push(encode)
  }

  /** Runs what is queued and gives bytes back, for a kernel whose next launch depends on them. */
  read(from: GPUBufferBinding): Promise<ArrayBuffer> {
    let bytes: Promise<ArrayBuffer> | undefined
    this.device.submit((commands) => {
      for (const next of this.#queued.splice(0)) next(commands)
      bytes = commands.read(from)
    })
    for (const bound of this.#launches.splice(0)) bound.dispose()
    return bytes as Promise<ArrayBuffer>
  }

  /** Submits the rest. The promise that it gives back settles when the outputs are filled; they are not where it rejects. */
  submit(): Promise<void> {
    for (const { name, array, alone } of this.#arrays) {
      const over = this.#arrays.some((other) => other.name !== name && overlap(array, other.array))
      if (alone && over) throw liesOver(name)
    }
    let status: Promise<ArrayBuffer> | undefined
    this.device.submit((commands) => {
      for (const next of [...this.#queued, ...this.#afterwards]) next(commands)
      if (this.#status) status = commands.read(this.#status.binding)
    })
    return this.#settle(status)
  }

  /** Gives the memory back; called in any case. */
  dispose(): void {
    for (const bound of this.#launches.splice(0)) bound.dispose()
    for (const buffer of this.#taken.splice(0)) this.device.memory.give(buffer)
  }

  async #settle(status: Promise<ArrayBuffer> | undefined): Promise<void> {
    const [words, ...fill] = await Promise.all([status, ...this.#results])
    if (words) await this.#status?.check(new Uint32Array(words))
    else if (fill.length === 0) await this.device.finished()
    for (const write of fill) write()
  }

  #remember(name: string, array: ArrayBufferView | GpuArray<Element>, output: boolean, alone: boolean): void {
    this.#arrays.push({ name, array, output, alone })
  }

  #own(name: string, array: GpuArray<Element>): GPUBufferBinding {
    const { binding } = array
    if (binding && array.device === this.device) return binding
    throw createError('VALIDATION_ERROR', `${name}: a device array of another backend`, { argument: name })
  }

  #allocate<E extends Element>(element: E, length: number): HostArrays[E] {
    const required = bytesOf(element, length)
    try {
      return hostArray(element, new ArrayBuffer(required), length)
    } catch (cause) {
      throw createError(
        'RESOURCE_MEMORY_EXHAUSTED',
        `no memory for ${required} bytes of output`,
        { required, resourceInfo: { required, available: 0, current: null, limit: null, unit: 'bytes' } },
        { cause }
      )
    }
  }
}
