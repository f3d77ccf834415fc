/** The backend `cuda`: the handle of its addon, which says itself what its device has and holds. */
import { isEngineError } from '../errors/index.js'
import type { BackendMemory, NativeBackend } from '../native.js'

/** What an addon for a device tells of the device's memory; undefined where it computes on the CPU. Throws CUDA_DEVICE_FAILED. */
function memoryOf(handle: NativeBackend): BackendMemory | undefined {
  const first = handle.deviceCounts?.()
  if (!first) return undefined
  let last = first
  const now = () => {
    last = handle.deviceCounts?.() ?? last
    return last
  }
  /** For who only looks: of a device that failed, what it said last. */
  const lastKnown = () => {
    try {
      return now()
    } catch (error) {
      if (isEngineError(error) && error.code === 'CUDA_DEVICE_FAILED') return last
      throw error
    }
  }
  return {
    device: first.device,
    available: () => now().availableBytes,
    stepBytes: (plan, maxBatchTokens) => handle.deviceStepBytes?.(plan, maxBatchTokens) ?? 0,
    counts: () => {
      const { submits, waitedMs, memoryBytes, buffers } = lastKnown()
      return { submits, waitedMs, memoryBytes, buffers }
    }
  }
}

/** The same handle with `memory`, and with `reopen` for engines. Throws CUDA_DEVICE_FAILED. */
export function withDeviceMemory(handle: NativeBackend): NativeBackend {
  const memory = memoryOf(handle)
  if (!memory) return handle
  return Object.assign(handle, {
    memory,
    // A fault of the device stays while the process lives: this finds it, and cannot mend it.
    reopen: async () => {
      memory.available()
    }
  })
}
