// Tiny random files of the architectures that no public script here writes, as the tests make them: for programs that compare whole models.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { tinyModel } from './fuzz/tiny-model.mjs'
import { modelFolder } from './models.mjs'

const sizes = {
  embedding: 64,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  feedForward: 32,
  layers: 3,
  experts: 8,
  contextLength: 512
}
const latent = { queryRank: 32, rank: 64, plain: 32, rotated: 16, value: 32 }
const deepseek2 = { architecture: 'deepseek2', ...sizes, shared: 2, latent }

const yarn = {
  'deepseek2.rope.scaling.type': 'yarn',
  'deepseek2.rope.scaling.factor': 40,
  'deepseek2.rope.scaling.original_context_length': 64,
  'deepseek2.rope.scaling.yarn_log_multiplier': 0.1
}

/** Options of test/fixtures/moe-model.ts by the name of the file. */
const files = {
  'qwen2moe f32': { architecture: 'qwen2moe', ...sizes, shared: 56 },
  'qwen2moe q8_0': { architecture: 'qwen2moe', type: 'Q8_0', ...sizes, shared: 64 },
  'deepseek2 f32': deepseek2,
  'deepseek2 f32, attn_kv_b': { ...deepseek2, latent: { ...latent, queryRank: 0, joined: true } },
  'deepseek2 f32, as V3': { ...deepseek2, sigmoidGroups: { count: 4, used: 2 }, metadata: yarn },
  'deepseek2 q8_0': { ...deepseek2, type: 'Q8_0' }
}

/** `{ name, path, vocab, type }` of each file, written anew. */
export async function tinyArchitectures() {
  mkdirSync(modelFolder, { recursive: true })
  const made = []
  for (const [name, options] of Object.entries(files)) {
    const { bytes } = await tinyModel(options)
    const path = join(modelFolder, `tiny-${name.replaceAll(/[^a-z0-9_]+/g, '-')}.gguf`)
    writeFileSync(path, bytes)
    made.push({ name, path, vocab: 300, type: options.type ?? 'F32' })
  }
  return made
}
