/** The backend `cuda`: the handle of its addon, which says itself what its device has and holds. */
import type { BackendMemory, NativeBackend } from '../native.js'

/** What an addon for a device tells of the device's memory; undefined where it computes on the CPU. Throws CUDA_DEVICE_FAILED. */
function memoryOf(handle: NativeBackend): BackendMemory | undefined {
  const first = handle.deviceCounts?.()
  if (!first) return undefined
  const now = () => handle.deviceCounts?.() ?? first
  return {
    device: first.device,
    available: () => now().availableBytes,
    stepBytes: (plan, maxBatchTokens) => handle.deviceStepBytes?.(plan, maxBatchTokens) ?? 0,
    counts: () => {
      const { submits, waitedMs, memoryBytes, buffers } = now()
      return { submits, waitedMs, memoryBytes, buffers }
    }
  }
}

/** The same handle with `memory`. Throws CUDA_DEVICE_FAILED. */
export function withDeviceMemory(handle: NativeBackend): NativeBackend {
  const memory = memoryOf(handle)
  return memory ? Object.assign(handle, { memory }) : handle
}
