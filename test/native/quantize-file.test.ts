/** Writing quantised files: what changes and what does not, and that a file is there whole or not at all. */
import { spawnSync } from 'node:child_process'
import { existsSync, lstatSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { openBackend } from 'tiered-moe/kernels'
import type { native as Native } from '../../lib/native.js'
import { readGgufHeader, TENSOR_TYPES } from '../fixtures/gguf.js'
import { moeModel, writeMoeModel } from '../fixtures/moe-model.js'
import { builtUrl } from '../fixtures/package.js'
import { headerFields } from './header-fields.js'

const nativePath = builtUrl('native.js')
const { native } = (await import(nativePath)) as { native: typeof Native }
const addon = native()

const quantize = (
  from: string,
  to: string,
  type: 'Q8_0' | 'Q4_0',
  onProgress?: () => void,
  cancel = addon.createCancel()
) => addon.quantizeGguf(from, to, onProgress ? { type, onProgress } : { type }, cancel)

/** The bytes of every metadata entry, by key. */
function entriesOf(path: string): Map<string, string> {
  const file = readFileSync(path)
  const fields = headerFields(file)
  const entries = new Map<string, string>()
  let key = ''
  fields.forEach((field, i) => {
    if (field.kind === 'name') return
    const bytes = file.subarray(field.at, field.at + field.bytes)
    if (field.kind === 'key') key = bytes.toString()
    // The key's length stands before it and belongs to it.
    if (field.kind === 'key' || fields[i + 1]?.kind === 'key' || fields[i + 1]?.kind === 'name') return
    if (key) entries.set(key, (entries.get(key) ?? '') + bytes.toString('hex'))
  })
  return entries
}

t.test('types of tensors, metadata kept, progress', async (t) => {
  const folder = t.testdir({})
  const before = addon.counters()
  for (const architecture of ['olmoe', 'qwen3moe', 'llama'] as const) {
    // feedForward 48: rows of ffn_down are no multiple of 32.
    const from = writeMoeModel(join(folder, `${architecture}.gguf`), {
      architecture,
      type: 'F16',
      feedForward: 48,
      layers: 1
    })
    for (const type of ['Q8_0', 'Q4_0'] as const) {
      const to = join(folder, `${architecture}-${type}.gguf`)
      const progress: { index: number; count: number; bytesDone: number; bytesTotal: number }[] = []
      const { bytes } = await addon.quantizeGguf(
        from,
        to,
        { type, onProgress: (p) => progress.push(p) },
        addon.createCancel()
      )
      t.equal(statSync(to).size, bytes)
      const old = readGgufHeader(from)
      const made = readGgufHeader(to)
      t.same(
        progress.map(({ index }) => index),
        old.tensors.map((_, i) => i),
        'one event per tensor'
      )
      t.equal(progress.at(-1)!.bytesDone, progress.at(-1)!.bytesTotal)
      for (const { name, typeId, shape } of made.tensors) {
        const wanted =
          shape.length === 1 || name.includes('ffn_gate_inp')
            ? 'F32'
            : shape[0]! % 32 !== 0
              ? 'F16'
              : name === 'output.weight'
                ? 'Q8_0'
                : type
        t.equal(typeId, TENSOR_TYPES[wanted][0], `${architecture} ${type} ${name}`)
      }
      const file = await addon.openGguf(to)
      t.equal(file.metadata['general.file_type'], type === 'Q8_0' ? 7 : 2)
      t.equal(file.metadata['general.quantization_version'], 2)
      file.close()
      const kept = entriesOf(to)
      for (const [key, value] of entriesOf(from)) {
        if (key !== 'general.file_type' && !key.endsWith('add_bos_token')) t.equal(kept.get(key), value, key)
      }
    }
  }
  t.same(addon.counters(), before)
})

t.test('the weights are those of the kernel interface', async (t) => {
  const folder = t.testdir({})
  const { bytes, tensors } = moeModel({ type: 'F32', layers: 1 })
  const from = join(folder, 'f32.gguf')
  const to = join(folder, 'q4_0.gguf')
  writeFileSync(from, bytes)
  await quantize(from, to, 'Q4_0')
  const data = readFileSync(to)
  const start = headerFields(data).at(-1)!
  const header = readGgufHeader(to)
  const backend = openBackend('cpu')
  for (const { name, typeId, offset, shape } of header.tensors) {
    if (typeId !== TENSOR_TYPES.Q4_0[0]) continue
    const floats = tensors.find((tensor) => tensor.name === name)!.data
    const x = new Float32Array(floats.slice().buffer)
    const blocks = backend.sync.quantize({ type: 'Q4_0', x, columns: shape[0]! })
    const at = start.at + start.bytes + offset
    t.equal(Buffer.compare(data.subarray(at, at + blocks.length), blocks), 0, name)
  }
  backend.dispose()
})

t.test('tied output, onto itself, through a link', async (t) => {
  const folder = t.testdir({})
  const path = writeMoeModel(join(folder, 'tied.gguf'), { type: 'F32', tied: true, layers: 1 })
  symlinkSync(path, join(folder, 'link.gguf'))
  await quantize(path, join(folder, 'link.gguf'), 'Q4_0')
  t.ok(lstatSync(join(folder, 'link.gguf')).isSymbolicLink(), 'the link still is one')
  const { tensors } = readGgufHeader(path)
  t.equal(tensors.find(({ name }) => name === 'token_embd.weight')!.typeId, TENSOR_TYPES.Q8_0[0])
  t.equal(tensors.find(({ name }) => name === 'blk.0.attn_q.weight')!.typeId, TENSOR_TYPES.Q4_0[0])
  t.same(readdirSync(folder).sort(), ['link.gguf', 'tied.gguf'], 'no other file')
})

t.test('failures leave what was there', async (t) => {
  const base = t.testdir({ in: {}, out: { 'target.gguf': 'precious' } })
  const folder = join(base, 'out')
  const before = addon.counters()
  const to = join(folder, 'target.gguf')
  const sound = writeMoeModel(join(base, 'in', 'model.gguf'), { type: 'F32' })
  const bad = join(dirname(sound), 'nan.gguf')
  writeMoeModel(bad, {
    type: 'F32',
    editTensor: (tensor) => {
      if (tensor.name !== 'blk.1.attn_v.weight') return tensor
      const floats = new Float32Array(tensor.data.slice().buffer)
      floats[64 * 5 + 3] = Number.NaN
      return { ...tensor, data: new Uint8Array(floats.buffer) }
    }
  })
  await t.rejects(quantize(bad, to, 'Q8_0'), {
    code: 'MODEL_FILE_INVALID',
    details: { tensor: 'blk.1.attn_v.weight', row: 5 }
  })
  const started = addon.createCancel()
  started.cancel()
  await t.rejects(quantize(sound, to, 'Q8_0', undefined, started), { code: 'CANCELLED' })
  await t.rejects(quantize(sound, join(folder, 'no', 'such.gguf'), 'Q8_0'), { code: 'FILE_WRITE_FAILED' })
  await t.rejects(quantize(sound, folder, 'Q8_0'), { code: 'FILE_WRITE_FAILED' })
  await t.rejects(quantize(sound, '/dev/null', 'Q8_0'), { code: 'FILE_WRITE_FAILED' })
  t.ok(lstatSync('/dev/null').isCharacterDevice(), 'a device is not replaced')
  t.ok(
    readdirSync(folder).every((name) => name === 'target.gguf' || name === 'sound'),
    'no temporary file'
  )
  t.same(addon.counters(), before)
})

t.test('a full disk', { skip: process.platform === 'win32' && 'needs ulimit' }, async (t) => {
  const folder = t.testdir({ out: { 'target.gguf': 'precious' } })
  const from = writeMoeModel(join(folder, 'model.gguf'), { type: 'F32' })
  const to = join(folder, 'out', 'target.gguf')
  const script = `
    import { native } from ${JSON.stringify(nativePath)}
    const addon = native()
    await addon.quantizeGguf(${JSON.stringify(from)}, ${JSON.stringify(to)}, { type: 'Q8_0' }, addon.createCancel()).then(
      () => console.log('done'),
      (error) => console.log(error.code)
    )`
  // The limit on a file's size stands in for the disk's: the system answers as it does when there is no room.
  const { stdout, status } = spawnSync(
    'bash',
    ['-c', 'ulimit -f 16; exec "$0" --input-type=module -e "$1"', process.execPath, script],
    {
      encoding: 'utf8'
    }
  )
  t.equal(stdout.trim(), 'FILE_WRITE_FAILED')
  t.equal(status, 0, 'the process lives on')
  t.same(readdirSync(join(folder, 'out')), ['target.gguf'])
  t.equal(readFileSync(to, 'utf8'), 'precious')
  t.ok(existsSync(from))
})
