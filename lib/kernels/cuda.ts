/** `openBackend('cuda')`: the kernels on an NVIDIA GPU, with the bits of the CPU's. */
import { withDeviceMemory } from '../backends/cuda.js'
import { createError } from '../errors/index.js'
import { cudaNative } from '../native.js'
import { reading, refusal, validationError } from '../validation.js'
import type { Packing } from './packing.js'
import { packing } from './packing.js'
import type { AsyncKernels } from './table.js'
import { asyncTable } from './table.js'

export interface CudaOptions {
  /** Which GPU, as CUDA numbers them (`CUDA_DEVICE_ORDER=PCI_BUS_ID` makes that the order of nvidia-smi); default 0. */
  device?: number
}

export interface CudaBackend extends AsyncKernels, Packing {
  readonly name: 'cuda'
  /** The GPU, as its driver names it. */
  readonly device: string
  /** Bytes of GPU memory that this process has now, on every GPU, and that nobody has of this one. */
  readonly memory: { readonly usedBytes: number; readonly availableBytes: number }
  /** Ends the backend once the work under way is done; later calls throw VALIDATION_ERROR. */
  dispose(): void
}

const subject = 'openBackend'

function checked(options: CudaOptions): Required<CudaOptions> {
  if (typeof options !== 'object' || options === null)
    throw validationError(subject, 'the argument', options, 'an object of options')
  const { device = 0, ...others } = options
  const [unknown] = Object.keys(others)
  if (unknown !== undefined) throw refusal(subject, unknown, 'not an option', 'device')
  if (!Number.isInteger(device) || device < 0) throw validationError(subject, 'device', device, 'an integer from 0')
  return { device }
}

/**
 * Calls run in order, off the JavaScript thread: arrays are copied to the GPU and back. Rejects with CUDA_DEVICE_FAILED {tried, install} where
 * the addon is not there, and CUDA_DEVICE_FAILED without the driver or that device. Calls reject with GPU_VRAM_EXHAUSTED and CUDA_DEVICE_FAILED
 * besides the CPU's errors.
 */
export async function openCuda(options: CudaOptions = {}): Promise<CudaBackend> {
  const { device } = reading(subject, () => checked(options))
  const handle = withDeviceMemory(cudaNative().createBackend({ threads: 1, isa: 'auto', device }))
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
