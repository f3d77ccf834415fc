/** How an engine computes, as plain data. */
import type { DeviceCounts, Isa } from '../native.js'
import type { BackendName } from './options.js'
import type { EngineParts } from './parts.js'

/** How the engine computes. */
export interface BackendInfo {
  name: BackendName
  /** Of webgpu and cuda: the GPU, as its driver names it. */
  device?: string
  /** Of webgpu and cuda: what the GPU has done since the engine began (cuda: since the process did), and holds now. */
  gpu?: DeviceCounts
  /** Of the CPU; with webgpu and cuda it reads and packs weights. */
  isa: Isa
  threads: number
  /** The instruction set that each kernel resolved to. */
  kernels: Record<string, Isa>
}

export function backendInfo({ backend, options }: Pick<EngineParts, 'backend' | 'options'>): BackendInfo {
  const { memory, isa, threads } = backend
  const own = memory && { device: memory.device, gpu: memory.counts() }
  return { name: options.backend, ...own, isa, threads, kernels: backend.kernels() }
}
