/** A folder of safetensors files is the model that its GGUF twin is: the same bits, whatever becomes of its weights on the way. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel, createEngine, type LoadModelRequest } from 'tiered-moe'
import { addon, hashes, manifestOf } from '../checkpoint/checkpoints.js'
import { readGgufHeader } from '../fixtures/gguf.js'
import { type FolderOptions, writeTwins } from '../fixtures/safetensors.js'

const small = { vocab: 270, layers: 2, experts: 4, heads: 4, kvHeads: 2 } as const
const tokens = Array.from({ length: 24 }, (_, i) => (i * 37) % 256)

const kinds: [name: string, options: FolderOptions, shards: number][] = [
  ['olmoe-f16', { ...small, type: 'F16', halfNorms: true }, 1],
  ['qwen3moe-bf16', { ...small, architecture: 'qwen3moe', type: 'BF16', stacked: true }, 3],
  ['mixtral-f32', { ...small, architecture: 'llama', type: 'F32', tied: true, feedForward: 64 }, 4],
  ['gpt-oss-mxfp4', { ...small, architecture: 'gpt-oss', type: 'BF16', mxfp4: true, feedForward: 64 }, 3]
]
/** The other architectures and forms: in memory and under a budget. */
const others: [name: string, options: FolderOptions, shards: number][] = [
  ['gpt-oss-bf16', { ...small, architecture: 'gpt-oss', type: 'BF16', halfNorms: true }, 2],
  ['gpt-oss-f32', { ...small, architecture: 'gpt-oss', type: 'F32', feedForward: 40 }, 1],
  ['qwen2moe-bf16', { ...small, architecture: 'qwen2moe', type: 'BF16', halfNorms: true }, 2],
  ['granitemoe-f16', { ...small, architecture: 'granitemoe', type: 'F16', halfNorms: true }, 1],
  ['granitemoeshared-bf16', { ...small, architecture: 'granitemoeshared', type: 'BF16', halfNorms: true }, 2],
  ['deepseek-v2-bf16', { ...small, architecture: 'deepseek2', type: 'BF16', stacked: true }, 2],
  ['deepseek-v2-lite-f32', { ...small, architecture: 'deepseek2', type: 'F32', latent: { queryRank: 0 } }, 1],
  ['deepseek-v3-f16', { ...small, architecture: 'deepseek3', type: 'F16', halfNorms: true }, 3]
]

const engine = await createEngine({ threads: 2, maxBatchTokens: 16 })
t.teardown(() => engine.dispose())

/** Logits of all positions. */
async function logitsOf(request: LoadModelRequest): Promise<Buffer> {
  const { id } = await engine.loadModel({ ...request, id: 'twin' })
  try {
    const { buffer, byteOffset, byteLength } = await engine.forward({ model: id, tokens, logits: 'all' })
    return Buffer.from(Buffer.from(buffer, byteOffset, byteLength))
  } finally {
    await engine.unloadModel(id)
  }
}

/** The least memory that the model works with, and one expert more: the others are read while it computes. */
async function tightMemory(request: LoadModelRequest): Promise<number> {
  const { id } = await engine.loadModel({ ...request, id: 'measured', memory: '1GiB' })
  const { base, keyValues, arena, experts } = engine.listModels().find((own) => own.id === id)!.memory
  await engine.unloadModel(id)
  return base + keyValues + arena + 4 * experts.slot
}

