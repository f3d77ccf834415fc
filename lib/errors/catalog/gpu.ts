/** Failures of a GPU backend: what is not there, too little, refused, or gone. */
import type { CatalogEntry } from './entry.js'
import { operators, request } from './entry.js'

const device = { ...operators, category: 'runtime', severity: 'fatal', scope: 'engine' } as const

export const gpu = {
  GPU_ADAPTER_UNAVAILABLE: {
    ...operators,
    meaning: 'WebGPU found no adapter: no GPU, or no driver for it.',
    category: 'configuration',
    scope: 'engine',
    details: [],
    suggestedAction:
      "Install the GPU's Vulkan driver (Mesa's lavapipe runs without a GPU), or choose backend 'cpu'; nothing falls back by itself.",
    native: false
  },
  CUDA_DEVICE_FAILED: {
    ...device,
    meaning: 'CUDA is not there (no addon for it, no driver, no device), or a device failed.',
    retry: 'never',
    details: ['device'],
    suggestedAction:
      "Install what the message names; after a failure of the device itself, start the process again. Or choose backend 'cpu': nothing falls back by itself.",
    native: true
  },
  GPU_LIMIT_EXCEEDED: {
    ...operators,
    meaning: 'More was asked for than a limit of the adapter allows.',
    category: 'resource',
    retry: 'never',
    details: ['device', 'limit', 'required', 'available'],
    suggestedAction: 'Stay within details.limit: a smaller buffer, batch or context, or another adapter.',
    native: false
  },
  GPU_VRAM_EXHAUSTED: {
    ...operators,
    meaning: 'The GPU has no memory left for a buffer, or its byte budget is used up.',
    category: 'resource',
    retry: 'backoff',
    httpStatus: 503,
    details: ['device', 'model', 'required', 'available', 'resourceInfo', 'alternatives'],
    suggestedAction:
      'Free memory, or take one of details.alternatives where there are some: a smaller weight type, context or number of experts on the GPU.',
    native: true
  },
  GPU_VALIDATION_FAILED: {
    ...request,
    meaning: 'WebGPU refused a command as invalid: a fault of this library.',
    category: 'runtime',
    logLevel: 'error',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'InternalError',
    details: ['device', 'operation'],
    suggestedAction: 'Report it with the message; the device goes on.',
    native: false
  },
  GPU_SHADER_INVALID: {
    ...request,
    meaning: 'The driver refused to compile a shader.',
    category: 'runtime',
    logLevel: 'error',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'InternalError',
    details: ['device', 'shader', 'compiler'],
    suggestedAction:
      'Report it with details.shader, details.compiler and the driver; another driver version may take it.',
    native: false
  },
  GPU_DEVICE_LOST: {
    ...device,
    meaning: 'The GPU device was lost: its driver was reset, it was taken away, or it was destroyed.',
    retry: 'backoff',
    httpStatus: 503,
    details: ['device', 'reason'],
    suggestedAction: 'Call engine.recover(): it opens the device again and loads its models.',
    native: false
  },
  GPU_SUBMIT_TIMEOUT: {
    ...device,
    meaning: 'Work that was submitted to the GPU has not ended within its time.',
    retry: 'backoff',
    httpStatus: 504,
    exitCode: 124,
    engineCode: 'Timeout',
    details: ['device', 'timeoutMs'],
    suggestedAction: 'Call engine.recover(); where the GPU is only slow, make an engine with a longer gpu.timeoutMs.',
    native: false
  }
} as const satisfies Record<string, CatalogEntry>
