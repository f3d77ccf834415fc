// Models as folders of safetensors files and as the GGUF files of the same weights: seeded, so equal on every machine.
import { mkdirSync } from 'node:fs'
import { register } from 'node:module'
import { join } from 'node:path'
import { modelFolder } from './models.mjs'

register('../scripts/test-hooks.mjs', import.meta.url)

const shape = { type: 'BF16', vocab: 300, layers: 2, embedding: 64, feedForward: 64, experts: 8, contextLength: 256 }
const models = {
  // Q and K are paired as they are read.
  'mixtral bf16': { architecture: 'llama' },
  // Experts are put together from codes and scales, gate and up by turns.
  'gpt-oss mxfp4': { architecture: 'gpt-oss', mxfp4: true }
}

/** {name, folder, gguf} of each, in three shards. */
export async function folderTwins() {
  const { writeTwins } = await import('../test/fixtures/safetensors.ts')
  mkdirSync(modelFolder, { recursive: true })
  // What GGUF calls the pre-tokenizer that tokenizer.json has.
  const metadata = { 'tokenizer.ggml.pre': 'gpt-2' }
  return Object.entries(models).map(([name, own]) => {
    const path = join(modelFolder, `folder-twin-${name.replaceAll(' ', '-')}`)
    return { name, ...writeTwins(path, { ...shape, ...own, metadata }, 3) }
  })
}