for (const [name, options, shards] of kinds) {
  t.test(`${name}: in memory, under a budget, quantised, as a checkpoint`, async (t) => {
    const before = addon.counters()
    const root = t.testdir({})
    const { folder, gguf } = writeTwins(join(root, name), options, shards)
    const expected = await logitsOf({ model: gguf })
    t.ok((await logitsOf({ model: folder })).equals(expected), 'the logits of the GGUF file')
    t.ok(
      (await logitsOf({ model: folder, memory: await tightMemory({ model: folder }) })).equals(expected),
      'experts read while it computes'
    )

    for (const type of ['Q8_0', 'Q4_0'] as const) {
      const made = join(root, `${type}.gguf`)
      await addon.quantizeGguf(gguf, made, { type }, addon.createCancel())
      const quantised = await logitsOf({ model: made })
      t.notOk(quantised.equals(expected))
      t.ok((await logitsOf({ model: folder, quantize: type })).equals(quantised), `${type}: what quantize writes`)
      const memory = await tightMemory({ model: folder, quantize: type })
      t.ok((await logitsOf({ model: folder, quantize: type, memory })).equals(quantised), `${type}, under a budget`)
    }

    for (const quantize of [undefined, 'Q8_0'] as const) {
      const [one, other] = ['one', 'other'].map((own) => join(root, `${own}-${quantize}`)) as [string, string]
      const from = quantize ? join(root, `${quantize}.gguf`) : gguf
      await convertModel({ from: folder, to: one, ...(quantize && { quantize }) })
      await convertModel({ from, to: other })
      const experts = (checkpoint: string) =>
        Object.entries(hashes(checkpoint)).filter(([file]) => file.startsWith('experts'))
      t.equal(experts(one).length, 2)
      t.same(experts(one), experts(other), 'blobs of the twin')
      const [mine, its] = [one, other].map(manifestOf)
      t.same(mine.layers, its.layers)
      t.match(mine.source, { name, bytes: Number, modified: /^\d+$/ })
      t.ok((await logitsOf({ model: one })).equals(await logitsOf({ model: from })), 'the checkpoint')
    }
    t.same(addon.counters(), before, 'everything is given back')
  })
}

for (const [name, options, shards] of others) {
  t.test(`${name}: in memory, under a budget, quantised`, async (t) => {
    const root = t.testdir({})
    const { folder, gguf } = writeTwins(join(root, name), options, shards)
    const expected = await logitsOf({ model: gguf })
    t.ok((await logitsOf({ model: folder })).equals(expected), 'the logits of the GGUF file')
    const made = join(root, 'q8.gguf')
    await addon.quantizeGguf(gguf, made, { type: 'Q8_0' }, addon.createCancel())
    const request = { model: folder, quantize: 'Q8_0' } as const
    const memory = await tightMemory(request)
    t.ok((await logitsOf({ ...request, memory })).equals(await logitsOf({ model: made })), 'Q8_0, under a budget')
  })
}

t.test('tensors are those of the twin, in name, type, shape and bytes', async (t) => {
  const { folder, gguf } = writeTwins(
    join(t.testdir({}), 'model'),
    { ...small, architecture: 'llama', type: 'BF16' },
    2
  )
  const { openModelFolder } = await import('../../lib/safetensors/open.js')
  const file = await openModelFolder(addon, folder)
  const out = join(t.testdirName, 'made.gguf')
  await addon.writeBase(file, out, { leaveOut: [] }, addon.createCancel())
  file.close()
  const [made, twin] = [out, gguf].map((path) => ({ ...readGgufHeader(path), bytes: readFileSync(path) }))
  const dataOf = ({ tensors, dataOffset, bytes }: typeof twin & object) =>
    tensors
      .map(({ name, typeId, shape, offset }) => {
        const next = Math.min(
          ...tensors.map((own) => own.offset).filter((own) => own > offset),
          bytes.length - dataOffset
        )
        return { name, typeId, shape, data: bytes.subarray(dataOffset + offset, dataOffset + next).toString('base64') }
      })
      .sort((a, b) => (a.name < b.name ? -1 : 1))
  t.same(dataOf(made!), dataOf(twin!))
  for (const key of [
    'block_count',
    'attention.head_count_kv',
    'rope.freq_base',
    'expert_used_count',
    'attention.layer_norm_rms_epsilon'
  ]) {
    t.equal(made!.metadata[`llama.${key}`], twin!.metadata[`llama.${key}`], key)
  }
})
