// Tiny random files of the architectures that no public script here writes, as the tests make them: for programs that compare whole models.
import { mkdirSync, writeFileSync } from 'node:fs'
import { register } from 'node:module'
import { join } from 'node:path'
import { modelFolder } from './models.mjs'

register('../scripts/test-hooks.mjs', import.meta.url)

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
const odd = { ...sizes, embedding: 52, heads: 6, kvHeads: 3, headDim: 10, feedForward: 37, experts: 7, expertsUsed: 3 }
const latent = { queryRank: 32, rank: 64, plain: 32, rotated: 16, value: 32 }
const deepseek2 = { architecture: 'deepseek2', ...sizes, shared: 2, latent }

const yarn = {
  metadata: { 'deepseek2.rope.scaling.type': 'yarn', 'deepseek2.rope.scaling.original_context_length': 64 },
  floats: { 'deepseek2.rope.scaling.factor': 40, 'deepseek2.rope.scaling.yarn_log_multiplier': 0.1 }
}

/** `{ name, path, vocab, type }` of each file, written anew. */
export async function tinyArchitectures() {
  const { moeModel } = await import('../test/fixtures/moe-model.ts')
  const { granite } = await import('../test/fixtures/granite-model.ts')
  const { gptOss } = await import('../test/fixtures/gpt-oss-model.ts')
  /** Who makes a file, and its options. */
  const files = {
    'qwen2moe f32': [moeModel, { architecture: 'qwen2moe', ...sizes, shared: 56 }],
    'qwen2moe q8_0': [moeModel, { architecture: 'qwen2moe', type: 'Q8_0', ...sizes, shared: 64 }],
    'granitemoe f32': [granite, sizes],
    'granitemoe f32, odd sizes, tied': [granite, { ...odd, tied: true, seed: 3 }],
    'granitemoe f32, shared expert': [granite, { ...sizes, shared: 56 }],
    'gpt-oss f32': [gptOss, { ...sizes, window: 24 }],
    'gpt-oss f32, odd sizes': [gptOss, { ...odd, window: 40, seed: 3 }],
    'gpt-oss mxfp4': [gptOss, { ...sizes, type: 'MXFP4', window: 24 }],
    'deepseek2 f32': [moeModel, deepseek2],
    'deepseek2 f32, attn_kv_b': [moeModel, { ...deepseek2, latent: { ...latent, queryRank: 0, joined: true } }],
    'deepseek2 f32, as V3': [moeModel, { ...deepseek2, sigmoidGroups: { count: 4, used: 2 }, ...yarn }],
    'deepseek2 q8_0': [moeModel, { ...deepseek2, type: 'Q8_0' }]
  }
  mkdirSync(modelFolder, { recursive: true })
  return Object.entries(files).map(([name, [make, options]]) => {
    const path = join(modelFolder, `tiny-${name.replaceAll(/[^a-z0-9_]+/g, '-')}.gguf`)
    writeFileSync(path, make(options).bytes)
    return { name, path, vocab: 300, type: options.type ?? 'F32' }
  })
}
