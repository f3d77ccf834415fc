/** gpt-oss: sinks, windows, biases, the clamped activation and YaRN together, wherever its experts lie. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel, createEngine, isEngineError } from 'tiered-moe'
import { readModel } from '../../lib/model/index.js'
import type { OpOf } from '../../lib/model/plan.js'
import { type GptOssOptions, gptOss } from '../fixtures/gpt-oss-model.js'
import { floatsOf, largestDifference } from './float-files.js'
import { naiveForward } from './naive-forward.js'
import { planLogits, sameBits } from './plan-logits.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'
const TOKENS = Array.from({ length: 50 }, (_, i) => (i * 37 + 5) % 270)
const ODD: GptOssOptions = { embedding: 52, heads: 6, kvHeads: 3, headDim: 10, feedForward: 37, experts: 7, vocab: 271 }

t.test('whole models against plain loops in float64', { skip }, async (t) => {
  const dir = t.testdir()
  const models: Record<string, GptOssOptions> = {
    plain: {},
    odd: { ...ODD, layers: 3, expertsUsed: 3, seed: 3, window: 17 },
    'one position': { ...ODD, layers: 2, seed: 4, window: 1 },
    'beyond the clamps': {
      seed: 5,
      // up and gate far outside ±7
      editTensor: (tensor) => (/ffn_(gate|up)_exps.bias/.test(tensor.name) ? scaled(tensor, 30) : tensor)
    }
  }
  for (const [name, options] of Object.entries(models)) {
    const model = gptOss(options)
    const path = join(dir, `${name}.gguf`)
    writeFileSync(path, model.bytes)
    const { plan } = readModel(model.file)
    const expected = naiveForward(plan, floatsOf(model), TOKENS).flat()
    const logits = await planLogits(path, plan, TOKENS)
    const apart = largestDifference(expected, logits)
    const most = expected.reduce((m, value) => Math.max(m, Math.abs(value)), 0)
    t.ok(apart < 2e-5 * most, `${name}: ${apart.toExponential(1)} from float64, of ${most.toFixed(1)}`)
    for (const [how, cell] of Object.entries({
      'scalar code, in chunks': { isa: 'scalar', threads: 1, chunk: 7 },
      'token by token': { chunk: 1 },
      'experts read when needed': { slots: 5, threads: 1, chunk: 20 }
    } as const)) {
      t.ok(sameBits(await planLogits(path, plan, TOKENS, cell), logits), `${name}, ${how}: the same bits`)
    }
  }
})

function scaled<Tensor extends { data: Uint8Array }>(tensor: Tensor, by: number): Tensor {
  const floats = new Float32Array(tensor.data.slice().buffer).map((value) => value * by)
  return { ...tensor, data: new Uint8Array(floats.buffer) }
}

t.test('each of its parts changes the logits', { skip }, async (t) => {
  const dir = t.testdir()
  const logits = async (name: string, options: GptOssOptions) => {
    const model = gptOss(options)
    const path = join(dir, `${name}.gguf`)
    writeFileSync(path, model.bytes)
    return planLogits(path, readModel(model.file).plan, TOKENS)
  }
  const all = await logits('all', {})
  const zeroed = (pattern: RegExp): GptOssOptions => ({
    editTensor: (tensor) =>
      pattern.test(tensor.name) ? { ...tensor, data: new Uint8Array(tensor.data.length) } : tensor
  })
  for (const [name, options] of Object.entries({
    sinks: zeroed(/attn_sinks/),
    'query biases': zeroed(/attn_q.bias/),
    'output biases': zeroed(/attn_output.bias/),
    'router biases': zeroed(/gate_inp.bias/),
    'gate biases': zeroed(/gate_exps.bias/),
    'up biases': zeroed(/up_exps.bias/),
    'down biases': zeroed(/down_exps.bias/),
    window: { window: 12 },
    yarn: { metadata: { 'gpt-oss.rope.scaling.type': 'none' } }
  }))
    t.notOk(sameBits(await logits(name, options), all), name)
})

t.test('through the engine: MXFP4 experts, as a checkpoint, in little memory', { skip }, async (t) => {
  const dir = t.testdir()
  const path = join(dir, 'mxfp4.gguf')
  writeFileSync(
    path,
    gptOss({ type: 'MXFP4', embedding: 96, feedForward: 64, experts: 6, vocab: 260, window: 9 }).bytes
  )
  const folder = join(dir, 'checkpoint')
  const tiers = [
    { name: 'near', placement: 'hot' as const, experts: [0, 3] },
    { name: 'far', placement: 'cold' as const, experts: 'rest' as const }
  ]
  await convertModel({ from: path, to: folder, tiers })
  const engine = await createEngine({ threads: 2, maxBatchTokens: 16 })
  t.teardown(() => engine.dispose())
  const tokens = TOKENS.map((id) => id % 250)
  const logits = async (options: object) => {
    const { id } = await engine.loadModel({ contextLength: 64, id: 'm', ...options })
    const out = await engine.forward({ model: id, tokens, logits: 'all' })
    await engine.unloadModel(id)
    return out.slice()
  }
  const whole = await logits({ model: path })
  t.ok(sameBits(await logits({ model: folder }), whole), 'as a checkpoint')
  const error = await engine.loadModel({ model: folder, memory: 4096, contextLength: 64 }).catch((error) => error)
  const memory = error.details.resourceInfo.required + whole.byteLength
  t.ok(sameBits(await logits({ model: folder, memory }), whole), 'read when needed')
  const { id, descriptor } = await engine.loadModel({ model: folder, contextLength: 64, id: 'swapped' })
  t.equal(descriptor.expertBytes, (3 * 96 * 64 * 17) / 32, 'biases are no part of an expert')
  const from = join(dir, 'other.gguf')
  const seeded = gptOss({ type: 'MXFP4', embedding: 96, feedForward: 64, experts: 6, vocab: 260, window: 9, seed: 2 })
  writeFileSync(from, seeded.bytes)
  const changes = [0, 1].flatMap((layer) =>
    [0, 1, 2, 3, 4, 5].map((expert) => ({ action: 'replace' as const, layer, expert, from }))
  )
  await engine.swapExperts(id, changes)
  const swapped = (await engine.forward({ model: id, tokens, logits: 'all' })).slice()
  // The same matrices in the first file: its own biases stay with them.
  const other = new Map(seeded.tensors.map((tensor) => [tensor.name, tensor]))
  const grafted = join(dir, 'grafted.gguf')
  const editTensor: GptOssOptions['editTensor'] = (tensor) =>
    /_exps.weight$/.test(tensor.name) ? other.get(tensor.name) : tensor
  writeFileSync(
    grafted,
    gptOss({ type: 'MXFP4', embedding: 96, feedForward: 64, experts: 6, vocab: 260, window: 9, editTensor }).bytes
  )
  t.notOk(sameBits(swapped, whole))
  t.ok(sameBits(swapped, await logits({ model: grafted })), 'swapped experts keep the biases of their places')
})

t.test('keys', async (t) => {
  const windows = (options: GptOssOptions) =>
    readModel(gptOss({ layers: 5, ...options }).file).plan.ops.flatMap((op) =>
      op.op === 'attention' ? [op.window ?? 0] : []
    )
  t.same(windows({}), [11, 0, 11, 0, 11])
  const pattern = 'gpt-oss.attention.sliding_window_pattern'
  t.same(windows({ metadata: { [pattern]: 3 } }), [11, 11, 0, 11, 11])
  t.same(windows({ metadata: { [pattern]: 9 } }), [11, 11, 11, 11, 11], 'fewer layers than the pattern has')
  t.same(windows({ layers: 1 }), [11])
  t.same(windows({ metadata: { [pattern]: [false, true, true, false, true] } }), [0, 11, 11, 0, 11])
  const { plan, descriptor } = readModel(gptOss().file)
  const experts = plan.ops.find((op): op is OpOf<'experts'> => op.op === 'experts')!
  t.match(experts, { activation: 'clamped_swiglu', biases: { gate: 'blk.0.ffn_gate_exps.bias' } })
  t.equal(descriptor.expertBytes, 3 * 64 * 48 * 4)
  for (const [key, value] of [
    ['attention.sliding_window', 0],
    ['attention.sliding_window', undefined],
    ['attention.sliding_window_pattern', [true]],
    ['attention.sliding_window_pattern', ['yes', 'no']],
    ['attention.sliding_window_pattern', -1],
    ['rope.freq_base_swa', 10_000],
    ['expert_gating_func', 1]
  ] as const) {
    let code: string | undefined
    try {
      readModel(gptOss({ metadata: { [`gpt-oss.${key}`]: value as number } }).file)
    } catch (error) {
      code = isEngineError(error) ? error.code : String(error)
    }
    t.equal(code, 'METADATA_INVALID', `${key} = ${value}`)
  }
  const missing = (name: string) => {
    try {
      readModel(gptOss({ editTensor: (tensor) => (tensor.name === name ? undefined : tensor) }).file)
    } catch (error) {
      return isEngineError(error) && error.code
    }
    return undefined
  }
  for (const name of ['blk.1.attn_sinks.weight', 'blk.0.ffn_gate_inp.bias', 'blk.1.ffn_down_exps.bias'])
    t.equal(missing(name), 'TENSOR_MISSING', name)
})
