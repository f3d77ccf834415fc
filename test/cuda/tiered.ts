/** The embedded model on a CUDA engine with slots for a part of its experts, for tests that compare it with the CPU's. */
import type { Test } from 'tap'
import type { LoadModelRequest } from 'tiered-moe'
import { results } from '../fixtures/device-tiers.js'
import { openCudaEngines } from './engines.js'

/** Experts of the model. */
export const count = 64
/** Tokens of the longest answer of `results`. */
export const most = 8
/** Four pages of KV cache: what the requests of `results` take together. */
export const contextLength = 256

/**
 * Both engines, where there is CUDA; what the CPU gives of the model; the model's sizes, in bytes; `gpuMemory`, that with so many slots the model
 * takes; and `load`, which loads it on CUDA.
 */
export async function openTiered(t: Test) {
  const engines = await openCudaEngines(t, { maxBatchTokens: 32 })
  if (!engines) return undefined
  const { cuda, cpu } = engines
  await cpu.loadModel({ id: 'whole', contextLength })
  const expected = await results(cpu, 'whole', most)
  await cpu.unloadModel('whole')
  await cuda.loadModel({ id: 'whole', contextLength })
  const { base, keyValues, arena, experts } = cuda.listModels()[0]!.memory
  await cuda.unloadModel('whole')
  const gpuMemory = (slots: number) => base + arena + keyValues + slots * experts.slot
  const load = (request: LoadModelRequest) => cuda.loadModel({ contextLength, recordTrace: true, ...request })
  return { cuda, cpu, expected, keyValues, slotBytes: experts.slot, gpuMemory, load }
}
