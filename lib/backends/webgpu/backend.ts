/** The kernel-level interface on a GPU: the same requests as on the CPU, with arrays that may stay on the device. */
import type { DeviceArray, Element, ElementOf, GpuKernelMethod, HostArrays } from '../../kernels/device-arrays.js'
import { validationError } from '../../validation.js'
import type { GpuDevice } from './device.js'
import { bytesOf, elementOf, GpuArray, writeArray } from './device-array.js'
import { integerArgument } from './kernels/arguments.js'
import { KernelCall } from './kernels/call.js'
import type { GpuKernelName } from './kernels/index.js'
import { gpuKernels } from './kernels/index.js'
import { Turns } from './turns.js'

/** Every kernel as a promise. Calls run in the order in which they are made; typed arrays must not be changed until it has settled. */
export type GpuKernels = { [Name in GpuKernelName]: GpuKernelMethod<Name> }

type AnyKernel = (call: KernelCall, request: object) => Promise<unknown>

/** Calls of kernels on one device, one after another until each is submitted. */
export class GpuCalls {
  readonly #device: GpuDevice
  readonly #turns = new Turns()

  constructor(device: GpuDevice) {
    this.#device = device
  }

  /** A table of all kernels. */
  table(): GpuKernels {
    const names = Object.keys(gpuKernels) as GpuKernelName[]
    const methods = names.map((name) => [name, (request: unknown) => this.#call(name, request)])
    return Object.fromEntries(methods) as GpuKernels
  }

  /** A new device array, of zeros: after what was called before, as an array that was disposed of goes. */
  async allocate<E extends Element>(element: E, length: number): Promise<DeviceArray<E>> {
    const count = integerArgument('length', length, 0, 2 ** 40)
    const what = `an array of ${count} ${element}`
    const buffer = await this.#turns.run(() => this.#device.memory.allocate(bytesOf(element, count), what))
    return new GpuArray(this.#device, this.#turns, element, count, buffer)
  }

  /** A copy of a typed array on the device. */
  async upload<A extends HostArrays[Element]>(array: A): Promise<DeviceArray<ElementOf<A>>> {
    const element = elementOf(array) as ElementOf<A> | undefined
    if (!element)
      throw validationError(
        'upload',
        'array',
        array,
        'a Float32Array, Int32Array, Uint32Array, Uint8Array or BigInt64Array'
      )
    const made = (await this.allocate(element, array.length)) as GpuArray<ElementOf<A>>
    if (made.binding) writeArray(this.#device, made.binding.buffer, array)
    return made
  }

  async #call(name: GpuKernelName, request: unknown): Promise<unknown> {
    if (typeof request !== 'object' || request === null)
      throw validationError(name, 'the argument', request, 'an object')
    const call = new KernelCall(name, this.#device)
    try {
      const kernel = gpuKernels[name] as AnyKernel
      // A promise inside an object: the next call need not wait for the results of this one.
      const { result, settled } = await this.#turns.run(async () => {
        this.#device.check()
        const result = await kernel(call, request)
        return { result, settled: call.submit() }
      })
      await settled
      return result
    } finally {
      call.dispose()
    }
  }
}
