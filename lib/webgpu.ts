/**
 * The kernels on a GPU where there is no addon: in a page or a worker of a browser. This module and what it imports need nothing of Node.
 *
 *     const backend = await openBackend('webgpu')
 *     const { ids, weights } = await backend.route({ states, router, routerExponent, experts: 64, k: 8, positions })
 *
 * Requests are those of `tiered-moe/kernels`. There is no `pack` and no `packRouter`: matrices come packed, from Node or from the blobs of a
 * tiered checkpoint. `sample` draws from at most 256 candidates.
 */
import { shaderTexts } from './backends/webgpu/shader-texts.js'
import { createError } from './errors/index.js'
import type { GpuBackend, WebgpuOptions } from './kernels/gpu-backend.js'
import { openGpuBackend } from './kernels/gpu-backend.js'
import { reading, validationError } from './validation.js'

export type { GpuKernels } from './backends/webgpu/backend.js'
export type { ErrorCode, ErrorDetails, WireError } from './errors/index.js'
export { EngineClientError, EngineError, isEngineError, TimeoutError } from './errors/index.js'
export type { DeviceArray, Element, HostArrays, OnDevice } from './kernels/device-arrays.js'
export type { GpuBackend, WebgpuOptions } from './kernels/gpu-backend.js'
export { dtypes, kvCacheBytes, packedBytes } from './kernels/layout.js'
export type * from './kernels/requests.js'
export type { DType, KvType } from './native.js'

export interface PageOptions extends WebgpuOptions {
  /** Where WebGPU comes from. Default: `navigator.gpu`. */
  gpu?: GPU
}

const pageGpu = () => (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu
const textOf = (name: string) => (Object.hasOwn(shaderTexts, name) ? shaderTexts[name] : undefined)

/** Rejects with BACKEND_UNAVAILABLE for another name or where there is no WebGPU, GPU_ADAPTER_UNAVAILABLE, GPU_LIMIT_EXCEEDED, VALIDATION_ERROR. */
export async function openBackend(name: 'webgpu', options: PageOptions = {}): Promise<GpuBackend> {
  if (name !== 'webgpu')
    throw createError('BACKEND_UNAVAILABLE', `backend '${String(name)}' needs Node: import tiered-moe/kernels there`, {
      backend: String(name),
      available: ['webgpu']
    })
  const { gpu = pageGpu(), ...others } = reading('openBackend', () => ({ ...options }))
  if (!gpu)
    throw createError('BACKEND_UNAVAILABLE', 'there is no WebGPU here: navigator.gpu is not defined', {
      backend: 'webgpu',
      available: [],
      suggestedAction:
        'Use a browser with WebGPU and serve the page by HTTPS or from localhost, or pass the option `gpu`.'
    })
  if (typeof gpu.requestAdapter !== 'function')
    throw validationError('openBackend', 'gpu', gpu, 'an object as navigator.gpu is one')
  return openGpuBackend(others, { provider: () => gpu, shaders: textOf })
}
