/** What runs an engine's models: what its addon brings, or a GPU through WebGPU beside the CPU. */
import { availableParallelism } from 'node:os'
import { withDeviceMemory } from '../backends/cuda.js'
import { GpuDevice } from '../backends/webgpu/device.js'
import { WebGpuBackend } from '../backends/webgpu/model/backend.js'
import { onNode } from '../backends/webgpu/node-provider.js'
import type { NativeAddon, NativeBackend } from '../native.js'
import { byteSize, validationError } from '../validation.js'
import type { CheckedOptions } from './options.js'

/** VALIDATION_ERROR for settings of another backend. */
export function checkGpuSettings({ backend, gpu }: Pick<CheckedOptions, 'backend' | 'gpu'>): void {
  if (gpu && backend !== 'webgpu') throw validationError('createEngine', 'gpu', gpu, 'only with the backend webgpu')
}

/**
 * CUDA_DEVICE_FAILED of the addon for CUDA; BACKEND_UNAVAILABLE where the package `webgpu` is not installed, GPU_ADAPTER_UNAVAILABLE,
 * GPU_LIMIT_EXCEEDED; ISA_UNSUPPORTED, RESOURCE_MEMORY_EXHAUSTED.
 */
export async function openEngineBackend(
  { backend, threads = availableParallelism(), isa, gpu = {} }: CheckedOptions,
  addon: NativeAddon
): Promise<NativeBackend> {
  const host = addon.createBackend({ threads, isa })
  try {
    if (backend !== 'webgpu') return withDeviceMemory(host)
    const { memory, timeoutMs, timestamps } = gpu
    const open = () =>
      GpuDevice.open({
        ...onNode,
        ...(memory !== undefined && { memoryBytes: byteSize(memory) }),
        ...(timeoutMs !== undefined && { timeoutMs }),
        ...(timestamps !== undefined && { timestamps })
      })
    return new WebGpuBackend(await open(), host, addon, open)
  } catch (error) {
    host.dispose()
    throw error
  }
}
