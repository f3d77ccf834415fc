/** Models with latent attention, shared experts and dense layers: qwen2moe and deepseek2, against plain loops in float64. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine, type EngineOptions, type KvType } from 'tiered-moe'
import { readModel } from '../../lib/model/index.js'
import type { TensorEntry } from '../fixtures/gguf.js'
import { type MoeModel, type MoeModelOptions, moeModel } from '../fixtures/moe-model.js'
import { type DeepseekConfig, deepseekForward } from './naive-deepseek.js'
import { naiveForward } from './naive-forward.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'
const TOKENS = Array.from({ length: 40 }, (_, i) => (i * 37 + 5) % 270)

/** Odd sizes: nothing is a multiple of 16 that need not be. */
const ODD: MoeModelOptions = {
  embedding: 52,
  heads: 6,
  kvHeads: 3,
  headDim: 10,
  feedForward: 37,
  experts: 7,
  expertsUsed: 3
}
const latent = { rank: 19, plain: 7, rotated: 6, value: 11 }

/** RoPE as DeepSeek's files stretch it, and groups as V2 limits the choice to them. */
const yarn = {
  'deepseek2.rope.scaling.type': 'yarn',
  'deepseek2.rope.scaling.factor': 40,
  'deepseek2.rope.scaling.original_context_length': 16,
  'deepseek2.rope.scaling.yarn_log_multiplier': 0.0707
}
const groups = {
  'deepseek2.expert_group_count': 4,
  'deepseek2.expert_group_used_count': 2,
  'deepseek2.expert_weights_scale': 16
}

const MODELS: MoeModelOptions[] = [
  { architecture: 'deepseek2' },
  { architecture: 'deepseek2', ...ODD, latent: { ...latent, queryRank: 0 }, layers: 3, tied: true, seed: 3 },
  {
    architecture: 'deepseek2',
    ...ODD,
    latent: { ...latent, joined: true },
    dense: { layers: 2, feedForward: 29 },
    layers: 3
  },
  { architecture: 'deepseek2', sigmoidGroups: { count: 4, used: 2 }, seed: 6 },
  { architecture: 'deepseek2', metadata: yarn, seed: 7 },
  { architecture: 'deepseek2', metadata: groups, experts: 12, seed: 9 },
  { architecture: 'deepseek2', shared: 0, dense: { layers: 0, feedForward: 1 }, seed: 5 },
  { architecture: 'qwen2moe' },
  { architecture: 'qwen2moe', ...ODD, shared: 41, tied: true, seed: 3 }
]

/** Bytes of all logits, and of what holds them. */
const logitsRoom = 80_000

interface Run {
  kvType?: KvType
  tokens?: readonly number[]
  engine?: EngineOptions
  /** As few experts in memory as a step needs. */
  memory?: 'least'
}

async function logitsOf(path: string, { kvType = 'f32', tokens = TOKENS, engine: given, memory }: Run = {}) {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 33, ...given })
  try {
    const limits = { contextLength: 64, memory: '64KiB' }
    const least = memory
      ? await engine.loadModel({ model: path, kvType, ...limits }).catch((error) => error.details.resourceInfo.required)
      : undefined
    const { id } = await engine.loadModel({
      model: path,
      kvType,
      ...(least && { ...limits, memory: least + logitsRoom })
    })
    const logits = await engine.forward({ model: id, tokens: [...tokens], logits: 'all' })
    if (least && (engine.modelStats(id).experts?.misses ?? 0) === 0) throw new Error('no expert was missing')
    return logits
  } finally {
    await engine.dispose()
  }
}

const same = (a: Float32Array, b: Float32Array) => Buffer.from(a.buffer).equals(Buffer.from(b.buffer))
const floatsOf = ({ data }: TensorEntry) =>
  new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength))
const readerOf =
  ({ tensors }: MoeModel) =>
  (name: string) =>
    floatsOf(tensors.find((tensor) => tensor.name === name)!)

t.test('whole models against plain loops in float64', { skip }, async (t) => {
  const dir = t.testdir()
  for (const [i, options] of MODELS.entries()) {
    const model = moeModel({ vocab: 271, ...options })
    const path = join(dir, `${i}.gguf`)
    writeFileSync(path, model.bytes)
    const expected = naiveForward(readModel(model.file).plan, readerOf(model), TOKENS).flat()
    for (const kvType of ['f32', 'f16'] as const) {
      const actual = await logitsOf(path, { kvType })
      t.equal(actual.length, expected.length)
      const worst = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - actual[at]!)), 0)
      const bound = kvType === 'f32' ? 1e-4 : 0.05
      t.ok(worst < bound, `${JSON.stringify(options)}, ${kvType}: largest difference ${worst.toExponential(1)}`)
    }
  }
})

