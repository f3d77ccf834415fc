/** Converting: what is in the files, and tiers. */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type ConvertModelRequest, convertModel, type Manifest, verifyCheckpoint } from 'tiered-moe'
import { type DType, dtypes, openBackend } from 'tiered-moe/kernels'
import { readGgufHeader, TENSOR_TYPES, type TensorTypeName } from '../fixtures/gguf.js'
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
    const wide = TENSOR_TYPES[type][1] === 256 ? { embedding: 256, feedForward: 256 } : { feedForward: 48 }
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
    ['a: &x 1\ntiers: *x', 'tiers']
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

t.test('the manifest’s own text', async (t) => {
  const folder = t.testdir({})
  const from = smallModel(join(folder, 'model.gguf'))
  const to = join(folder, 'to')
  await convertModel({ from, to })
  t.match(manifestOf(to), { format: 'tiered-moe-checkpoint', version: '1.0', layout: 'rows16.1' })
  writeFileSync(join(to, 'manifest.json'), sealed(manifestOf(to)))
  t.same((await verifyCheckpoint(to)).damage, [], 'what the page describes is what is checked')
})
