/**
 * Kernel-level interface: each operation of a Mixture-of-Experts layer on caller-owned typed arrays, zero-copy and checked.
 *
 *     const backend = openBackend('cpu', { threads: 2 })
 *     const { ids, weights } = await backend.route({ states, router, routerExponent, experts: 64, k: 8, positions })
 *
 * Every backend has the asynchronous form; the CPU backend also has `sync` (on the calling thread) and `naive` (the reference that a
 * reader can check by eye, on weights in the file's layout). All forms give the same bits on every instruction set. `webgpu` runs the same
 * requests on a GPU, and arrays can stay in its memory from call to call: `const backend = await openBackend('webgpu')`. `cuda` runs them with
 * the CPU's bits on an NVIDIA GPU: `await openBackend('cuda')`.
 */
import { createError } from './errors/index.js'
import type { CudaBackend, CudaOptions } from './kernels/cuda.js'
import { openCuda } from './kernels/cuda.js'
import type { Packing } from './kernels/packing.js'
import { packing } from './kernels/packing.js'
import type { AsyncKernels, PreparedKernels, SyncKernels } from './kernels/table.js'
import { asyncTable, preparedTable, syncTable } from './kernels/table.js'
import type { WebgpuBackend, WebgpuOptions } from './kernels/webgpu.js'
import { openWebgpu } from './kernels/webgpu.js'
import type { Isa } from './native.js'
import { native } from './native.js'
import { validationError } from './validation.js'

export type { CudaBackend, CudaOptions } from './kernels/cuda.js'
export type { DeviceArray, Element, HostArrays, OnDevice } from './kernels/device-arrays.js'
export { dtypes, kvCacheBytes, packedBytes } from './kernels/layout.js'
export type * from './kernels/requests.js'
export type { Llama3Parameters, RopeScaling, YarnParameters } from './kernels/rope-scaling.js'
export { llama3Scaling, yarnScaling } from './kernels/rope-scaling.js'
export type { AsyncKernels, PreparedKernels, SyncKernels } from './kernels/table.js'
export type { WebgpuBackend, WebgpuOptions } from './kernels/webgpu.js'
export type { DType, Isa, KvType } from './native.js'
export type { Carry, ExpertRank, RankGroupOptions, RankTokens } from './ranks/group.js'
export { RankGroup } from './ranks/group.js'
export type { Segment, SegmentArrays, SegmentHeader } from './ranks/segment.js'
export { type ExpertShare, expertShares } from './ranks/share.js'

export interface BackendOptions {
  /** Worker threads of the asynchronous form, 1 to 1024; default 1. */
  threads?: number
  /** Default: the fastest here, or what TIERED_MOE_ISA names. */
  isa?: Isa | 'auto'
}

export interface KernelBackend extends AsyncKernels, Packing {
  readonly name: 'cpu'
  readonly isa: Isa
  readonly threads: number
  readonly sync: SyncKernels
  readonly naive: SyncKernels
  /**
   * For loops: `const run = backend.prepare.expertMatmul(request)` checks and allocates once, then each `run()` computes on the calling thread,
   * from what the request's arrays hold by then. Routers, biases, masks and numbers are those of the preparation, and nothing checks them again.
   * A `run()` throws what the kernel does, and VALIDATION_ERROR where the memory of an array was transferred or the backend disposed.
   */
  readonly prepare: PreparedKernels
  /** The instruction set that each kernel resolved to. */
  kernels(): Record<string, Isa>
  /** Ends the threads once the work under way is done; later calls throw. */
  dispose(): void
}

/**
 * Opens a backend. Throws BACKEND_UNAVAILABLE for a name that it does not know, ISA_UNSUPPORTED, VALIDATION_ERROR, RESOURCE_MEMORY_EXHAUSTED
 * (no thread could be started). `webgpu` and `cuda` are promises: see `openWebgpu` and `openCuda` for what they reject with.
 */
export function openBackend(name: 'cpu', options?: BackendOptions): KernelBackend
export function openBackend(name: 'webgpu', options?: WebgpuOptions): Promise<WebgpuBackend>
export function openBackend(name: 'cuda', options?: CudaOptions): Promise<CudaBackend>
export function openBackend(
  name: 'cpu' | 'webgpu' | 'cuda',
  options: BackendOptions | WebgpuOptions | CudaOptions = {}
): KernelBackend | Promise<WebgpuBackend | CudaBackend> {
  if (name === 'webgpu') return openWebgpu(options as WebgpuOptions)
  if (name === 'cuda') return openCuda(options as CudaOptions)
  if (name === 'cpu') return openCpu(options as BackendOptions)
  throw createError('BACKEND_UNAVAILABLE', `backend '${String(name)}' is not in this version`, {
    backend: String(name),
    available: ['cpu', 'webgpu', 'cuda']
  })
}

function openCpu(options: BackendOptions): KernelBackend {
  if (typeof options !== 'object' || options === null)
    throw validationError('openBackend', 'options', options, 'an object')
  const { threads = 1, isa = 'auto' } = options
  const handle = native().createBackend({ threads, isa })

  return {
    ...asyncTable(handle),
    name: 'cpu',
    isa: handle.isa,
    threads: handle.threads,
    sync: syncTable((op, args) => handle.call(op, args, false)),
    naive: syncTable((op, args) => handle.call(op, args, true)),
    prepare: preparedTable(handle),
    kernels: () => handle.kernels(),
    ...packing(handle),
    dispose: () => handle.dispose()
  }
}
