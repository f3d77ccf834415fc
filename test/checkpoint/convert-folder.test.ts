/** The folder of a conversion: going on after one that was cut off, beside another one, and what is refused. */
import { createHash } from 'node:crypto'
import {
  existsSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel, verifyCheckpoint } from 'tiered-moe'
import { lockTarget } from '../../lib/checkpoint/target.js'
import { moeModel } from '../fixtures/moe-model.js'
import { addon, flip, hashes, openCheckpoint, smallModel } from './checkpoints.js'

t.test('a finished conversion is kept, a damaged file of it is mended', async (t) => {
  const folder = t.testdir({})
  const from = smallModel(join(folder, 'model.gguf'))
  const to = join(folder, 'to')
  const first = await convertModel({ from, to })
  const before = hashes(to)
  t.match(await convertModel({ from, to }), { written: 0, kept: 3, manifest: first.manifest })
  flip(join(to, 'experts/all/layer-001.bin'), 70_000 % statSync(join(to, 'experts/all/layer-001.bin')).size)
  t.match(await convertModel({ from, to }), { written: 1, kept: 2 })
  rmSync(join(to, 'base.gguf'))
  t.match(await convertModel({ from, to }), { written: 1, kept: 2 })
  t.same(hashes(to), before)
  utimesSync(from, 1, 1)
  await t.rejects(convertModel({ from, to }), {
    code: 'VALIDATION_ERROR',
    details: { path: 'to', allowed: /--replace/ }
  })
  t.same(hashes(to), before)
  t.match(await convertModel({ from, to, replace: true }), { written: 3, kept: 0 })
})

t.test('what is refused costs no byte', async (t) => {
  const folder = t.testdir({ other: { 'thesis.txt': 'precious' }, file: 'x' })
  const from = smallModel(join(folder, 'model.gguf'))
  const refused = (to: string, expected: { code: string | RegExp; details?: object }) =>
    t.rejects(convertModel({ from, to }), expected, to)
  await refused(join(folder, 'other'), { code: 'VALIDATION_ERROR', details: { path: 'to' } })
  await refused(join(folder, 'file'), { code: 'VALIDATION_ERROR', details: { path: 'to' } })
  await refused(join(folder, 'file', 'below'), { code: /FILE_(READ|WRITE)_FAILED/ })
  await refused('/proc/none', { code: 'FILE_WRITE_FAILED' })
  t.same(hashes(join(folder, 'other')), { 'thesis.txt': createHash('sha256').update('precious').digest('hex') })
  await t.rejects(convertModel({ from: join(folder, 'none'), to: join(folder, 'to') }), { code: 'MODEL_NOT_FOUND' })
  await t.rejects(convertModel({ from: folder, to: join(folder, 'to') }), { code: 'MODEL_FILE_INVALID' })
  symlinkSync('loop', join(folder, 'loop'))
  await t.rejects(convertModel({ from: join(folder, 'loop'), to: join(folder, 'to') }), { code: 'FILE_READ_FAILED' })
  const { tensors, metadata } = moeModel({ layers: 1 })
  t.ok(tensors.length && metadata.length)
  const unsupported = smallModel(join(folder, 'mamba.gguf'), { metadata: { 'general.architecture': 'mamba' } })
  await t.rejects(convertModel({ from: unsupported, to: join(folder, 'to') }), { code: 'ARCHITECTURE_UNSUPPORTED' })
  const q3k = smallModel(join(folder, 'q3_k.gguf'), {
    embedding: 256,
    editTensor: (tensor) =>
      tensor.name === 'blk.1.ffn_up_exps.weight'
        ? { ...tensor, typeId: 11, data: new Uint8Array((tensor.shape.reduce((a, b) => a * b, 1) / 256) * 110) }
        : tensor
  })
  await t.rejects(convertModel({ from: q3k, to: join(folder, 'to') }), {
    code: 'TENSOR_TYPE_UNSUPPORTED',
    details: { tensor: 'blk.1.ffn_up_exps.weight', type: 'Q3_K' }
  })
  t.notOk(existsSync(join(folder, 'to')))
  const cancelled = convertModel({ from, to: join(folder, 'to') }, { signal: AbortSignal.abort(new Error('mine')) })
  await t.rejects(cancelled, { code: 'CANCELLED' })
})

