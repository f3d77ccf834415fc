/** Converting: what is in the files, tiers, going on, and what is refused. */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type ConvertModelRequest, convertModel, type Manifest, verifyCheckpoint } from 'tiered-moe'
import { type DType, dtypes, openBackend } from 'tiered-moe/kernels'
import { lockTarget } from '../../lib/checkpoint/target.js'
import { readGgufHeader, TENSOR_TYPES, type TensorTypeName } from '../fixtures/gguf.js'
import { moeModel } from '../fixtures/moe-model.js'
import { embedded } from '../fixtures/package.js'
import { addon, edit, flip, hashes, manifestOf, openCheckpoint, sealed, smallModel } from './checkpoints.js'

const kernels = openBackend('cpu')
t.teardown(() => kernels.dispose())

/** The tensors of a file by name, from its own header. */
function tensorsOf(path: string): Map<string, { type: DType; shape: number[]; data: Buffer }> {
  const file = readFileSync(path)
  const { tensors, dataOffset } = readGgufHeader(path)
  const names = Object.fromEntries(Object.entries(TENSOR_TYPES).map(([name, [id]]) => [id, name]))
  return new Map(
    tensors.map(({ name, typeId, shape, offset }) => {
      const type = names[typeId] as TensorTypeName
      const [, block, bytes] = TENSOR_TYPES[type]
      const size = (shape.reduce((a, b) => a * b, 1) / block) * bytes
      return [name, { type, shape, data: file.subarray(dataOffset + offset, dataOffset + offset + size) }]
    })
  )
}

/** Compares every byte of a checkpoint with the file that it was made of; the packing is that of the kernel interface. */
function compare(t: Test, source: string, folder: string, manifest: Manifest): void {
  const whole = tensorsOf(source)
  const base = tensorsOf(join(folder, 'base.gguf'))
  t.same(readGgufHeader(join(folder, 'base.gguf')).metadata, readGgufHeader(source).metadata, 'all metadata')
  const ofExperts = new Set<string>()
  let wrong = 0
  for (const { gate, up, down, experts, layer } of manifest.layers) {
    for (const part of [gate, up, down]) {
      ofExperts.add(part.tensor)
      const { type, shape, data } = whole.get(part.tensor)!
      t.same([part.columns, part.rows], shape.slice(0, 2), part.tensor)
      const bytes = data.length / experts.length
      for (const entry of experts) {
        const own = data.subarray(entry.expert * bytes, (entry.expert + 1) * bytes)
        const packed = kernels.pack({ type, rows: part.rows, columns: part.columns, data: Uint8Array.from(own) })
        const shard = readFileSync(join(folder, manifest.shards[entry.shard]!.path))
        const at = entry.offset + part.offset
        if (Buffer.compare(shard.subarray(at, at + part.bytes), packed.data) === 0) continue
        wrong++
        t.fail(`expert ${entry.expert} of layer ${layer}: ${part.tensor}`)
      }
    }
  }
  t.equal(wrong, 0, 'every expert is packed')
  const kept = [...whole.keys()].filter((name) => !ofExperts.has(name))
  t.same([...base.keys()], kept, 'the others are in the base file, in their order')
  for (const name of kept) t.equal(Buffer.compare(base.get(name)!.data, whole.get(name)!.data), 0, name)
}