t.test('DeepSeek-V2 and V3 as they are written, nothing absorbed', { skip }, async (t) => {
  const dir = t.testdir()
  const sizes = {
    layers: 3,
    dense: 1,
    heads: 4,
    rank: 19,
    plain: 7,
    rotated: 8,
    value: 11,
    epsilon: 1e-5,
    base: 10_000
  }
  const stretched = { factor: 40, original: 16, mscale: 0.0707 / 0.1 }
  const common = { ...sizes, yarn: stretched, used: 3, groups: 4, groupsUsed: 2 }
  const v2: DeepseekConfig = { ...common, scale: 16, normalise: false, scores: 'softmax', groupBest: 1 }
  const v3: DeepseekConfig = { ...common, scale: 2.5, normalise: true, scores: 'sigmoid', groupBest: 2 }
  const { rank, plain, rotated, value } = sizes
  const options: MoeModelOptions = {
    architecture: 'deepseek2',
    layers: 3,
    experts: 12,
    expertsUsed: 3,
    latent: { rank, plain, rotated, value, joined: true },
    vocab: 271
  }
  const files: Record<string, [DeepseekConfig, MoeModelOptions]> = {
    V2: [v2, { ...options, metadata: { ...yarn, ...groups }, seed: 11 }],
    V3: [v3, { ...options, metadata: yarn, sigmoidGroups: { count: 4, used: 2 }, seed: 12 }]
  }
  for (const [name, [config, more]] of Object.entries(files)) {
    const model = moeModel(more)
    const path = join(dir, `${name}.gguf`)
    writeFileSync(path, model.bytes)
    const [expected, actual] = [deepseekForward(config, readerOf(model), TOKENS).flat(), await logitsOf(path)]
    const worst = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - actual[at]!)), 0)
    t.ok(worst < 1e-4, `${name}: largest difference ${worst.toExponential(1)}`)
    const groupBest = config.groupBest === 1 ? 2 : 1
    const other = deepseekForward({ ...config, groupBest }, readerOf(model), TOKENS).flat()
    t.ok(
      other.some((value, at) => Math.abs(value - actual[at]!) > 0.01),
      `${name}: groups scored in the other way would be seen`
    )
  }
})

/** The file with keys' and values' matrices in one, as older files have it. */
function joined(
  model: MoeModel,
  options: MoeModelOptions,
  { plain, rank, value }: typeof latent,
  heads: number
): MoeModel {
  const { tensors } = model
  const read = readerOf(model)
  return moeModel({
    ...options,
    latent: { ...options.latent, joined: true },
    editTensor: (tensor) => {
      const block = /^(blk\.\d+)\.attn_kv_b\.weight$/.exec(tensor.name)?.[1]
      if (!block) return tensors.find(({ name }) => name === tensor.name)!
      const [keys, values] = [read(`${block}.attn_k_b.weight`), read(`${block}.attn_v_b.weight`)]
      const out = new Float32Array(rank * heads * (plain + value))
      for (let head = 0; head < heads; head++) {
        for (let column = 0; column < rank; column++) {
          const at = (row: number) => (head * (plain + value) + row) * rank + column
          for (let i = 0; i < plain; i++) out[at(i)] = keys[(head * rank + column) * plain + i]!
          for (let i = 0; i < value; i++) out[at(plain + i)] = values[(head * value + i) * rank + column]!
        }
      }
      return { ...tensor, data: Buffer.from(out.buffer) }
    }
  })
}

t.test('a file with one matrix for keys and values gives the bits of one with two', { skip }, async (t) => {
  const dir = t.testdir()
  const options: MoeModelOptions = { architecture: 'deepseek2', ...ODD, latent, seed: 8 }
  const model = moeModel(options)
  writeFileSync(join(dir, 'two.gguf'), model.bytes)
  writeFileSync(join(dir, 'one.gguf'), joined(model, options, latent, ODD.heads!).bytes)
  t.ok(same(await logitsOf(join(dir, 'two.gguf')), await logitsOf(join(dir, 'one.gguf'))))
})

t.test(
  'token by token, in other threads and instruction sets, and with few experts in memory: the same bits',
  { skip },
  async (t) => {
    const dir = t.testdir()
    const sizes = {
      embedding: 64,
      feedForward: 32,
      latent: { queryRank: 32, rank: 64, plain: 32, rotated: 8, value: 32 }
    }
    for (const architecture of ['deepseek2', 'qwen2moe'] as const) {
      for (const type of ['F32', 'Q8_0'] as const) {
        const path = join(dir, `${architecture}-${type}.gguf`)
        writeFileSync(
          path,
          moeModel({
            architecture,
            type,
            ...sizes,
            layers: 3,
            experts: 12,
            seed: 2,
            ...(architecture === 'qwen2moe' && { shared: 64 })
          }).bytes
        )
        const all = await logitsOf(path, { kvType: 'f16' })
        const runs: Record<string, Run> = {
          'one at a time': { engine: { maxBatchTokens: 1 } },
          'one thread, scalar': { engine: { threads: 1, isa: 'scalar' } },
          'few experts': { engine: { maxBatchTokens: 16 }, memory: 'least' }
        }
        for (const [name, run] of Object.entries(runs)) {
          t.ok(same(await logitsOf(path, { kvType: 'f16', ...run }), all), `${architecture} ${type}: ${name}`)
        }
      }
    }
  }
)
