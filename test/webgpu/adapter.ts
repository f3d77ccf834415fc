/** The GPU that tests run on. Without one a file is a reported skip; under CI=1 that is a failure. */
import type { Test } from 'tap'
import { isEngineError } from 'tiered-moe'
import type { WebgpuBackend, WebgpuOptions } from 'tiered-moe/kernels'
import { openBackend } from 'tiered-moe/kernels'

/** What the machine lacks: a reported skip, under CI=1 a failure. */
export function skipHere(test: Test, reason: string): void {
  if (process.env.CI) test.fail(reason)
  else test.pass(reason, { skip: reason })
}

/** Codes of a machine without a GPU. */
export const absent = ['GPU_ADAPTER_UNAVAILABLE', 'BACKEND_UNAVAILABLE']

/** The backend for a whole test file, ended after it; undefined where the machine has no adapter. */
export async function openGpu(test: Test, options: WebgpuOptions = {}): Promise<WebgpuBackend | undefined> {
  try {
    const backend = await openBackend('webgpu', options)
    test.teardown(() => backend.dispose())
    test.comment(`adapter: ${backend.device}`)
    return backend
  } catch (error) {
    if (!isEngineError(error) || !absent.includes(error.code)) throw error
    skipHere(test, `no WebGPU adapter here: ${error.message}`)
    return undefined
  }
}
