/** F32 files for the float64 forward pass, and how far results are from it. */
import type { MoeModel } from '../fixtures/moe-model.js'
import type { ReadTensor } from './naive-forward.js'

/** Reads the tensors of a file whose weights are all F32. */
export function floatsOf({ tensors }: MoeModel): ReadTensor {
  const floats = new Map(tensors.map(({ name, data }) => [name, new Float32Array(Uint8Array.from(data).buffer)]))
  return (name) => floats.get(name)!
}

export const largestDifference = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let most = 0
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i]! - b[i]!))
  return most
}