t.test('every weight type and architecture: the same weights, and a manifest that verifies', async (t) => {
  const folder = t.testdir({})
  const before = addon.counters()
  const architectures = ['olmoe', 'qwen3moe', 'llama'] as const
  for (const [i, type] of dtypes.entries()) {
    const architecture = architectures[i % 3]!
    const wide = type === 'Q6_K' || type === 'Q4_K' ? { embedding: 256, feedForward: 256 } : { feedForward: 48 }
    const from = smallModel(join(folder, `${type}.gguf`), { type, architecture, tied: i % 2 === 1, ...wide })
    const to = join(folder, type)
    const { manifest, written, kept, bytes } = await convertModel({ from, to })
    t.equal(kept, 0)
    t.equal(written, 3, 'a base file and one per layer')
    compare(t, from, to, manifest)
    t.same((await verifyCheckpoint(to)).damage, [])
    t.equal(
      bytes,
      manifest.shards.reduce((sum, { path }) => sum + statSync(join(to, path)).size, 0)
    )
    t.same(manifest, (({ checksum: _, ...rest }) => rest)(manifestOf(to)), 'what is returned is what is written')
    const { experts } = manifest.layers[1]!
    t.ok(experts.every(({ offset, bytes: size }) => offset % 4096 === 0 && size % 4096 === 0))
    const shard = readFileSync(join(to, manifest.shards[experts[2]!.shard]!.path))
    const blob = shard.subarray(experts[2]!.offset, experts[2]!.offset + experts[2]!.bytes)
    t.equal(createHash('sha256').update(blob).digest('hex'), experts[2]!.sha256)
    t.equal(addon.crc32c(blob).toString(16).padStart(8, '0'), experts[2]!.crc32c)
    t.equal(createHash('sha256').update(shard).digest('hex'), manifest.shards[experts[2]!.shard]!.sha256)
  }
  t.same(addon.counters(), before, 'everything is given back')
})

t.test('the embedded model, opened again', async (t) => {
  const to = join(t.testdir({}), 'shakespeare')
  const { manifest } = await convertModel({ from: embedded, to })
  compare(t, embedded, to, manifest)
  const before = addon.counters()
  const checkpoint = await openCheckpoint(addon, to, { verify: true })
  const { descriptor, plan } = checkpoint.description
  t.match(descriptor, { architecture: 'olmoe', layers: 4, experts: 16, weightType: 'Q8_0', expertBytes: 104448 })
  t.same(plan.routingSeed, manifest.routing.seed)
  t.equal(checkpoint.blobs.files.length, 4)
  t.equal(checkpoint.blobs.offset.length, 64)
  const { crc32c } = manifest.layers[2]!.experts[5]!
  t.equal(checkpoint.blobs.crc32c[2 * 16 + 5], Number.parseInt(crc32c, 16))
  checkpoint.file.close()
  t.same(addon.counters(), before)
})

t.test('SHA-256 is SHA-256, with the CPU’s instructions and without', async (t) => {
  const folder = t.testdir({})
  const path = join(folder, 'bytes')
  const random = Buffer.alloc(1_100_000)
  for (let i = 0; i < random.length; i++) random[i] = (i * 2654435761) >>> 24
  const none = { offset: new Float64Array(0), bytes: new Float64Array(0) }
  for (const length of [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1_048_575, 1_048_577, 1_100_000]) {
    const bytes = random.subarray(0, length)
    writeFileSync(path, bytes)
    const found = await addon.measureShard(path, none, addon.createCancel())
    t.equal(found.sha256, createHash('sha256').update(bytes).digest('hex'), `${length} bytes`)
  }
  const ranges = { offset: Float64Array.of(3, 1_048_570, 1_099_000), bytes: Float64Array.of(900, 20, 5000) }
  const { blobSha256, crc32c } = await addon.measureShard(path, ranges, addon.createCancel())
  for (const [i, at] of ranges.offset.entries()) {
    const part = random.subarray(at, at + ranges.bytes[i]!)
    t.equal(
      blobSha256[i],
      createHash('sha256').update(part).digest('hex'),
      'a blob over chunks, and one that is cut off'
    )
    t.equal(crc32c[i], addon.crc32c(part))
  }
  const cli = join('dist/esm/cli/main.js')
  const from = smallModel(join(folder, 'model.gguf'))
  const env = { ...process.env, TIERED_MOE_ISA: 'scalar' }
  const { status } = spawnSync(process.execPath, [cli, 'convert', from, join(folder, 'scalar')], { env })
  t.equal(status, 0)
  await convertModel({ from, to: join(folder, 'fast') })
  t.same(hashes(join(folder, 'scalar')), hashes(join(folder, 'fast')))
})

