/** granitemoe: its multipliers and its shared expert, against plain loops over the plan and over the model as its paper writes it. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { isEngineError } from 'tiered-moe'
import { readModel } from '../../lib/model/index.js'
import { granite } from '../fixtures/granite-model.js'
import type { MoeModelOptions } from '../fixtures/moe-model.js'
import { floatsOf, largestDifference } from './float-files.js'
import { naiveForward } from './naive-forward.js'
import { graniteForward } from './naive-granite.js'
import { planLogits, sameBits } from './plan-logits.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'
const TOKENS = Array.from({ length: 40 }, (_, i) => (i * 37 + 5) % 270)
const ODD: MoeModelOptions = {
  embedding: 52,
  heads: 6,
  kvHeads: 3,
  headDim: 10,
  feedForward: 37,
  experts: 7,
  vocab: 271
}
const without = (...keys: string[]) =>
  Object.fromEntries(keys.map((key) => [`granitemoe.${key}`, undefined])) as Record<string, undefined>

t.test('whole models', { skip }, async (t) => {
  const dir = t.testdir()
  const models: Record<string, MoeModelOptions> = {
    plain: {},
    odd: { ...ODD, tied: true, expertsUsed: 3, seed: 3, layers: 3 },
    'a shared expert': { ...ODD, shared: 29, seed: 5 },
    'no multipliers': {
      metadata: without('embedding_scale', 'residual_scale', 'attention.scale', 'logit_scale')
    }
  }
  for (const [name, options] of Object.entries(models)) {
    const model = granite(options)
    const path = join(dir, `${name}.gguf`)
    writeFileSync(path, model.bytes)
    const { plan, sizes } = readModel(model.file)
    const logits = await planLogits(path, plan, TOKENS)
    const read = floatsOf(model)
    const apart = largestDifference(naiveForward(plan, read, TOKENS).flat(), logits)
    t.ok(apart < 1e-4, `${name}: ${apart.toExponential(1)} from the plan in float64`)
    // The plan keeps the residual stream divided; this does not.
    const written = largestDifference(graniteForward(sizes, read, TOKENS, options.tied).flat(), logits)
    t.ok(written < 1e-4, `${name}: ${written.toExponential(1)} from the model as it is written`)
    const slow = await planLogits(path, plan, TOKENS, { isa: 'scalar', threads: 1, chunk: 7 })
    t.ok(sameBits(logits, slow), `${name}: the same bits in scalar code and in chunks`)
  }
})

t.test('keys', async (t) => {
  const { plan } = readModel(granite().file)
  t.same(
    plan.ops.flatMap((op) => (op.op === 'scale' ? [op] : [])),
    [
      { op: 'scale', buffer: 'x', by: 12 / 0.22 },
      { op: 'scale', buffer: 'h', by: 1 / 6.5 }
    ]
  )
  t.notOk(
    readModel(granite({ metadata: without('embedding_scale', 'residual_scale', 'logit_scale') }).file).plan.ops.some(
      ({ op }) => op === 'scale'
    )
  )
  const failure = (key: string, value: number | string) => {
    try {
      readModel(granite({ metadata: { [`granitemoe.${key}`]: value } }).file)
    } catch (error) {
      return isEngineError(error) ? error.code : String(error)
    }
    return undefined
  }
  for (const key of ['embedding_scale', 'residual_scale', 'logit_scale']) {
    for (const value of [-1, 1e-300, Number.NaN, 'none'])
      t.equal(failure(key, value), 'METADATA_INVALID', `${key} = ${value}`)
  }
  t.equal(failure('expert_count', 0), 'ARCHITECTURE_UNSUPPORTED', 'a dense granite')
  const shared = 'expert_shared_feed_forward_length'
  t.equal(failure(shared, 0), undefined, '0 is no shared expert')
  t.equal(failure(shared, 32), 'TENSOR_MISSING', 'a shared expert without tensors')
  t.equal(failure(shared, 2 ** 20 + 1), 'METADATA_INVALID', 'a shared expert that is too wide')
  const kept = granite({ shared: 24, metadata: { [`granitemoe.${shared}`]: undefined } })
  t.throws(() => readModel(kept.file), { code: 'ARCHITECTURE_UNSUPPORTED' }, 'its tensors without its width')
})
