/** The kernels on a GPU as callers hold them, wherever WebGPU comes from: Node (webgpu.ts) or a page (lib/webgpu.ts). */
import type { GpuKernels } from '../backends/webgpu/backend.js'
import { GpuCalls } from '../backends/webgpu/backend.js'
import type { GpuDeviceOptions } from '../backends/webgpu/device.js'
import { GpuDevice } from '../backends/webgpu/device.js'
import { byteSize, isByteSize, reading, refusal, validationError } from '../validation.js'
import type { DeviceArray, Element, ElementOf, HostArrays } from './device-arrays.js'

/** Features that a shader uses where the adapter has them. */
const features = ['subgroups', 'f16', 'dot4', 'timestamps'] as const

export interface WebgpuOptions {
  /** Budget of all GPU buffers, in bytes or as `2GiB`. Default: what the driver gives; of a GPU in software what the machine has available then. */
  memory?: number | string
  /** How long submitted work may take, in milliseconds. Default 30,000. */
  timeoutMs?: number
  /** Features to do without, as on an adapter that lacks them. */
  without?: (typeof features)[number][]
}

export interface GpuBackend extends GpuKernels {
  readonly name: 'webgpu'
  /** The adapter, as its driver names it. */
  readonly device: string
  /** Bytes of all GPU buffers now, the most so far, and the budget. */
  readonly memory: { readonly usedBytes: number; readonly peakBytes: number; readonly limitBytes: number | undefined }
  /** Submits so far. */
  readonly submits: number
  /** A copy of a typed array in GPU memory. */
  upload<A extends HostArrays[Element]>(array: A): Promise<DeviceArray<ElementOf<A>>>
  /** A new array of zeros in GPU memory. */
  allocate<E extends Element>(element: E, length: number): Promise<DeviceArray<E>>
  /** Ends the device; later calls throw GPU_DEVICE_LOST. */
  dispose(): void
}

const subject = 'openBackend'
const mostTimeout = 2 ** 31 - 1

function deviceOptions(options: WebgpuOptions) {
  if (typeof options !== 'object' || options === null)
    throw validationError(subject, 'the argument', options, 'an object of options')
  const { memory, timeoutMs, without = [], ...others } = options
  const [unknown] = Object.keys(others)
  if (unknown !== undefined) throw refusal(subject, unknown, 'not an option', 'memory, timeoutMs, without')
  if (memory !== undefined && !isByteSize(memory))
    throw validationError(subject, 'memory', memory, 'a number of bytes or a text such as 2GiB')
  if (timeoutMs !== undefined && !(typeof timeoutMs === 'number' && timeoutMs > 0 && timeoutMs <= mostTimeout))
    throw validationError(subject, 'timeoutMs', timeoutMs, `a number of milliseconds above 0, up to ${mostTimeout}`)
  if (!Array.isArray(without) || !without.every((feature) => features.includes(feature)))
    throw validationError(subject, 'without', without, `an array of ${features.join(', ')}`)
  return {
    ...(memory === undefined ? {} : { memoryBytes: byteSize(memory) }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    without: [...without]
  }
}

/**
 * Rejects with what the provider throws, GPU_ADAPTER_UNAVAILABLE, GPU_LIMIT_EXCEEDED, VALIDATION_ERROR. Calls reject with GPU_VRAM_EXHAUSTED,
 * GPU_SHADER_INVALID, GPU_VALIDATION_FAILED, GPU_DEVICE_LOST and GPU_SUBMIT_TIMEOUT besides the CPU's.
 */
export async function openGpuBackend(
  options: WebgpuOptions,
  host: Pick<GpuDeviceOptions, 'provider' | 'shaders' | 'hostMemory'>
): Promise<GpuBackend> {
  const device = await GpuDevice.open({ ...host, ...reading(subject, () => deviceOptions(options)) })
  const calls = new GpuCalls(device)
  return {
    ...calls.table(),
    name: 'webgpu',
    device: device.name,
    memory: device.memory,
    get submits() {
      return device.submits
    },
    upload: (array) => calls.upload(array),
    allocate: (element, length) => calls.allocate(element, length),
    dispose: () => device.dispose()
  }
}