t.test('tiers by lists, by layers, by measured use', async (t) => {
  const folder = t.testdir({})
  const from = smallModel(join(folder, 'model.gguf'), { experts: 8 })
  const tiersOf = ({ layers }: Manifest) => layers.map(({ experts }) => experts.map(({ tier }) => tier[0]).join(''))
  const counts = [
    [5, 9, 9, 0, 1, 7, 2, 3],
    [1, 1, 1, 1, 1, 1, 1, 1]
  ]
  const cases: [Partial<ConvertModelRequest>, string[]][] = [
    [{}, ['aaaaaaaa', 'aaaaaaaa']],
    [{ tiers: 'measured', statistics: { layers: counts } }, ['hhhcchcc', 'hhhhcccc']],
    [
      {
        tiers: [
          { name: 'x', placement: 'hot', experts: [7, 0] },
          { name: 'y', placement: 'archive', experts: { '1': [1, 2] } },
          { name: 'z', placement: 'cold', budget: 4096, experts: 'rest' }
        ]
      },
      ['xzzzzzzx', 'xyyzzzzx']
    ]
  ]
  for (const [i, [request, expected]] of cases.entries()) {
    const to = join(folder, `tiers-${i}`)
    const { manifest } = await convertModel({ from, to, ...request })
    t.same(tiersOf(manifest), expected)
    t.same((await verifyCheckpoint(to)).damage, [])
    compare(t, from, to, manifest)
  }
  t.ok(existsSync(join(folder, 'tiers-2/experts/y/layer-001.bin')))
  t.notOk(existsSync(join(folder, 'tiers-2/experts/y/layer-000.bin')), 'no file for a tier without experts in a layer')
  const yaml = join(folder, 'tiers.yaml')
  const file = (text: string) => {
    writeFileSync(yaml, text)
    return convertModel({ from, to: join(folder, 'from-yaml'), tiers: yaml, replace: true })
  }
  const { manifest } = await file(
    'tiers:\n  - {name: fast, placement: hot, budget: 1.5MiB, experts: [0, "2-4"]}\n' +
      '  - name: deep\n    placement: cold\n    experts:\n      "0-1": [1]\n  - {name: slow, placement: warm}\n'
  )
  t.same(tiersOf(manifest), ['fdfffsss', 'fdfffsss'])
  t.match(manifest.tiers, [{ name: 'fast', placement: 'hot', budget: 1572864, experts: 8, groups: 1 }, {}, {}])
  for (const [text, path] of [
    ['tiers: [', yaml],
    ['tiers: []', 'tiers'],
    ['tiers: [{name: a, placement: lukewarm}]', 'tiers[0].placement'],
    ['tiers: [{name: ../a, placement: hot}]', 'tiers[0].name'],
    ['tiers: [{name: a, placement: hot, colour: red}]', 'tiers[0]'],
    ['tiers: [{name: a, placement: hot}, {name: a, placement: hot}]', 'tiers[1].name'],
    ['tiers: [{name: a, placement: hot}, {name: b, placement: hot}]', 'tiers[1].experts'],
    ['tiers: [{name: a, placement: hot, experts: [0-7]}]', undefined],
    ['tiers: [{name: a, placement: hot, experts: [7-0]}]', 'tiers[0].experts[0]'],
    ['tiers: [{name: a, placement: hot, experts: [8]}]', 'tiers[0].experts'],
    ['tiers: [{name: a, placement: hot, experts: [0]}]', 'tiers'],
    ['tiers: [{name: a, placement: hot, experts: [0, 0]}]', 'tiers[0].experts'],
    ['tiers: [{name: a, placement: hot, experts: {5: [0]}}, {name: b, placement: hot}]', 'tiers[0].experts'],
    ['tiers: [{name: a, placement: hot, experts: {share: 0.5}}, {name: b, placement: hot}]', 'tiers[0].experts'],
    ['tiers: [{name: a, placement: hot, experts: {share: 1.5}}]', 'tiers[0].experts.share'],
    ['tiers: [{name: a, placement: hot, experts: []}, {name: b, placement: hot}]', 'tiers[0].experts'],
    ['tiers: [{name: a, placement: hot, budget: -1}]', 'tiers[0].budget'],
    ['a: &x 1\ntiers: *x', yaml]
  ] as const) {
    if (path === undefined) await file(text)
    else await t.rejects(file(text), { code: 'VALIDATION_ERROR', details: { path } }, text)
  }
  await t.rejects(convertModel({ from, to: join(folder, 'n'), tiers: join(folder, 'none.yaml') }), {
    code: 'VALIDATION_ERROR'
  })
  for (const statistics of [{ layers: [[1]] }, { layers: [] }]) {
    const request = { from, to: join(folder, 'n'), tiers: 'measured', statistics }
    await t.rejects(convertModel(request), { code: 'VALIDATION_ERROR', details: { path: 'statistics' } })
  }
  writeFileSync(yaml, JSON.stringify({ layers: counts }))
  const measured = await convertModel({ from, to: join(folder, 'm'), tiers: 'measured', statistics: yaml })
  t.same(tiersOf(measured.manifest), ['hhhcchcc', 'hhhhcccc'])
  t.notOk(existsSync(join(folder, 'n')), 'nothing is made for what is refused')
})

