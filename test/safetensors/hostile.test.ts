/** Damaged and hostile folders: a typed error, or the same model; nothing is held afterwards, and no byte is believed before it is compared. */

import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import t from 'tap'
import { createEngine, isEngineError } from 'tiered-moe'
import { encodeSafetensors, type ModelFolder, modelFolder, writeFolder } from '../fixtures/safetensors.js'
import { random } from '../fixtures/weights.js'

const root = t.testdir({})
const options = {
  vocab: 260,
  layers: 1,
  experts: 3,
  expertsUsed: 2,
  embedding: 32,
  heads: 2,
  kvHeads: 1,
  feedForward: 32
} as const
const sound = modelFolder({ ...options, type: 'F16' })
const single = writeFolder(join(root, 'single'), sound)
const sharded = writeFolder(join(root, 'sharded'), sound, 3)
const weights = readFileSync(join(single, 'model.safetensors'))
const headerBytes = Number(weights.readBigUInt64LE())
const header = () => JSON.parse(weights.subarray(8, 8 + headerBytes).toString())
const folder = join(root, 'damaged')

const engine = await createEngine({ threads: 1 })
t.teardown(() => engine.dispose())
const before = engine.counters()

/** A copy of a sound folder. */
function fresh(from = single): string {
  rmSync(folder, { recursive: true, force: true })
  cpSync(from, folder, { recursive: true, verbatimSymlinks: true })
  return folder
}

/** `generates`, or the code of a typed error. Anything else that is thrown is the test's failure. */
async function outcome(model = folder): Promise<string> {
  try {
    const { id } = await engine.loadModel({ model, id: 'damaged' })
    try {
      await engine.generate({ model: id, promptTokens: [1, 2, 3], maxTokens: 2, temperature: 0, ignoreEos: true })
    } finally {
      await engine.unloadModel(id)
    }
    return 'generates'
  } catch (error) {
    if (isEngineError(error)) return error.code
    throw error
  }
}

/** A file of the folder with another content. */
const put = (name: string, content: string | Uint8Array) => writeFileSync(join(fresh(), name), content)
const set = (object: object, key: string | number, value: unknown): void => {
  Reflect.set(object, key, value)
}
/** The weights under a header that is changed. */
// biome-ignore lint/suspicious/noExplicitAny: headers are made wrong on purpose
const putHeader = (change: (entries: any) => unknown) => {
  const entries = header()
  put('model.safetensors', encodeSafetensors(sound.tensors, change(entries) ?? entries))
}
const putConfig = (more: object) => put('config.json', JSON.stringify({ ...sound.config, ...more }))
const putIndex = (change: (index: { weight_map: Record<string, unknown> }) => unknown) => {
  const path = join(fresh(sharded), 'model.safetensors.index.json')
  const index = JSON.parse(readFileSync(path, 'utf8'))
  writeFileSync(path, JSON.stringify(change(index) ?? index))
}
const putTensors = (change: (tensors: ModelFolder['tensors']) => ModelFolder['tensors']) =>
  put('model.safetensors', encodeSafetensors(change(sound.tensors.map((tensor) => ({ ...tensor })))))
const changed = (name: RegExp, change: (tensor: ModelFolder['tensors'][number]) => object) =>
  putTensors((tensors) => tensors.map((tensor) => (name.test(tensor.name) ? { ...tensor, ...change(tensor) } : tensor)))

const query = 'model.layers.0.self_attn.q_proj.weight'
const up = 'model.layers.0.mlp.experts.1.up_proj.weight'
const u64 = (value: bigint) => {
  const bytes = Buffer.from(weights)
  bytes.writeBigUInt64LE(value)
  return bytes
}
const pair = (text: string) => `{${text},${JSON.stringify(header()).slice(1)}`

