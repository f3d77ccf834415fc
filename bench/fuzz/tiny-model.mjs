// The tests' tiny random models, for programs that are no tests.
import { register } from 'node:module'

register('../../scripts/test-hooks.mjs', import.meta.url)

/** {metadata, tensors, bytes, file} of a GGUF file; `options` as test/fixtures/moe-model.ts has them. */
export async function tinyModel(options = {}) {
  const { moeModel } = await import('../../test/fixtures/moe-model.ts')
  return moeModel({ embedding: 32, heads: 2, kvHeads: 1, headDim: 16, feedForward: 32, contextLength: 64, ...options })
}
