/**
 * Manifests that are wrong on purpose: typed errors only, in no time, and none that verifies but leads to other bytes. A single mutation
 * runs with TIERED_MOE_MUTATION=<number>, the full scale with TIERED_MOE_FULL=1 or `--test-arg=--full`.
 */
import { cpSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import t from 'tap'
import { convertModel, isEngineError, verifyCheckpoint } from 'tiered-moe'
import { embedded } from '../fixtures/package.js'
import { random } from '../fixtures/weights.js'
import { type AnyManifest, addon, edit, manifestOf, openCheckpoint, sealed, smallModel } from './checkpoints.js'

const folder = t.testdir({})
const source = smallModel(join(folder, 'model.gguf'))
const sound = join(folder, 'sound')
await convertModel({
  from: source,
  to: sound,
  tiers: [
    { name: 'near', placement: 'hot', experts: [1, 2] },
    { name: 'far', placement: 'cold', experts: 'rest' }
  ]
})
const original = manifestOf(sound)
const path = join(folder, 'hostile')
cpSync(sound, path, { recursive: true })
const before = addon.counters()

/** Where every expert's bytes come from, and the model that is computed. */
async function meaning(at: string): Promise<unknown> {
  const { blobs, description, file } = await openCheckpoint(addon, at)
  file.close()
  const files = [...blobs.fileIndex].map((index) => relative(at, blobs.files[index]!))
  const { fileBytes: _, ...descriptor } = description.descriptor
  return { files, offset: [...blobs.offset], crc32c: [...blobs.crc32c], types: blobs.types, descriptor }
}
const truth = await meaning(sound)

/** The code of what opening throws, or `opens`; throws for anything that is not typed. */
async function opening(): Promise<string> {
  try {
    await meaning(path)
    return 'opens'
  } catch (error) {
    if (!isEngineError(error)) throw error
    return error.code
  }
}

/** Whether verify finds nothing. */
async function verifies(): Promise<boolean> {
  try {
    return (await verifyCheckpoint(path)).damage.length === 0
  } catch (error) {
    if (!isEngineError(error)) throw error
    return false
  }
}

/** Replaces fields by their paths. */
const set = (fields: Record<string, unknown>) => (manifest: AnyManifest) => {
  for (const [field, value] of Object.entries(fields)) {
    const steps = field.split('.')
    const last = steps.pop()!
    let at = manifest
    for (const step of steps) at = at[step]
    at[last] = value
  }
}

t.test('by hand', async (t) => {
  symlinkSync(embedded, join(path, 'link.bin'))
  symlinkSync('/dev/zero', join(path, 'zero.bin'))
  const cases: [string, (m: AnyManifest) => void, string][] = [
    ['a huge count of experts', set({ 'model.experts': 4096 }), 'CHECKPOINT_INVALID'],
    ['more than the format has', set({ 'model.experts': 2 ** 40 }), 'CHECKPOINT_INVALID'],
    ['a huge count of layers', set({ 'model.layers': 1024 }), 'CHECKPOINT_INVALID'],
    ['huge matrices', set({ 'model.width': 2 ** 30, 'model.hidden': 2 ** 30 }), 'CHECKPOINT_INVALID'],
    ['a type that does not exist', set({ 'layers.0.up.type': 'Q1_X' }), 'CHECKPOINT_INVALID'],
    ['another type', set({ 'layers.0.up.type': 'F16' }), 'CHECKPOINT_INVALID'],
    ['no layers', set({ layers: [] }), 'CHECKPOINT_INVALID'],
    ['a layer twice', set({ 'layers.1.layer': 0 }), 'CHECKPOINT_INVALID'],
    ['an expert twice', set({ 'layers.0.experts.1.expert': 0 }), 'CHECKPOINT_INVALID'],
    ['an expert less', (m) => void m.layers[0].experts.pop(), 'CHECKPOINT_INVALID'],
    [
      'blobs that overlap',
      set({ 'layers.0.experts.1.offset': original.layers[0].experts[2].offset }),
      'CHECKPOINT_INVALID'
    ],
    ['a blob that is not aligned', set({ 'layers.0.experts.1.offset': 64 }), 'CHECKPOINT_INVALID'],
    ['a blob behind the end', set({ 'layers.0.experts.1.offset': 2 ** 52 }), 'CHECKPOINT_INVALID'],
    ['a blob in the base', set({ 'layers.0.experts.1.shard': 0 }), 'CHECKPOINT_INVALID'],
    ['a file that does not exist', set({ 'layers.0.experts.1.shard': 77 }), 'CHECKPOINT_INVALID'],
    ['a group that does not exist', set({ 'layers.0.experts.1.group': 3 }), 'CHECKPOINT_INVALID'],
    ['a path upwards', set({ 'shards.1.path': '../model.gguf' }), 'CHECKPOINT_INVALID'],
    ['a path upwards inside', set({ 'shards.1.path': 'experts/../../model.gguf' }), 'CHECKPOINT_INVALID'],
    ['an absolute path', set({ 'shards.1.path': embedded }), 'CHECKPOINT_INVALID'],
    ['a path with a backslash', set({ 'shards.1.path': '..\\model.gguf' }), 'CHECKPOINT_INVALID'],
    ['a path with a NUL', set({ 'shards.1.path': 'base.gguf\0.bin' }), 'CHECKPOINT_INVALID'],
    ['a link out of the folder', set({ 'shards.1.path': 'link.bin' }), 'CHECKPOINT_INVALID'],
    ['a device', set({ 'shards.1.path': 'zero.bin' }), 'CHECKPOINT_INVALID'],
    ['the folder itself', set({ 'shards.1.path': 'experts' }), 'CHECKPOINT_INVALID'],
    ['two base files', (m) => void m.shards.push({ ...m.shards[0], path: 'other.gguf' }), 'CHECKPOINT_INVALID'],
    [
      'an optimizer state that is not there',
      set({ optimizer: { shards: [{ path: 'o.bin', bytes: 1, sha256: '0'.repeat(64) }] } }),
      'CHECKPOINT_INVALID'
    ],
    ['numbers as texts', set({ 'layers.0.experts.1.offset': '4096' }), 'CHECKPOINT_INVALID'],
    ['no tiers', set({ tiers: [] }), 'CHECKPOINT_INVALID'],
    ['a tier twice', (m) => void m.tiers.push(m.tiers[0]), 'CHECKPOINT_INVALID'],
    ['a tier with other sums', set({ 'tiers.0.experts': 1 }), 'CHECKPOINT_INVALID'],
    ['another format', set({ format: 'zip' }), 'CHECKPOINT_INVALID'],
    ['a version in words', set({ version: 'one' }), 'CHECKPOINT_INVALID'],
    ['an older major version', set({ version: '0.9' }), 'MODEL_VERSION_MISMATCH'],
    ['another architecture', set({ 'model.architecture': 'llama' }), 'CHECKPOINT_INVALID'],
    ['a tensor of another name', set({ 'layers.0.up.tensor': 'blk.0.attn_q.weight' }), 'TENSOR_SHAPE_MISMATCH'],
    [
      'tensors that changed places',
      set({ 'layers.0.up.tensor': 'blk.0.ffn_gate_exps.weight', 'layers.0.gate.tensor': 'blk.0.ffn_up_exps.weight' }),
      'CHECKPOINT_INVALID'
    ],
    [
      'a key of the prototype',
      (m) => void Object.defineProperty(m, '__proto__', { value: { x: 1 }, enumerable: true }),
      'opens'
    ]
  ]
  for (const [name, change, code] of cases) {
    const manifest = structuredClone(original)
    change(manifest)
    writeFileSync(join(path, 'manifest.json'), sealed(manifest))
    t.equal(await opening(), code, name)
    t.equal(await verifies(), code === 'opens', name)
  }
  for (const text of ['null', '[]', '1', '"x"', '{"checksum":"', '{}', `${'['.repeat(100_000)}`, '\ufeff{}', '\0']) {
    writeFileSync(join(path, 'manifest.json'), text)
    t.equal(await opening(), 'CHECKPOINT_INVALID', text.slice(0, 20))
  }
  t.same(addon.counters(), before)
})

const values = [
  0,
  -1,
  1,
  1.5,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  1e300,
  null,
  true,
  '',
  '0',
  '../x',
  'x'.repeat(70_000),
  {},
  []
]
const full = process.env.TIERED_MOE_FULL === '1' || process.argv.includes('--full')
const only = process.env.TIERED_MOE_MUTATION
if (full) t.setTimeout(3_600_000)

/** The n-th mutation of the manifest, and what it does. */
function mutate(n: number): { manifest: AnyManifest; what: string } {
  const draw = random(0x6d66 + n)
  const pick = <Item>(items: readonly Item[]): Item => items[Math.floor(draw() * items.length)]!
  const manifest = structuredClone(original)
  let [at, steps]: [AnyManifest, string[]] = [manifest, []]
  for (;;) {
    const keys = Object.keys(at)
    const key = pick(keys)
    steps = [...steps, key]
    const inside = at[key]
    if (typeof inside === 'object' && inside !== null && Object.keys(inside).length > 0 && draw() < 0.9) {
      at = inside
      continue
    }
    const where = steps.join('.')
    const kind = draw()
    if (kind < 0.15) {
      if (Array.isArray(at)) at.splice(Number(key), 1)
      else delete at[key]
      return { manifest, what: `${where} is removed` }
    }
    if (kind < 0.3) {
      const other = pick(keys)
      ;[at[key], at[other]] = [at[other], at[key]]
      return { manifest, what: `${where} and ${other} change places` }
    }
    if (kind < 0.4 && Array.isArray(at)) {
      at.push(structuredClone(inside))
      return { manifest, what: `${where} is there twice` }
    }
    const near = typeof inside === 'number' ? [inside + 1, inside - 1, inside * 2, inside + 4096, String(inside)] : []
    at[key] = pick([...values, ...near])
    return { manifest, what: `${where} becomes ${JSON.stringify(at[key]).slice(0, 40)}` }
  }
}

t.test('mutations of every field', async (t) => {
  const outcomes = new Map<string, number>()
  const cases = only === undefined ? Array.from({ length: full ? 20_000 : 500 }, (_, n) => n) : [Number(only)]
  for (const n of cases) {
    const { manifest, what } = mutate(n)
    const text = sealed(manifest)
    writeFileSync(join(path, 'manifest.json'), text)
    const started = performance.now()
    try {
      const code = await opening()
      outcomes.set(code, (outcomes.get(code) ?? 0) + 1)
      if (await verifies()) {
        if (code !== 'opens') t.fail(`mutation ${n}: ${what}: ${code}, but it verifies`)
        else if (JSON.stringify(await meaning(path)) !== JSON.stringify(truth)) {
          t.fail(`mutation ${n}: ${what}: it verifies but means something else`)
        }
      }
    } catch (error) {
      t.fail(`mutation ${n}: ${what}: ${error instanceof Error ? error.message : String(error)}`)
    }
    const elapsed = performance.now() - started
    if (elapsed > 20_000) t.fail(`mutation ${n}: ${what}: ${Math.round(elapsed)} ms`)
  }
  t.comment([...outcomes].map(([code, count]) => `${code} ${count}`).join(', '))
  t.ok((outcomes.get('CHECKPOINT_INVALID') ?? 0) > cases.length / 2 || only !== undefined)
  t.same(addon.counters(), before, 'everything is given back')
})

t.test('fields of a later minor version are ignored, wherever they are', async (t) => {
  cpSync(join(sound, 'manifest.json'), join(path, 'manifest.json'))
  edit(path, (m) => {
    const add = (value: AnyManifest) => {
      if (typeof value !== 'object' || value === null) return
      for (const item of Object.values(value)) add(item)
      if (!Array.isArray(value)) value.later = { a: [1, 2, null] }
    }
    add(m)
    m.version = '1.9'
  })
  t.equal(await opening(), 'opens')
  t.ok(await verifies())
})