const cases: [what: string, make: () => unknown, code: string][] = [
  ['as it is', () => fresh(), 'generates'],
  ['as it is, in shards', () => fresh(sharded), 'generates'],
  ['no weights', () => rmSync(join(fresh(), 'model.safetensors')), 'MODEL_NOT_FOUND'],
  [
    'a folder in the place of the weights',
    () => {
      rmSync(join(fresh(), 'model.safetensors'))
      mkdirSync(join(folder, 'model.safetensors'))
    },
    'MODEL_FILE_INVALID'
  ],
  [
    'a FIFO in the place of the weights',
    () => {
      rmSync(join(fresh(), 'model.safetensors'))
      spawnSync('mkfifo', [join(folder, 'model.safetensors')])
    },
    'MODEL_FILE_INVALID'
  ],
  ['an empty file', () => put('model.safetensors', ''), 'MODEL_FILE_INVALID'],
  ['seven bytes', () => put('model.safetensors', weights.subarray(0, 7)), 'MODEL_FILE_INVALID'],
  ['a header longer than the file', () => put('model.safetensors', u64(BigInt(weights.length))), 'MODEL_FILE_INVALID'],
  ['a header of 2^63 bytes', () => put('model.safetensors', u64(2n ** 63n)), 'MODEL_FILE_INVALID'],
  [
    'a header of 17 MiB in a sparse file',
    () => {
      put('model.safetensors', u64(17n * 2n ** 20n))
      truncateSync(join(folder, 'model.safetensors'), 2 ** 30)
    },
    'MODEL_FILE_INVALID'
  ],
  ['a header that ends early', () => put('model.safetensors', u64(BigInt(headerBytes - 8))), 'MODEL_FILE_INVALID'],
  ['no JSON', () => putHeader(() => 'hello'), 'MODEL_FILE_INVALID'],
  ['a list', () => putHeader(() => '[]'), 'MODEL_FILE_INVALID'],
  ['no tensors', () => putHeader(() => '{}'), 'MODEL_FILE_INVALID'],
  ['levels without end', () => putHeader(() => '['.repeat(100_000)), 'MODEL_FILE_INVALID'],
  ['a name twice', () => putHeader(() => pair(`"${query}":${JSON.stringify(header()[query])}`)), 'MODEL_FILE_INVALID'],
  ['__proto__ as a name', () => putHeader(() => pair('"__proto__":{"polluted":true}')), 'MODEL_FILE_INVALID'],
  [
    'a key twice in a tensor',
    () => putHeader(() => JSON.stringify(header()).replace('"dtype"', '"dtype":"F32","dtype"')),
    'MODEL_FILE_INVALID'
  ],
  [
    'a dtype of 100,000 levels',
    () => putHeader(() => pair(`"deep":{"dtype":${'['.repeat(1e5)}${']'.repeat(1e5)}}`)),
    'MODEL_FILE_INVALID'
  ],
  ['metadata that are a text', () => putHeader((h) => set(h, '__metadata__', 'x')), 'MODEL_FILE_INVALID'],
  ['an unknown dtype', () => putHeader((h) => set(h[query], 'dtype', 'F12')), 'MODEL_FILE_INVALID'],
  [
    'a dtype that is a method of objects',
    () => putHeader((h) => set(h[query], 'dtype', 'toString')),
    'MODEL_FILE_INVALID'
  ],
  ['a dtype of another size', () => putHeader((h) => set(h[query], 'dtype', 'F32')), 'MODEL_FILE_INVALID'],
  ['a shape of other size', () => putHeader((h) => set(h[query].shape, 0, 64)), 'MODEL_FILE_INVALID'],
  ['a shape with a negative size', () => putHeader((h) => set(h[query], 'shape', [-32, -32])), 'MODEL_FILE_INVALID'],
  ['a shape with fractions', () => putHeader((h) => set(h[query], 'shape', [0.5, 2048])), 'MODEL_FILE_INVALID'],
  ['a shape beyond 2^53', () => putHeader((h) => set(h[query], 'shape', [2 ** 53, 2 ** 53, 0])), 'MODEL_FILE_INVALID'],
  [
    'a shape of nine dimensions',
    () => putHeader((h) => set(h[query], 'shape', [32, 32, 1, 1, 1, 1, 1, 1, 1])),
    'MODEL_FILE_INVALID'
  ],
  [
    'offsets beyond the file',
    () => putHeader((h) => set(h[query], 'data_offsets', [2 ** 40, 2 ** 40 + 2048])),
    'MODEL_FILE_INVALID'
  ],
  ['offsets turned round', () => putHeader((h) => void h[query].data_offsets.reverse()), 'MODEL_FILE_INVALID'],
  ['one offset', () => putHeader((h) => void h[query].data_offsets.pop()), 'MODEL_FILE_INVALID'],
  [
    'two tensors in one place',
    () => putHeader((h) => set(h[up], 'data_offsets', h[up.replace('.1.', '.0.')].data_offsets)),
    'MODEL_FILE_INVALID'
  ],
  ['a hole', () => putHeader((h) => void delete h[up]), 'MODEL_FILE_INVALID'],
  [
    'bytes after the last tensor',
    () => put('model.safetensors', Buffer.concat([weights, Buffer.alloc(2)])),
    'MODEL_FILE_INVALID'
  ],
  ['cut off', () => truncateSync(join(fresh(), 'model.safetensors'), weights.length - 1), 'MODEL_FILE_INVALID'],
  ['a tensor that is missing', () => putTensors((all) => all.filter(({ name }) => name !== query)), 'TENSOR_MISSING'],
  ['an expert that is missing', () => putTensors((all) => all.filter(({ name }) => name !== up)), 'TENSOR_MISSING'],
  [
    'experts of two shapes',
    () => changed(/experts\.1\.up/, ({ shape }) => ({ shape: [...shape].map((n, i) => (i ? n / 2 : n * 2)) })),
    'TENSOR_SHAPE_MISMATCH'
  ],
  ['experts of two types', () => changed(/experts\.1\.up/, () => ({ dtype: 'BF16' })), 'MODEL_FILE_INVALID'],
  [
    'a matrix that is turned',
    () => changed(/down_proj|up_proj/, ({ shape }) => ({ shape: [shape[0]! / 2, shape[1]! * 2] })),
    'TENSOR_SHAPE_MISMATCH'
  ],
  [
    'a matrix without rows',
    () =>
      putTensors((all) =>
        all.map((own) => (own.name === query ? { ...own, shape: [0, 32], data: new Uint8Array(0) } : own))
      ),
    'MODEL_FILE_INVALID'
  ],
  [
    'matrices without bytes, more than any memory has',
    () =>
      putTensors((all) => [
        ...all.filter(({ name }) => !/experts\.\d\.(gate|up)/.test(name)),
        {
          name: 'model.layers.0.mlp.experts.gate_up_proj',
          dtype: 'F16',
          shape: [2 ** 33, 2, 0],
          data: new Uint8Array(0)
        }
      ]),
    'MODEL_FILE_INVALID'
  ],
  [
    'weights of eight bits with scales',
    () =>
      putTensors((all) =>
        all.flatMap((own) =>
          own.name === query
            ? [
                { ...own, dtype: 'F8_E4M3', data: own.data.subarray(0, own.data.length / 2) },
                { name: `${query}_scale_inv`, dtype: 'F32', shape: [1, 1], data: new Uint8Array(4) }
              ]
            : [own]
        )
      ),
    'TENSOR_TYPE_UNSUPPORTED'
  ],
  [
    'weights of eight bits',
    () => changed(/q_proj/, ({ data }) => ({ dtype: 'F8_E4M3', data: data.subarray(0, data.length / 2) })),
    'TENSOR_TYPE_UNSUPPORTED'
  ],
  [
    'a bias',
    () =>
      putTensors((all) => [
        ...all,
        { name: query.replace('weight', 'bias'), dtype: 'F16', shape: [4], data: new Uint8Array(8) }
      ]),
    'ARCHITECTURE_UNSUPPORTED'
  ],
  [
    'a table of frequencies',
    () =>
      putTensors((all) => [
        ...all,
        { name: 'model.layers.0.self_attn.rotary_emb.inv_freq', dtype: 'F16', shape: [4], data: new Uint8Array(8) }
      ]),
    'generates'
  ],
  ['no config.json', () => rmSync(join(fresh(), 'config.json')), 'MODEL_FILE_INVALID'],
  [
    'a config of 2 MiB',
    () => put('config.json', JSON.stringify({ ...sound.config, text: 'x'.repeat(2 ** 21) })),
    'MODEL_FILE_INVALID'
  ],
  ['a config that is a list', () => put('config.json', '[]'), 'MODEL_FILE_INVALID'],
  [
    'a config with a key twice',
    () => put('config.json', `{"model_type":"olmoe",${JSON.stringify(sound.config).slice(1)}`),
    'MODEL_FILE_INVALID'
  ],
  ['no UTF-8', () => put('config.json', Buffer.from([0x7b, 0xff, 0x7d])), 'MODEL_FILE_INVALID'],
  ['no architecture', () => putConfig({ model_type: null, architectures: null }), 'METADATA_INVALID'],
  [
    'another architecture',
    () => putConfig({ model_type: 'phimoe', architectures: ['PhiMoEForCausalLM'] }),
    'ARCHITECTURE_UNSUPPORTED'
  ],
  ['a classifier', () => putConfig({ architectures: ['OlmoeForSequenceClassification'] }), 'ARCHITECTURE_UNSUPPORTED'],
  ['layers as a text', () => putConfig({ num_hidden_layers: '1' }), 'METADATA_INVALID'],
  ['layers beyond all models', () => putConfig({ num_hidden_layers: 1e6 }), 'METADATA_INVALID'],
  ['layers that are not there', () => putConfig({ num_hidden_layers: 2 }), 'TENSOR_MISSING'],
  ['more layers than said', () => putConfig({ num_hidden_layers: -1 }), 'METADATA_INVALID'],
  ['heads as an object', () => putConfig({ num_attention_heads: { a: 2 } }), 'METADATA_INVALID'],
  ['no width', () => putConfig({ hidden_size: null }), 'METADATA_INVALID'],
  ['another width', () => putConfig({ hidden_size: 64 }), 'TENSOR_SHAPE_MISMATCH'],
  ['more experts than there are', () => putConfig({ num_experts: 4 }), 'TENSOR_SHAPE_MISMATCH'],
  ['another activation', () => putConfig({ hidden_act: 'gelu' }), 'METADATA_INVALID'],
  ['clipped values', () => putConfig({ clip_qkv: 8 }), 'METADATA_INVALID'],
  ['a stretched context', () => putConfig({ rope_scaling: { type: 'dynamic', factor: 4 } }), 'METADATA_INVALID'],
  [
    'RoPE as transformers 5 has it',
    () => putConfig({ rope_theta: null, rope_parameters: { rope_type: 'default', rope_theta: 10000 } }),
    'generates'
  ],
  [
    'no output matrix',
    () => putTensors((all) => all.filter(({ name }) => name !== 'lm_head.weight')),
    'METADATA_INVALID'
  ],
  [
    'an index that is no JSON',
    () => writeFileSync(join(fresh(sharded), 'model.safetensors.index.json'), '{'),
    'MODEL_FILE_INVALID'
  ],
  ['an index without a map', () => putIndex(() => ({})), 'MODEL_FILE_INVALID'],
  [
    'an index that leads out of the folder',
    () => putIndex((index) => set(index.weight_map, up, '../single/model.safetensors')),
    'MODEL_FILE_INVALID'
  ],
  [
    'an index with an absolute path',
    () => putIndex((index) => set(index.weight_map, up, join(single, 'model.safetensors'))),
    'MODEL_FILE_INVALID'
  ],
  ['an index with a number for a file', () => putIndex((index) => set(index.weight_map, up, 1)), 'MODEL_FILE_INVALID'],
  [
    'a shard that is not there',
    () => rmSync(join(fresh(sharded), 'model-00002-of-00003.safetensors')),
    'MODEL_NOT_FOUND'
  ],
  [
    'a shard that is cut off',
    () => truncateSync(join(fresh(sharded), 'model-00002-of-00003.safetensors'), 4000),
    'MODEL_FILE_INVALID'
  ],
  [
    'a tensor in another shard',
    () => putIndex((index) => set(index.weight_map, up, 'model-00001-of-00003.safetensors')),
    'MODEL_FILE_INVALID'
  ],
  [
    'a tensor that no shard has',
    () => putIndex((index) => set(index.weight_map, 'none', 'model-00001-of-00003.safetensors')),
    'TENSOR_MISSING'
  ],
  ['a tensor that the index has not', () => putIndex((index) => void delete index.weight_map[up]), 'MODEL_FILE_INVALID']
]

