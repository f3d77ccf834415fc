/** `openBackend('cuda')`: the kernels on an NVIDIA GPU, with the bits of the CPU's. */
import { withDeviceMemory } from '../backends/cuda.js'
import { createError } from '../errors/index.js'
import { cudaNative } from '../native.js'
import type { Packing } from './packing.js'
import { packing } from './packing.js'
import type { AsyncKernels } from './table.js'
import { asyncTable } from './table.js'

export interface CudaBackend extends AsyncKernels, Packing {
  readonly name: 'cuda'
  /** The GPU, as its driver names it. */
  readonly device: string
  /** Bytes of GPU memory that this process has now, and that nobody has. */
  readonly memory: { readonly usedBytes: number; readonly availableBytes: number }
  /** Ends the backend once the work under way is done; later calls throw VALIDATION_ERROR. */
  dispose(): void
}

/**
 * Calls run in order, off the JavaScript thread: arrays are copied to the GPU and back. Rejects with CUDA_DEVICE_FAILED {tried, install} where
 * the addon is not there, and CUDA_DEVICE_FAILED without the driver or a device. Calls reject with GPU_VRAM_EXHAUSTED and CUDA_DEVICE_FAILED
 * besides the CPU's errors.
 */
export async function openCuda(): Promise<CudaBackend> {
  const handle = withDeviceMemory(cudaNative().createBackend({ threads: 1, isa: 'auto' }))
  const { memory } = handle
  if (!memory) {
    handle.dispose()
    throw createError('CUDA_DEVICE_FAILED', 'the addon was not built for CUDA', { device: null })
  }
  return {
    ...asyncTable(handle),
    name: 'cuda',
    device: memory.device,
    get memory() {
      return { usedBytes: memory.counts().memoryBytes, availableBytes: memory.available() }
    },
    ...packing(handle),
    dispose: () => handle.dispose()
  }
}
