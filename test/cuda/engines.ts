/**
 * Engines on CUDA, for tests that compare them with the CPU's. TIERED_MOE_CUDA_ADDON may name the emulated addon (scripts/test-cuda.mjs does);
 * where there is neither addon nor GPU a test is a reported skip.
 */
import type { Test } from 'tap'
import { createEngine, type Engine, type EngineOptions, isEngineError } from 'tiered-moe'
import { type CudaBackend, openBackend } from 'tiered-moe/kernels'

/** What `open` gives; undefined where there is no CUDA. */
async function whereCuda<T>(t: Test, open: () => Promise<T>): Promise<T | undefined> {
  try {
    return await open()
  } catch (error) {
    if (!isEngineError(error) || error.code !== 'CUDA_DEVICE_FAILED') throw error
    const reason = `no CUDA here: ${error.message}`
    if (process.env.TIERED_MOE_CUDA_ADDON) t.fail(reason)
    else t.pass(reason, { skip: reason })
    return undefined
  }
}

/** The kernels, ended after the test. */
export async function openCudaKernels(t: Test): Promise<CudaBackend | undefined> {
  const cuda = await whereCuda(t, () => openBackend('cuda'))
  t.teardown(() => cuda?.dispose())
  return cuda
}

/** Both engines, ended after the test. */
export async function openCudaEngines(
  t: Test,
  options: EngineOptions = {}
): Promise<{ cuda: Engine; cpu: Engine } | undefined> {
  const common = { threads: 2, ...options }
  const cuda = await whereCuda(t, () => createEngine({ ...common, backend: 'cuda' }))
  if (!cuda) return undefined
  t.teardown(() => cuda.dispose())
  t.comment(`device: ${cuda.backend.device}`)
  const cpu = await createEngine(common)
  t.teardown(() => cpu.dispose())
  return { cuda, cpu }
}
