/** `openBackend('webgpu')`: the kernels on a GPU, from Node. */
import { z } from 'zod'
import type { GpuKernels } from '../backends/webgpu/backend.js'
import { GpuCalls } from '../backends/webgpu/backend.js'
import { GpuDevice } from '../backends/webgpu/device.js'
import { onNode } from '../backends/webgpu/node-provider.js'
import { drawsOnDevice } from '../backends/webgpu/sampling.js'
import type { NativeBackend } from '../native.js'
import { native } from '../native.js'
import { byteSize, isByteSize, validated } from '../validation.js'
import { prepare } from './calls.js'
import type { DeviceArray, Element, ElementOf, GpuKernelMethod, HostArrays, OnDevice } from './device-arrays.js'
import type { Packing } from './packing.js'
import { packing } from './packing.js'
import type { SampleRequest } from './requests.js'

/** Features that a shader uses where the adapter has them. */
const features = ['subgroups', 'f16', 'dot4', 'timestamps'] as const

export interface WebgpuOptions {
  /** Budget of all GPU buffers, in bytes or as `2GiB`. Default: what the driver gives; of a GPU in software what the machine has available. */
  memory?: number | string
  /** How long submitted work may take, in milliseconds. Default 30,000. */
  timeoutMs?: number
  /** Features to do without, as on an adapter that lacks them. */
  without?: (typeof features)[number][]
}

const optionsSchema = z.strictObject({
  memory: z.custom<number | string>(isByteSize).optional().describe('a number of bytes or a text such as 2GiB'),
  timeoutMs: z
    .number()
    .positive()
    .max(2 ** 31 - 1)
    .optional()
    .describe('a number of milliseconds above 0'),
  without: z
    .array(z.enum(features))
    .optional()
    .describe(`an array of ${features.join(', ')}`)
})

export interface WebgpuBackend extends GpuKernels, Packing {
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

/**
 * Rejects with BACKEND_UNAVAILABLE (the package `webgpu` is not installed), GPU_ADAPTER_UNAVAILABLE, GPU_LIMIT_EXCEEDED, VALIDATION_ERROR.
 * Calls reject with GPU_VRAM_EXHAUSTED, GPU_SHADER_INVALID, GPU_VALIDATION_FAILED, GPU_DEVICE_LOST and GPU_SUBMIT_TIMEOUT besides the CPU's.
 */
export async function openWebgpu(options: WebgpuOptions): Promise<WebgpuBackend> {
  const { memory, timeoutMs, without } = validated(optionsSchema, options, 'openBackend')
  const device = await GpuDevice.open({
    ...onNode,
    ...(memory === undefined ? {} : { memoryBytes: byteSize(memory) }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    ...(without === undefined ? {} : { without })
  })
  const packer = packerOf(device)
  const calls = new GpuCalls(device)
  const kernels = calls.table()
  return {
    ...kernels,
    sample: drawing(kernels.sample, packer),
    ...packing(packer),
    name: 'webgpu',
    device: device.name,
    memory: device.memory,
    get submits() {
      return device.submits
    },
    upload: (array) => calls.upload(array),
    allocate: (element, length) => calls.allocate(element, length),
    dispose: () => {
      device.dispose()
      packer.dispose()
    }
  }
}

/** Ends the device where there is no thread for it. */
function packerOf(device: GpuDevice): NativeBackend {
  try {
    return native().createBackend({ threads: 1, isa: 'auto' })
  } catch (error) {
    device.dispose()
    throw error
  }
}

/** The GPU's sampler, and the CPU's on logits that are read back where it has to sort more candidates than the GPU does. */
function drawing(onDevice: GpuKernelMethod<'sample'>, host: NativeBackend): GpuKernelMethod<'sample'> {
  const sample = async (request: OnDevice<SampleRequest>) => {
    const { logits, temperature = 0, topK = 0 } = request ?? {}
    if (!logits || drawsOnDevice({ temperature, topK }, logits.length)) return onDevice(request)
    const arrays = await Promise.all([logits, request.recent, request.banned].map(onHost))
    const [read, recent, banned] = arrays as [Float32Array, Int32Array | undefined, Int32Array | undefined]
    const { args, result } = prepare.sample({ ...request, logits: read, recent, banned } as SampleRequest)
    return result(await host.callAsync('sample', args, false))
  }
  return sample as GpuKernelMethod<'sample'>
}

const onHost = (array: HostArrays[Element] | DeviceArray | undefined) =>
  array && 'read' in array ? array.read() : array
