/** `openBackend('webgpu')`: the kernels on a GPU, from Node. */
import { onNode } from '../backends/webgpu/node-provider.js'
import { drawsOnDevice } from '../backends/webgpu/sampling.js'
import type { NativeBackend } from '../native.js'
import { native } from '../native.js'
import { prepare } from './calls.js'
import type { DeviceArray, Element, GpuKernelMethod, HostArrays, OnDevice } from './device-arrays.js'
import type { GpuBackend, WebgpuOptions } from './gpu-backend.js'
import { openGpuBackend } from './gpu-backend.js'
import type { Packing } from './packing.js'
import { packing } from './packing.js'
import type { SampleRequest } from './requests.js'

export type { WebgpuOptions } from './gpu-backend.js'

export interface WebgpuBackend extends GpuBackend, Packing {}

/** Rejects with BACKEND_UNAVAILABLE (the package `webgpu` is not installed) and as `openGpuBackend`. */
export async function openWebgpu(options: WebgpuOptions): Promise<WebgpuBackend> {
  const gpu = await openGpuBackend(options, onNode)
  const packer = packerOf(gpu)
  const { sample, dispose } = gpu
  return Object.assign(gpu, {
    sample: drawing(sample, packer),
    ...packing(packer),
    dispose: () => {
      dispose()
      packer.dispose()
    }
  })
}

/** Ends the device where there is no thread for it. */
function packerOf(gpu: GpuBackend): NativeBackend {
  try {
    return native().createBackend({ threads: 1, isa: 'auto' })
  } catch (error) {
    gpu.dispose()
    throw error
  }
}

/** The GPU's sampler, and the CPU's on logits that are read back where it has to sort more candidates than the GPU does. */
function drawing(onDevice: GpuKernelMethod<'sample'>, host: NativeBackend): GpuKernelMethod<'sample'> {
  const sample = async (request: OnDevice<SampleRequest>) => {
    const { logits, temperature = 0, topK = 0 } = request ?? {}
    if (!logits || drawsOnDevice({ temperature, topK }, logits.length)) return onDevice(request)
    const arrays = await Promise.all([logits, request.recent, request.banned, request.allowed].map(onHost))
    const [read, recent, banned, allowed] = arrays
    const { args, result } = prepare.sample({ ...request, logits: read, recent, banned, allowed } as SampleRequest)
    return result(await host.callAsync('sample', args, false))
  }
  return sample as GpuKernelMethod<'sample'>
}

const onHost = (array: HostArrays[Element] | DeviceArray | undefined) =>
  array && 'read' in array ? array.read() : array
