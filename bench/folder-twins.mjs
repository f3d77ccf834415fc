// A model as a folder of safetensors files and as the GGUF file of the same weights: seeded, so equal on every machine.
import { mkdirSync } from 'node:fs'
import { register } from 'node:module'
import { join } from 'node:path'
import { modelFolder } from './models.mjs'

register('../scripts/test-hooks.mjs', import.meta.url)

const shape = {
  architecture: 'llama',
  type: 'BF16',
  vocab: 300,
  layers: 2,
  embedding: 64,
  feedForward: 64,
  experts: 8,
  contextLength: 256
}

/** {folder, gguf}: Mixtral's form, whose Q and K are paired as they are read, in three shards. */
export async function folderTwins() {
  const { writeTwins } = await import('../test/fixtures/safetensors.ts')
  mkdirSync(modelFolder, { recursive: true })
  // What GGUF calls the pre-tokenizer that tokenizer.json has.
  return writeTwins(join(modelFolder, 'folder-twin'), { ...shape, metadata: { 'tokenizer.ggml.pre': 'gpt-2' } }, 3)
}
