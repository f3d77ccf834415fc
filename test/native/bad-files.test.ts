/**
 * Damaged files: a typed error, or a load that generates 8 tokens from finite logits; never a crash, a hang over 1 s or a leak.
 * The full scale (10,000 mutations) runs with TIERED_MOE_FULL=1 or `--test-arg=--full`; a single case with TIERED_MOE_MUTATION=<number>.
 */
import { copyFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { createEngine, type Engine, isEngineError } from 'tiered-moe'
import { dtypes } from 'tiered-moe/kernels'
import { encodeGguf } from '../fixtures/gguf.js'
import { moeModel } from '../fixtures/moe-model.js'
import { embedded } from '../fixtures/package.js'
import { random } from '../fixtures/weights.js'
import { type Field, fieldAt, headerFields, structuralKinds } from './header-fields.js'

const model = embedded
const full = process.env.TIERED_MOE_FULL === '1' || process.argv.includes('--full')
const only = process.env.TIERED_MOE_MUTATION
const mutations = full ? 10_000 : 200
const truncations = 200
/** Sanitizers make everything several times slower. */
const slowest = process.env.TIERED_MOE_SANITIZED ? 10_000 : 1000

if (full) t.setTimeout(3_600_000)

const original = readFileSync(model)
const fields = headerFields(original)
const headerBytes = fields.at(-1)!.at + fields.at(-1)!.bytes
const file = join(t.testdir({}), 'damaged.gguf')

/** Counts of outcomes by kind of damage. */
class Table {
  readonly rows = new Map<string, Map<string, number>>()
  add(kind: string, outcome: string): void {
    const row = this.rows.get(kind) ?? new Map<string, number>()
    row.set(outcome, (row.get(outcome) ?? 0) + 1)
    this.rows.set(kind, row)
  }
  print(title: string): void {
    t.comment(title)
    for (const [kind, row] of [...this.rows].sort(([a], [b]) => a.localeCompare(b))) {
      const counts = [...row].sort(([, a], [, b]) => b - a).map(([outcome, count]) => `${outcome} ${count}`)
      t.comment(`  ${kind.padEnd(12)} ${counts.join(', ')}`)
    }
  }
}

/** What becomes of the file: `generates`, or the code of a typed error. Throws for anything else. */
async function outcome(engine: Engine): Promise<string> {
  const started = performance.now()
  let result = 'generates'
  try {
    await engine.loadModel({ model: file, id: 'damaged' })
    try {
      const request = { model: 'damaged', promptTokens: [1, 2, 3], maxTokens: 8, temperature: 0, ignoreEos: true }
      const { tokens } = await engine.generate(request)
      if (tokens.length !== 8) throw new TypeError(`${tokens.length} tokens came`)
    } finally {
      await engine.unloadModel('damaged')
    }
  } catch (error) {
    if (!isEngineError(error)) throw error
    result = error.code
  }
  const elapsed = performance.now() - started
  if (elapsed > slowest && elapsed > 5 * (await soundTime(engine)))
    throw new RangeError(`it took ${Math.round(elapsed)} ms`)
  return result
}

/** Milliseconds that the undamaged file takes just now: on a machine with other work, a second may pass without any hang. */
async function soundTime(engine: Engine): Promise<number> {
  const started = performance.now()
  await engine.loadModel({ model, id: 'sound' })
  await engine.generate({ model: 'sound', promptTokens: [1, 2, 3], maxTokens: 8, ignoreEos: true })
  await engine.unloadModel('sound')
  return performance.now() - started
}

/** A file that is damaged in place at one point, used, and mended. */
async function withBytes(engine: Engine, at: number, bytes: Buffer): Promise<string> {
  const damaged = Buffer.from(original)
  bytes.copy(damaged, at)
  writeFileSync(file, damaged)
  return outcome(engine)
}

const u64Values = (old: bigint, draw: () => number) => {
  const limits = [0n, 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n]
  const near = [old - 1n, old + 1n, old * 2n, old ^ 0xffn, old + 0x10000n]
  const all = [...limits, ...near].map((value) => BigInt.asUintN(64, value)).filter((value) => value !== old)
  return all[Math.floor(draw() * all.length)]!
}

/** The n-th mutation: half are one byte anywhere in the header, half a structural field with a chosen value. */
function mutation(n: number): { field: Field; at: number; bytes: Buffer } {
  const draw = random(0x6d75 + n)
  if (n % 2 === 0) {
    const at = Math.floor(draw() * headerBytes)
    return {
      field: fieldAt(fields, at),
      at,
      bytes: Buffer.from([original[at]! ^ (1 + Math.floor(draw() * 255))])
    }
  }
  const kind = structuralKinds[Math.floor(draw() * structuralKinds.length)]!
  const candidates = fields.filter((field) => field.kind === kind)
  const field = candidates[Math.floor(draw() * candidates.length)]!
  const bytes = Buffer.from(original.subarray(field.at, field.at + field.bytes))
  if (field.bytes === 8) bytes.writeBigUInt64LE(u64Values(bytes.readBigUInt64LE(), draw))
  else {
    const old = bytes.readUInt32LE()
    const value = Number(BigInt.asUintN(32, u64Values(BigInt(old), draw)))
    bytes.writeUInt32LE(value === old ? old + 1 : value)
  }
  return { field, at: field.at, bytes }
}

t.test('truncations: always a typed error', { skip: only !== undefined }, async (t) => {
  const engine = await createEngine({ threads: 2 })
  const before = engine.counters()
  const draw = random(1)
  const table = new Table()
  for (let i = 0; i < truncations; i++) {
    const within = i % 2 === 0 ? headerBytes : original.length
    const length = i < 4 ? [0, 3, headerBytes, original.length - 1][i]! : Math.floor(draw() * within)
    copyFileSync(model, file)
    truncateSync(file, length)
    const result = await outcome(engine)
    if (result === 'generates') t.fail(`cut at ${length} it was loaded`)
    table.add(length < headerBytes ? 'header' : 'data', result)
  }
  table.print(`${truncations} truncations`)
  t.same(engine.counters(), before, 'everything is given back')
  await engine.dispose()
})

t.test('mutations of the header: structural damage is always found', async (t) => {
  const engine = await createEngine({ threads: 2 })
  const before = engine.counters()
  const table = new Table()
  const cases = only === undefined ? Array.from({ length: mutations }, (_, n) => n) : [Number(only)]
  for (const n of cases) {
    const { field, at, bytes } = mutation(n)
    try {
      const result = await withBytes(engine, at, bytes)
      if (result === 'generates' && (structuralKinds as readonly string[]).includes(field.kind)) {
        t.fail(`mutation ${n}: a damaged ${field.kind} at ${at} was loaded`, { bytes: bytes.toString('hex') })
      }
      table.add(field.kind, result)
    } catch (error) {
      t.fail(`mutation ${n}: ${field.kind} at ${at}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  table.print(`${cases.length} mutations`)
  t.same(engine.counters(), before, 'everything is given back')
  await engine.dispose()
})

t.test('magic, version, and what is no file', { skip: only !== undefined }, async (t) => {
  const engine = await createEngine({ threads: 1 })
  t.equal(await withBytes(engine, 0, Buffer.from('GGUP')), 'MODEL_FILE_INVALID')
  for (const version of [0, 1, 4, 0x03000000]) {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32LE(version)
    t.equal(await withBytes(engine, 4, bytes), 'MODEL_VERSION_MISMATCH', `version ${version}`)
  }
  const v2 = Buffer.alloc(4)
  v2.writeUInt32LE(2)
  t.equal(await withBytes(engine, 4, v2), 'generates', 'version 2 has the same layout')
  for (const [path, code] of [
    [dirname(file), 'MODEL_FILE_INVALID'],
    [join(dirname(file), 'none.gguf'), 'MODEL_NOT_FOUND'],
    [join(file, 'below-a-file'), 'MODEL_NOT_FOUND'],
    ['/dev/null', 'MODEL_FILE_INVALID']
  ] as const) {
    await t.rejects(engine.loadModel({ model: path, id: 'x' }), { code }, path)
  }
  await engine.dispose()
})

/** Types of the format that the kernels lack: id, name, weights and bytes of a block; the last ones are no types at all. */
const unsupported: [number, string, number, number][] = [
  [9, 'Q8_1', 32, 36],
  [10, 'Q2_K', 256, 84],
  [11, 'Q3_K', 256, 110],
  [15, 'Q8_K', 256, 292],
  [16, 'IQ2_XXS', 256, 66],
  [17, 'IQ2_XS', 256, 74],
  [18, 'IQ3_XXS', 256, 98],
  [19, 'IQ1_S', 256, 50],
  [21, 'IQ3_S', 256, 110],
  [22, 'IQ2_S', 256, 82],
  [24, 'I8', 1, 1],
  [25, 'I16', 1, 2],
  [26, 'I32', 1, 4],
  [27, 'I64', 1, 8],
  [28, 'F64', 1, 8],
  [29, 'IQ1_M', 256, 56],
  [34, 'TQ1_0', 256, 54],
  [35, 'TQ2_0', 256, 66],
  [31, 'Q4_0_4_4', 32, 18],
  [32, 'Q4_0_4_8', 32, 18],
  [33, 'Q4_0_8_8', 32, 18],
  [40, 'NVFP4', 64, 36],
  [41, 'Q1_0', 128, 18],
  [42, 'Q2_0', 64, 18],
  [4, 'type 4', 1, 4],
  [36, 'type 36', 1, 4],
  [99, 'type 99', 1, 4],
  [0xffffffff, 'type 4294967295', 1, 4]
]

t.test('types that are not supported: named, with those that are', { skip: only !== undefined }, async (t) => {
  const engine = await createEngine({ threads: 1 })
  const { metadata, tensors } = moeModel({ embedding: 256, heads: 8, kvHeads: 8, headDim: 32, layers: 1, vocab: 260 })
  for (const [typeId, name, block, bytes] of unsupported) {
    const changed = tensors.map((tensor) =>
      tensor.name === 'blk.0.attn_q.weight'
        ? { ...tensor, typeId, data: new Uint8Array(((tensor.shape[0]! * tensor.shape[1]!) / block) * bytes) }
        : tensor
    )
    writeFileSync(file, encodeGguf({ metadata, tensors: changed }))
    const error = await engine.loadModel({ model: file, id: 'x' }).catch((error: unknown) => error)
    t.match(error, { code: 'TENSOR_TYPE_UNSUPPORTED', details: { tensor: 'blk.0.attn_q.weight', type: name } }, name)
    const { supported } = (error as { details: { supported: unknown } }).details
    t.ok(
      dtypes.every((type) => String(supported).includes(type)),
      `${name}: those supported are named`
    )
  }
  await engine.dispose()
})
