/** What a device needs under Node: the optional package `webgpu` (Dawn) and the addon. The only file of this folder that a browser does not need. */
import loaded from '#webgpu'
import { createError, isEngineError } from '../../errors/index.js'
import { native } from '../../native.js'
import type { GpuDeviceOptions } from './device.js'

/** Throws BACKEND_UNAVAILABLE where the package is not installed or has no binary for this machine. */
export async function nodeGpu(): Promise<GPU> {
  try {
    return (await loaded.open()) as GPU
  } catch (cause) {
    throw createError(
      'BACKEND_UNAVAILABLE',
      'the backend webgpu needs the package `webgpu`, which could not be loaded',
      {
        backend: 'webgpu',
        available: ['cpu'],
        suggestedAction: 'Run `npm install webgpu@0.6`; nothing falls back to another backend by itself.'
      },
      { cause }
    )
  }
}

function grants(bytes: number): boolean {
  try {
    native().reserveMemory(bytes).dispose()
    return true
  } catch (error) {
    if (isEngineError(error) && error.code === 'RESOURCE_MEMORY_EXHAUSTED') return false
    throw error
  }
}

/** `GpuDevice.open({ ...onNode, … })` */
export const onNode: Pick<GpuDeviceOptions, 'provider' | 'shaders' | 'hostMemory'> = {
  provider: nodeGpu,
  shaders: (name) => native().shaderText(name),
  hostMemory: { available: () => native().availableMemory(), grants }
}
