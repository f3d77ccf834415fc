/** Arrays in GPU memory, as callers hold them. */
import { createError } from '../../errors/index.js'
import type { DeviceArray, Element, HostArrays } from '../../kernels/device-arrays.js'
import type { GpuDevice } from './device.js'
import type { Turns } from './turns.js'

export const arrayTypes = {
  f32: Float32Array,
  i32: Int32Array,
  u32: Uint32Array,
  u8: Uint8Array,
  i64: BigInt64Array
} as const

export const bytesOf = (element: Element, length: number): number => arrayTypes[element].BYTES_PER_ELEMENT * length

/** The element of a typed array; undefined where it is none that kernels take. */
export function elementOf(value: unknown): Element | undefined {
  const found = Object.entries(arrayTypes).find(([, Type]) => value instanceof Type)
  return found?.[0] as Element | undefined
}

/** Elements of bytes that were read back. */
export const hostArray = <E extends Element>(element: E, bytes: ArrayBuffer, length: number): HostArrays[E] =>
  new arrayTypes[element](bytes, 0, length) as HostArrays[E]

/** A buffer's first bytes, as a binding: whole words, and never empty. */
export const bindingOf = (buffer: GPUBuffer, bytes: number): GPUBufferBinding => ({
  buffer,
  size: Math.max(16, Math.ceil(bytes / 4) * 4)
})

/** Copies a typed array to the begin of a buffer; the last bytes of an odd length are filled up. */
export function writeArray(device: GpuDevice, buffer: GPUBuffer, array: ArrayBufferView): void {
  const whole = array.byteLength - (array.byteLength % 4)
  if (whole > 0) device.write(buffer, 0, new Uint8Array(array.buffer, array.byteOffset, whole))
  if (whole === array.byteLength) return
  const rest = new Uint8Array(4)
  rest.set(new Uint8Array(array.buffer, array.byteOffset + whole, array.byteLength - whole))
  device.write(buffer, whole, rest)
}

export class GpuArray<E extends Element> implements DeviceArray<E> {
  readonly element: E
  readonly length: number
  readonly device: GpuDevice
  /** The backend's calls: one after another. */
  readonly #turns: Turns
  #buffer: GPUBuffer | undefined
  #disposed = false

  constructor(device: GpuDevice, turns: Turns, element: E, length: number, buffer: GPUBuffer) {
    this.device = device
    this.element = element
    this.length = length
    this.#turns = turns
    this.#buffer = buffer
  }

  /** In the turn of a call; undefined where it was disposed before the call was made. */
  get binding(): GPUBufferBinding | undefined {
    return this.#buffer && bindingOf(this.#buffer, bytesOf(this.element, this.length))
  }

  async read(): Promise<HostArrays[E]> {
    const { binding } = this
    if (this.#disposed || !binding)
      throw createError('VALIDATION_ERROR', 'read: the device array was disposed', { argument: 'this' })
    // A promise inside an object: the next call need not wait for what is read.
    const { reading } = await this.#turns.run(async () => ({ reading: this.device.read(binding) }))
    return hostArray(this.element, await reading, this.length)
  }

  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    // Calls that were made before still have it.
    this.#turns.run(async () => {
      if (this.#buffer) this.device.memory.free(this.#buffer)
      this.#buffer = undefined
    })
  }
}
