// Small random models of every weight type, and of files that mix types: the same bytes on every machine, made by the tests' writer.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { tinyModel } from './fuzz/tiny-model.mjs'
import { modelFolder } from './models.mjs'

/** Rows of 256 columns hold whole blocks of every type. */
const sizes = { embedding: 256, heads: 8, kvHeads: 8, headDim: 32, feedForward: 256, contextLength: 512, vocab: 301 }

/** The path of a file; `options` as test/fixtures/moe-model.ts has them. */
async function write(name, options) {
  mkdirSync(modelFolder, { recursive: true })
  const path = join(modelFolder, `random-${name.toLowerCase()}.gguf`)
  writeFileSync(path, (await tinyModel({ ...sizes, ...options })).bytes)
  return path
}

/** All matrices of one type, or of one of llama-quantize's mixes (Q4_K_M, Q5_K_M); two layers of which every token uses all experts. */
export async function randomOfType(type) {
  const { kQuantMix, retyped } = await import('../test/fixtures/mixed-types.ts')
  const base = /^(Q[45]_K)_M$/.exec(type)?.[1]
  const edit = base ? { editTensor: retyped(kQuantMix(base, 2)) } : { type }
  return write(type, { layers: 2, experts: 8, expertsUsed: 8, ...edit })
}

/** Every type that the trained model has not, in one file. */
export async function everyOtherType() {
  const { everyOtherType: typeOf, retyped } = await import('../test/fixtures/mixed-types.ts')
  return write('every-other-type', { layers: 4, experts: 8, expertsUsed: 2, editTensor: retyped(typeOf) })
}
