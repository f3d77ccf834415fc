/** Whole models of every weight type and of files that mix them, against the same numbers in plain loops in float64. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createEngine } from 'tiered-moe'
import { dtypes } from 'tiered-moe/kernels'
import { readModel } from '../../lib/model/index.js'
import { TENSOR_TYPES } from '../fixtures/gguf.js'
import { everyOtherType, kQuantMix, retyped } from '../fixtures/mixed-types.js'
import { type MoeModelOptions, moeModel } from '../fixtures/moe-model.js'
import { decodeRow } from '../kernels/oracle-weights.js'
import { isQuantised } from '../kernels/values.js'
import { naiveForward } from './naive-forward.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'
const tokens = [5, 42, 79, 116, 153]
/** All experts are used: an activation's rounding cannot choose another one. */
const sizes = { embedding: 256, feedForward: 256, headDim: 64, heads: 4, experts: 3, expertsUsed: 3, vocab: 260 }

/**
 * Of the largest logit. What one rounding of activations to 8 bits adds is at most κ / (127 · √12) of a row's size, κ the ratio of its largest
 * number to that (4); a token meets 4 of them a layer and one before the output matrix, whose errors are independent: their squares add up.
 */
const bound = (layers: number) => (Math.sqrt(4 * layers + 1) * 4) / (127 * Math.sqrt(12))

async function compare(test: Test, label: string, options: MoeModelOptions) {
  const { bytes, file, tensors } = moeModel({ ...sizes, ...options })
  const path = join(test.testdirName, `${label}.gguf`)
  writeFileSync(path, bytes)
  const names = Object.fromEntries(Object.entries(TENSOR_TYPES).map(([name, [id]]) => [id, name]))
  const decoded = new Map<string, Float32Array>()
  const read = (name: string) => {
    const known = decoded.get(name)
    if (known) return known
    const { typeId, shape, data } = tensors.find((tensor) => tensor.name === name)!
    const [columns = 1, ...rest] = shape
    const rows = rest.reduce((a, b) => a * b, 1)
    const matrix = { type: names[typeId] as (typeof dtypes)[number], rows, columns, data }
    const out = new Float32Array(rows * columns)
    for (let row = 0; row < rows; row++) out.set(decodeRow(matrix, row), row * columns)
    decoded.set(name, out)
    return out
  }
  const expected = naiveForward(readModel(file).plan, read, tokens).flat()
  const engine = await createEngine({ threads: 1 })
  try {
    const { id } = await engine.loadModel({ model: path, kvType: 'f32' })
    const logits = await engine.forward({ model: id, tokens, logits: 'all' })
    const largest = Math.max(...expected.map(Math.abs))
    const worst = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - logits[at]!)), 0) / largest
    const most = isQuantised(names[tensors[0]!.typeId] as (typeof dtypes)[number]) ? bound(options.layers!) : 1e-4
    test.ok(worst < most, `${label}: ${worst.toExponential(1)} of the largest logit, at most ${most.toExponential(1)}`)
  } finally {
    await engine.dispose()
  }
}

t.test('every weight type', { skip }, async (test) => {
  test.testdir()
  for (const type of dtypes) await compare(test, type, { type, layers: 1 })
})

t.test('files that mix types', { skip }, async (test) => {
  test.testdir()
  for (const base of ['Q4_K', 'Q5_K'] as const)
    await compare(test, `${base}_M`, { layers: 3, architecture: 'qwen3moe', editTensor: retyped(kQuantMix(base, 3)) })
  await compare(test, 'every other type', { layers: 4, editTensor: retyped(everyOtherType) })
})