t.test('other tiers from a checkpoint are those from the file; optimizer state goes along', async (t) => {
  const folder = t.testdir({})
  const from = smallModel(join(folder, 'model.gguf'))
  const [first, second, direct] = ['first', 'second', 'direct'].map((name) => join(folder, name)) as [
    string,
    string,
    string
  ]
  const tiers = [
    { name: 'b', placement: 'hot' as const, experts: [3, 1] },
    { name: 'c', placement: 'cold' as const, experts: 'rest' as const }
  ]
  await convertModel({ from, to: first })
  await convertModel({ from: first, to: second, tiers })
  await convertModel({ from, to: direct, tiers })
  t.same(hashes(second), hashes(direct))
  mkdirSync(join(first, 'optimizer'))
  writeFileSync(join(first, 'optimizer', 'state-0.bin'), 'momentum')
  const sha256 = createHash('sha256').update('momentum').digest('hex')
  const state = { step: 7, shards: [{ path: 'optimizer/state-0.bin', bytes: 8, sha256, rank: 0 }] }
  edit(first, (manifest) => {
    manifest.optimizer = state
    manifest.later = { field: 'of another version' }
  })
  t.same((await verifyCheckpoint(first)).damage, [])
  const { manifest } = await convertModel({ from: first, to: second, tiers: [...tiers].reverse(), replace: true })
  t.same(manifest.optimizer, state, 'unknown fields of it too')
  t.same((await verifyCheckpoint(second)).damage, [])
  t.equal(readFileSync(join(second, 'optimizer', 'state-0.bin'), 'utf8'), 'momentum')
  flip(join(first, 'optimizer', 'state-0.bin'), 3)
  t.match((await verifyCheckpoint(first)).damage, [
    { file: 'optimizer/state-0.bin', error: { code: 'MODEL_CORRUPTED' } }
  ])
  await t.rejects(convertModel({ from: first, to: join(folder, 'third') }), { code: 'MODEL_CORRUPTED' })
  edit(first, (manifest) => {
    manifest.optimizer = undefined
  })
  flip(join(first, manifestOf(first).shards[1].path), 5)
  await t.rejects(convertModel({ from: first, to: join(folder, 'fourth'), tiers }), {
    code: 'MODEL_CORRUPTED',
    details: { file: /layer-000/, offset: 0 }
  })
  await t.rejects(convertModel({ from: first, to: first }), { code: 'VALIDATION_ERROR', details: { path: 'to' } })
})

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
  const q5k = smallModel(join(folder, 'q5_k.gguf'), {
    embedding: 256,
    editTensor: (tensor) =>
      tensor.name === 'blk.1.ffn_up_exps.weight'
        ? { ...tensor, typeId: 13, data: new Uint8Array((tensor.shape.reduce((a, b) => a * b, 1) / 256) * 176) }
        : tensor
  })
  await t.rejects(convertModel({ from: q5k, to: join(folder, 'to') }), {
    code: 'TENSOR_TYPE_UNSUPPORTED',
    details: { tensor: 'blk.1.ffn_up_exps.weight', type: 'Q5_K' }
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

t.test('the manifest’s own text', async (t) => {
  const folder = t.testdir({})
  const from = smallModel(join(folder, 'model.gguf'))
  const to = join(folder, 'to')
  await convertModel({ from, to })
  t.match(manifestOf(to), { format: 'tiered-moe-checkpoint', version: '1.0', layout: 'rows16.1' })
  writeFileSync(join(to, 'manifest.json'), sealed(manifestOf(to)))
  t.same((await verifyCheckpoint(to)).damage, [], 'what the page describes is what is checked')
})
