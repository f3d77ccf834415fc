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
  if (native().availableMemory() < bytes) return false
  try {
    native().reserveMemory(bytes).dispose()
    return true
  } catch (error) {
    if (isEngineError(error) && error.code === 'RESOURCE_MEMORY_EXHAUSTED') return false
    throw error
  }
}

/**
 * Milliseconds that a turn of the event loop takes at least while a GPU is waited for. The binding polls once a turn, and each poll leaves garbage
 * with a finalizer: in turns of some microseconds that takes a third of a token's own time. Sleeping would leave a core to itself, from which a GPU
 * in software is slow to start.
 */
const turnMs = 0.05
let [waiting, turning] = [0, false]

function turn(): void {
  turning = waiting > 0
  if (!turning) return
  const end = performance.now() + turnMs
  while (performance.now() < end);
  setImmediate(turn)
}

function slowTurns(begins: boolean): void {
  waiting += begins ? 1 : -1
  if (waiting === 0 || turning) return
  turning = true
  setImmediate(turn)
}

/** `GpuDevice.open({ ...onNode, … })` */
export const onNode: Pick<GpuDeviceOptions, 'provider' | 'shaders' | 'hostMemory' | 'onWaiting'> = {
  provider: nodeGpu,
  shaders: (name) => native().shaderText(name),
  hostMemory: { grants },
  onWaiting: slowTurns
}