for (const [what, make, code] of cases) {
  t.test(what, async (t) => {
    make()
    t.equal(await outcome(), code)
  })
}

t.test('files are links in the cache of the Hub', async (t) => {
  const linked = join(root, 'linked')
  mkdirSync(linked)
  for (const name of ['config.json', 'tokenizer.json', 'model.safetensors'])
    symlinkSync(join(single, name), join(linked, name))
  t.equal(await outcome(linked), 'generates')
})

t.test('weights that have no encoding', async (t) => {
  changed(/experts\.2\.down/, ({ data }) => ({ data: Buffer.from(data).fill(0x7c, 100, 104) }))
  const error = await engine.loadModel({ model: folder, quantize: 'Q8_0' }).catch((error: unknown) => error)
  t.match(error, { code: 'MODEL_FILE_INVALID', details: { tensor: 'blk.0.ffn_down_exps.weight', row: Number } })
})

t.test('truncations and single bytes of every file', async (t) => {
  const draw = random(7)
  const counts = new Map<string, number>()
  const names = ['config.json', 'model.safetensors', 'model.safetensors.index.json', 'model-00001-of-00003.safetensors']
  for (let i = 0; i < 160; i++) {
    const name = names[i % names.length]!
    const path = join(fresh(existsIn(single, name) ? single : sharded), name)
    const bytes = readFileSync(path)
    const end = name.endsWith('.safetensors') ? 8 + Number(bytes.readBigUInt64LE()) : bytes.length
    const at = Math.floor(draw() * end)
    const cut = i % 5 === 0
    if (cut) truncateSync(path, at)
    else {
      bytes[at]! ^= 1 + Math.floor(draw() * 255)
      writeFileSync(path, bytes)
    }
    const result = await outcome()
    if (cut && result === 'generates') t.fail(`${name} cut off at ${at} was loaded`)
    counts.set(result, (counts.get(result) ?? 0) + 1)
  }
  t.comment([...counts].map(([code, count]) => `${code} ${count}`).join(', '))
  t.ok(counts.size >= 4, 'several kinds of errors')
})

t.test('nothing is held', (t) => {
  t.same(engine.counters(), before)
  t.end()
})

function existsIn(path: string, name: string): boolean {
  return statSync(join(path, basename(name)), { throwIfNoEntry: false }) !== undefined
}
