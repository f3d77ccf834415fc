// Tiny random files of granitemoe and gpt-oss, as the tests make them: for programs that compare whole models.
import { mkdirSync, writeFileSync } from 'node:fs'
import { register } from 'node:module'
import { join } from 'node:path'
import { modelFolder } from './models.mjs'

register('../scripts/test-hooks.mjs', import.meta.url)

const sizes = { embedding: 64, heads: 4, kvHeads: 2, headDim: 16, feedForward: 32, layers: 3, contextLength: 512 }
const odd = {
  embedding: 52,
  heads: 6,
  kvHeads: 3,
  headDim: 10,
  feedForward: 37,
  experts: 7,
  layers: 3,
  contextLength: 512
}

/** `{ name, path, vocab, type }` of each file, written anew. */
export async function gptOssFiles() {
  const { granite } = await import('../test/fixtures/granite-model.ts')
  const { gptOss } = await import('../test/fixtures/gpt-oss-model.ts')
  const files = {
    'granitemoe f32': [granite, sizes],
    'granitemoe f32, odd sizes, tied': [granite, { ...odd, expertsUsed: 3, tied: true, seed: 3 }],
    'gpt-oss f32': [gptOss, { ...sizes, window: 24 }],
    'gpt-oss f32, odd sizes': [gptOss, { ...odd, expertsUsed: 3, window: 40, seed: 3 }],
    'gpt-oss mxfp4': [gptOss, { ...sizes, type: 'MXFP4', window: 24 }]
  }
  mkdirSync(modelFolder, { recursive: true })
  return Object.entries(files).map(([name, [make, options]]) => {
    const path = join(modelFolder, `tiny-${name.replaceAll(/[^a-z0-9_]+/g, '-')}.gguf`)
    writeFileSync(path, make(options).bytes)
    return { name, path, vocab: 300, type: options.type ?? 'F32' }
  })
}
