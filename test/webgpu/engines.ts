/** Engines of both backends, for tests that compare them. Without an adapter a test is a reported skip; under CI=1 that is a failure. */
import type { Test } from 'tap'
import { createEngine, type Engine, type EngineOptions, isEngineError, type RoutingCapture } from 'tiered-moe'

const absent = ['GPU_ADAPTER_UNAVAILABLE', 'BACKEND_UNAVAILABLE']

/** Both engines, ended after the test; undefined where the machine has no adapter. */
export async function openEngines(
  t: Test,
  options: EngineOptions = {}
): Promise<{ gpu: Engine; cpu: Engine } | undefined> {
  const common = { threads: 2, maxBatchTokens: 64, ...options }
  try {
    const gpu = await createEngine({ ...common, backend: 'webgpu' })
    t.teardown(() => gpu.dispose())
    t.comment(`adapter: ${gpu.backend.device}`)
    const cpu = await createEngine(common)
    t.teardown(() => cpu.dispose())
    return { gpu, cpu }
  } catch (error) {
    if (!isEngineError(error) || !absent.includes(error.code)) throw error
    const reason = `no WebGPU adapter here: ${error.message}`
    if (process.env.CI) t.fail(reason)
    else t.pass(reason, { skip: reason })
    return undefined
  }
}

/** The largest difference between logits, as a part of the largest of them. */
export function apart(got: Float32Array, expected: Float32Array): number {
  let [most, scale] = [0, 0]
  for (const [i, value] of expected.entries()) {
    most = Math.max(most, Math.abs((got[i] as number) - value))
    scale = Math.max(scale, Math.abs(value))
  }
  return most / scale
}

/** Of all (token, layer) routes the part that names the same experts. */
export function agreement({ k, ids }: RoutingCapture, b: RoutingCapture): number {
  let same = 0
  for (let at = 0; at < ids.length; at += k) {
    const other = new Set(b.ids.subarray(at, at + k))
    if (ids.subarray(at, at + k).every((id) => other.has(id))) same++
  }
  return same / (ids.length / k)
}
