/** Arrays in GPU memory, as callers hold them. */
import { createError } from '../../errors/index.js'
import type { DeviceArray, Element, HostArrays } from '../../kernels/device-arrays.js'
import type { GpuDevice } from './device.js'

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
  readonly #read: (from: GPUBufferBinding) => Promise<ArrayBuffer>
  #buffer: GPUBuffer | undefined

  /** `read` waits for its turn among the backend's calls. */
  constructor(
    device: GpuDevice,
    element: E,
    length: number,
    buffer: GPUBuffer,
    read: (from: GPUBufferBinding) => Promise<ArrayBuffer>
  ) {
    this.device = device
    this.element = element
    this.length = length
    this.#buffer = buffer
    this.#read = read
  }

  /** Undefined once it was disposed. */
  get binding(): GPUBufferBinding | undefined {
    return this.#buffer && bindingOf(this.#buffer, bytesOf(this.element, this.length))
  }

  async read(): Promise<HostArrays[E]> {
    const { binding } = this
    if (!binding) throw createError('VALIDATION_ERROR', 'read: the device array was disposed', { argument: 'this' })
    return hostArray(this.element, await this.#read(binding), this.length)
  }

  dispose(): void {
    if (this.#buffer) this.device.memory.free(this.#buffer)
    this.#buffer = undefined
  }
}
