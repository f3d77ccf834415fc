/** What WebGPU reports, as typed errors. */
import type { EngineError } from '../../errors/index.js'
import { createError } from '../../errors/index.js'
import type { Alternative } from '../../memory-plan.js'

/** GPU_LIMIT_EXCEEDED {limit, required, available}. */
export const limitExceeded = (device: string, limit: string, required: number, available: number): EngineError =>
  createError('GPU_LIMIT_EXCEEDED', `${device}: ${limit} is ${available}, ${required} are needed`, {
    device,
    limit,
    required,
    available
  })

/** GPU_VRAM_EXHAUSTED {device, required, available, alternatives}; who knows the model adds `model` and its own alternatives. */
export const memoryExhausted = (
  device: string,
  what: string,
  memory: {
    required: number
    available: number | null
    used: number
    limit: number | null
    alternatives?: Alternative[]
  },
  cause?: unknown
): EngineError => {
  const { required, available, used, limit, alternatives = [] } = memory
  const free = available === null ? 'no more is granted' : `${available} are free`
  return createError(
    'GPU_VRAM_EXHAUSTED',
    `${device}: ${required} bytes of GPU memory are needed for ${what}, ${free} (${used} are in use)`,
    {
      device,
      model: null,
      required,
      available,
      alternatives,
      resourceInfo: { required, available: available ?? 0, current: used, limit, unit: 'bytes' }
    },
    { cause }
  )
}

/** GPU_VALIDATION_FAILED {device, operation}. */
export const validationFailed = (device: string, operation: string, cause: { message: string }): EngineError =>
  createError('GPU_VALIDATION_FAILED', `${device}: ${operation}: ${cause.message}`, { device, operation }, { cause })

/** GPU_DEVICE_LOST {device, reason}. */
export const deviceLost = (device: string, info: { reason: string; message: string }): EngineError =>
  createError('GPU_DEVICE_LOST', `${device} was lost (${info.reason}): ${info.message}`, {
    device,
    reason: info.reason
  })

/** GPU_SUBMIT_TIMEOUT {device, timeoutMs}. */
export const submitTimeout = (device: string, timeoutMs: number): EngineError =>
  createError('GPU_SUBMIT_TIMEOUT', `${device}: work that was submitted has not ended after ${timeoutMs} ms`, {
    device,
    timeoutMs
  })
