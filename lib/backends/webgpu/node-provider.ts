/** WebGPU under Node: the optional package `webgpu` (Dawn). The only file of this folder that a browser does not need. */
import loaded from '#webgpu'
import { createError } from '../../errors/index.js'

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