t.test('a source that changes, an abort half-way, two at a time', async (t) => {
  const folder = t.testdir({})
  const from = smallModel(join(folder, 'model.gguf'), { layers: 3 })
  const to = join(folder, 'to')
  const changing = convertModel({ from, to }, { onProgress: () => utimesSync(from, 5, 5) })
  await t.rejects(changing, { code: 'FILE_READ_FAILED' })
  t.notOk(existsSync(join(to, 'manifest.json')))
  const controller = new AbortController()
  const files = new Set<string>()
  const onProgress = ({ file }: { file: string }) => {
    if (files.add(file).size === 3) controller.abort()
  }
  await t.rejects(convertModel({ from, to }, { signal: controller.signal, onProgress }), { code: 'CANCELLED' })
  t.notOk(existsSync(join(to, 'manifest.json')))
  const error = await openCheckpoint(addon, to).catch((error) => error)
  t.match(
    error,
    { code: 'CHECKPOINT_INVALID', details: { suggestedAction: /again/ } },
    'it is not taken for a checkpoint'
  )
  let second: Promise<unknown> | undefined
  const done = await convertModel(
    { from, to },
    {
      onProgress: () => {
        second ??= convertModel({ from, to }).catch((error) => error)
      }
    }
  )
  t.match(await second, { code: 'JOURNAL_LOCKED', details: { path: to } })
  t.match(done, { kept: 2, written: 2 }, 'what was finished is kept')
  t.same((await verifyCheckpoint(to)).damage, [])
})

t.test('a lock that the conversion before has removed locks nobody out', async (t) => {
  const folder = join(t.testdir({}), 'to')
  const path = join(folder, 'convert.lock')
  let tries = 0
  const lock = await lockTarget(folder, (descriptor) => {
    if (tries++ === 0) rmSync(path)
    return addon.tryLockFile(descriptor)
  })
  t.equal((await lock.stat()).ino, statSync(path).ino, 'the file that others open')
  await t.rejects(lockTarget(folder, addon.tryLockFile), { code: 'JOURNAL_LOCKED' })
  await lock.close()
})

t.test('a journal that is cut off, or lies', async (t) => {
  const folder = t.testdir({})
  const from = smallModel(join(folder, 'model.gguf'), { layers: 3 })
  const whole = join(folder, 'whole')
  const to = join(folder, 'to')
  await convertModel({ from, to: whole })
  const begun = async () => {
    rmSync(to, { recursive: true, force: true })
    const controller = new AbortController()
    const onProgress = ({ file }: { file: string }) => file.includes('layer-002') && controller.abort()
    await convertModel({ from, to }, { signal: controller.signal, onProgress: (p) => void onProgress(p) }).catch(
      () => {}
    )
    return join(to, 'convert.journal')
  }
  const journal = await begun()
  const text = readFileSync(journal, 'utf8')
  const lines = text.trimEnd().split('\n')
  t.equal(lines.length, 4, 'the head, the base, two layers')
  for (let cut = text.length - 1; cut >= 0; cut -= Math.ceil(text.length / 40)) {
    await begun()
    truncateSync(journal, cut)
    await convertModel({ from, to })
    t.same(hashes(to), hashes(whole), `cut at ${cut}`)
  }
  await begun()
  flip(join(to, 'experts/all/layer-000.bin'), 9)
  t.match(
    await convertModel({ from, to }),
    { kept: 2, written: 2 },
    'a file that is not what the journal says is made anew'
  )
  t.same(hashes(to), hashes(whole))
  await begun()
  writeFileSync(journal, text.replaceAll(/"sha256":"../g, '"sha256":"00'))
  await convertModel({ from, to })
  t.same(hashes(to), hashes(whole))
})
