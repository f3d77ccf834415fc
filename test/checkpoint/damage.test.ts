/** Damage of every kind: the code that the catalogue says, all of it reported, and what mends it. */
import { spawnSync } from 'node:child_process'
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { catalog, convertModel, type Damage, type EngineError, isEngineError, verifyCheckpoint } from 'tiered-moe'
import { random } from '../fixtures/weights.js'
import { addon, edit, flip, hashes, manifestOf, openCheckpoint, sealed, smallModel } from './checkpoints.js'

const folder = t.testdir({})
const source = smallModel(join(folder, 'model.gguf'))
const sound = join(folder, 'sound')
await convertModel({ from: source, to: sound })
const layer0 = 'experts/all/layer-000.bin'

/** A copy of the sound checkpoint, damaged. */
let copies = 0
function damaged(change: (path: string) => void): string {
  const path = join(folder, `copy-${copies++}`)
  cpSync(sound, path, { recursive: true })
  change(path)
  return path
}

/** What opening gives, and with every byte compared; the files are closed in any case. */
async function opening(path: string, verify: boolean): Promise<EngineError | 'opens'> {
  try {
    const { file } = await openCheckpoint(addon, path, { verify })
    file.close()
    return 'opens'
  } catch (error) {
    if (isEngineError(error)) return error
    throw error
  }
}

interface Case {
  name: string
  change: (path: string) => void
  /** The code when it is opened without reading every byte, and when all is compared. */
  opens: string
  verifies: string
  /** The file that verify names. */
  file?: string
}

const cases: Case[] = [
  {
    name: 'a bit in a blob',
    change: (p) => flip(join(p, layer0), 5000),
    opens: 'opens',
    verifies: 'MODEL_CORRUPTED',
    file: layer0
  },
  {
    name: 'a bit in the weights of the base',
    change: (p) => flip(join(p, 'base.gguf'), statSync(join(p, 'base.gguf')).size - 100),
    opens: 'opens',
    verifies: 'MODEL_CORRUPTED',
    file: 'base.gguf'
  },
  {
    name: 'a bit in the head of the base',
    change: (p) => flip(join(p, 'base.gguf'), 1),
    opens: 'MODEL_FILE_INVALID',
    verifies: 'MODEL_CORRUPTED',
    file: 'base.gguf'
  },
  {
    name: 'a bit in the manifest',
    change: (p) => flip(join(p, 'manifest.json'), 400),
    opens: 'MODEL_CORRUPTED',
    verifies: 'MODEL_CORRUPTED'
  },
  {
    name: 'the manifest cut off',
    change: (p) => truncateSync(join(p, 'manifest.json'), 900),
    opens: 'MODEL_CORRUPTED',
    verifies: 'MODEL_CORRUPTED'
  },
  {
    name: 'an empty manifest',
    change: (p) => truncateSync(join(p, 'manifest.json'), 0),
    opens: 'CHECKPOINT_INVALID',
    verifies: 'CHECKPOINT_INVALID'
  },
  {
    name: 'no manifest',
    change: (p) => rmSync(join(p, 'manifest.json')),
    opens: 'MODEL_NOT_FOUND',
    verifies: 'MODEL_NOT_FOUND'
  },
  {
    name: 'a file of blobs cut off',
    change: (p) => truncateSync(join(p, layer0), 8192),
    opens: 'CHECKPOINT_INVALID',
    verifies: 'CHECKPOINT_INVALID',
    file: layer0
  },
  {
    name: 'a byte too many',
    change: (p) => appendFileSync(join(p, layer0), '!'),
    opens: 'CHECKPOINT_INVALID',
    verifies: 'CHECKPOINT_INVALID',
    file: layer0
  },
  {
    name: 'a missing file of blobs',
    change: (p) => rmSync(join(p, layer0)),
    opens: 'CHECKPOINT_INVALID',
    verifies: 'CHECKPOINT_INVALID',
    file: layer0
  },
  {
    name: 'a missing base',
    change: (p) => rmSync(join(p, 'base.gguf')),
    opens: 'CHECKPOINT_INVALID',
    verifies: 'CHECKPOINT_INVALID',
    file: 'base.gguf'
  },
  {
    name: 'a folder for a file',
    change: (p) => {
      rmSync(join(p, layer0))
      mkdirSync(join(p, layer0))
    },
    opens: 'CHECKPOINT_INVALID',
    verifies: 'CHECKPOINT_INVALID',
    file: layer0
  },
  {
    name: 'a file that cannot be read',
    change: (p) => {
      rmSync(join(p, layer0))
      symlinkSync('layer-000.bin', join(p, layer0))
    },
    opens: 'FILE_READ_FAILED',
    verifies: 'FILE_READ_FAILED',
    file: layer0
  },
  {
    name: 'a link out of the folder',
    change: (p) => {
      renameSync(join(p, layer0), `${p}.bin`)
      symlinkSync(`${p}.bin`, join(p, layer0))
    },
    opens: 'CHECKPOINT_INVALID',
    verifies: 'CHECKPOINT_INVALID',
    file: layer0
  },
  {
    name: 'files that changed places',
    change: (p) => {
      renameSync(join(p, layer0), join(p, 'x'))
      renameSync(join(p, 'experts/all/layer-001.bin'), join(p, layer0))
      renameSync(join(p, 'x'), join(p, 'experts/all/layer-001.bin'))
    },
    opens: 'opens',
    verifies: 'MODEL_CORRUPTED',
    file: layer0
  },
  {
    name: 'a newer major version',
    change: (p) =>
      edit(p, (m) => {
        m.version = '2.0'
      }),
    opens: 'MODEL_VERSION_MISMATCH',
    verifies: 'MODEL_VERSION_MISMATCH'
  },
  {
    name: 'a newer minor version',
    change: (p) =>
      edit(p, (m) => {
        m.version = '1.7'
        m.colour = 'red'
      }),
    opens: 'opens',
    verifies: 'opens'
  },
  {
    name: 'another layout',
    change: (p) =>
      edit(p, (m) => {
        m.layout = 'rows8.0'
      }),
    opens: 'MODEL_VERSION_MISMATCH',
    verifies: 'MODEL_VERSION_MISMATCH'
  },
  {
    name: 'the base of another model',
    change: (p) =>
      edit(p, (m) => {
        m.model.expertsUsed = 1
      }),
    opens: 'CHECKPOINT_INVALID',
    verifies: 'CHECKPOINT_INVALID'
  }
]

t.test('the table of damage', async (t) => {
  const before = addon.counters()
  for (const { name, change, opens, verifies, file } of cases) {
    const path = damaged(change)
    const opened = await opening(path, false)
    t.equal(opened === 'opens' ? 'opens' : opened.code, opens, `${name}, opened`)
    const report = await verifyCheckpoint(path).catch((error: unknown) => {
      if (isEngineError(error)) return { damage: [{ file: undefined, error, fix: error.details.suggestedAction }] }
      throw error
    })
    const damage = report.damage as (Damage | { file: undefined; error: EngineError; fix: string })[]
    t.equal(damage[0]?.error.code ?? 'opens', verifies, `${name}, verified`)
    if (file) t.equal(damage[0]?.file, file, `${name}: the file is named`)
    for (const { error, fix } of damage) {
      t.equal(error.exitCode, catalog[error.code].exitCode)
      t.ok(fix.length > 20 && error.message.length < 1000, `${name}: ${error.message}`)
      if (error.code === 'MODEL_CORRUPTED') {
        t.match(error.details, { expectedSha256: /^[0-9a-f]{64}$/, actualSha256: /^[0-9a-f]{64}$/, file: String })
      }
      if (error.code === 'MODEL_VERSION_MISMATCH') {
        t.match(error.details, { expected: String, actual: String, supported: String })
      }
    }
    const compared = await opening(path, true)
    if (opens !== 'opens') t.not(compared, 'opens', `${name}, compared`)
    else t.equal(compared === 'opens' ? 'opens' : compared.code, verifies, `${name}, compared`)
  }
  t.same(addon.counters(), before, 'everything is given back')
})

t.test('all damage is reported at once, and convert mends it', async (t) => {
  const path = damaged((p) => {
    const { bytes } = manifestOf(p).layers[0].experts[0]
    flip(join(p, layer0), bytes + 7)
    flip(join(p, layer0), 3 * bytes + 7)
    rmSync(join(p, 'base.gguf'))
  })
  const { damage } = await verifyCheckpoint(path)
  t.match(damage, [
    { file: 'base.gguf', error: { code: 'CHECKPOINT_INVALID' } },
    { file: layer0, layer: 0, expert: 1, message: /CRC-32C/ },
    { file: layer0, layer: 0, expert: 3 },
    { file: layer0, message: /SHA-256/ }
  ])
  t.ok(damage.every(({ fix }) => fix.includes('convert model.gguf')))
  t.match(await convertModel({ from: source, to: path }), { written: 2, kept: 1 })
  t.same(hashes(path), hashes(sound))
})

t.test('one flipped bit anywhere is found', async (t) => {
  const draw = random(7)
  const path = damaged(() => {})
  for (const name of Object.keys(hashes(sound))) {
    const { size } = statSync(join(path, name))
    for (let i = 0; i < 12; i++) {
      const at = Math.floor(draw() * size)
      flip(join(path, name), at)
      const failed = await verifyCheckpoint(path).then(
        ({ damage }) => damage.length > 0,
        (error) => isEngineError(error)
      )
      t.ok(failed, `${name}, byte ${at}`)
      flip(join(path, name), at)
    }
  }
  t.same((await verifyCheckpoint(path)).damage, [])
})

t.test(
  'a full disk',
  { skip: process.platform === 'linux' && process.getuid?.() === 0 ? false : 'needs mount' },
  async (t) => {
    const disk = join(folder, 'disk')
    mkdirSync(disk)
    const { status, stderr } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=200k', 'tmpfs', disk], {
      encoding: 'utf8'
    })
    if (status !== 0) return void t.pass('a full disk', { skip: `no tmpfs can be mounted here: ${stderr.trim()}` })
    t.teardown(() => spawnSync('umount', [disk]))
    const before = addon.counters()
    const to = join(disk, 'to')
    const early = await convertModel({ from: source, to }).catch((error) => error)
    t.match(early, { code: 'RESOURCE_DISK_EXHAUSTED', details: { resourceInfo: { unit: 'bytes' } } })
    const { required, available } = early.details.resourceInfo
    t.ok(required > available && available > 0, `${required} needed, ${available} there`)
    t.same(readdirSync(to), [], 'nothing was begun')
    spawnSync('mount', ['-o', 'remount,size=400k', disk])
    const filler = join(disk, 'filler')
    let filled = false
    const late = await convertModel(
      { from: source, to },
      {
        // Others fill the disk while it runs.
        onProgress: ({ file }) => {
          if (filled || file === 'base.gguf') return
          filled = true
          const room = Number(
            spawnSync('df', ['--output=avail', '-B1', disk], { encoding: 'utf8' }).stdout.split('\n')[1]
          )
          writeFileSync(filler, Buffer.alloc(Math.max(0, room - 20_000)))
        }
      }
    ).catch((error) => error)
    t.match(late, { code: 'RESOURCE_DISK_EXHAUSTED', cause: { code: 'FILE_WRITE_FAILED' } })
    t.ok(late.details.resourceInfo.required > late.details.resourceInfo.available)
    const left = readdirSync(to, { recursive: true, encoding: 'utf8' })
    t.notOk(
      left.some((name) => name.includes('.tmp-') || name === 'manifest.json'),
      'nothing half-written'
    )
    t.same(addon.counters(), before)
    rmSync(filler)
    t.match(await convertModel({ from: source, to }), { kept: 1 }, 'it goes on when there is room')
    t.same(hashes(to), hashes(sound))
  }
)

t.test('a manifest that another program wrote', async (t) => {
  const spaced = damaged((p) => {
    const text = sealed(manifestOf(p))
    t.notOk(text.includes('\n'))
    writeFileSync(join(p, 'manifest.json'), text)
  })
  t.equal(await opening(spaced, true), 'opens')
  const moved = damaged((p) => {
    const { checksum, ...rest } = JSON.parse(readFileSync(join(p, 'manifest.json'), 'utf8'))
    writeFileSync(join(p, 'manifest.json'), JSON.stringify({ ...rest, checksum }))
  })
  t.match(await opening(moved, false), { code: 'CHECKPOINT_INVALID', details: { path: 'checksum' } })
  const unknownTier = damaged((p) =>
    edit(p, (m) => {
      m.layers[0].experts.push({ ...m.layers[0].experts[1], expert: 2, tier: 'tier_of_tomorrow', shard: 99 })
      m.tiers[0].placement = 'orbital'
    })
  )
  t.equal(await opening(unknownTier, true), 'opens', 'unknown tiers and placements are ignored')
})

t.test('files that only the archive has', async (t) => {
  const to = join(folder, 'archived')
  const tiers = [
    { name: 'here', placement: 'warm' as const, experts: [0, 1] },
    { name: 'away', placement: 'archive' as const, experts: 'rest' as const }
  ]
  await convertModel({ from: source, to, tiers })
  t.match(await verifyCheckpoint(to), { absent: [], files: 5, damage: [] })
  rmSync(join(to, 'experts/away'), { recursive: true })
  t.match(await verifyCheckpoint(to), {
    absent: ['experts/away/layer-000.bin', 'experts/away/layer-001.bin'],
    files: 3,
    damage: []
  })
  t.match(await opening(to, false), { code: 'CHECKPOINT_INVALID', details: { file: 'experts/away/layer-000.bin' } })
  const { absent, file } = await openCheckpoint(addon, to, { archive: true })
  file.close()
  t.equal(absent.length, 2)
  rmSync(join(to, 'experts/here/layer-000.bin'))
  t.match((await verifyCheckpoint(to)).damage, [{ file: 'experts/here/layer-000.bin' }])
})

t.test('arguments', async (t) => {
  const bad = async (request: object, path: string, options: object = {}) =>
    t.rejects(convertModel(request as never, options as never), { code: 'VALIDATION_ERROR', details: { path } }, path)
  const ways = { from: source, to: join(folder, 'never') }
  await bad({ to: 'x' }, 'from')
  await bad({ from: 'a\0b', to: 'x' }, 'from')
  await bad({ ...ways, tiers: 3 }, 'tiers')
  await bad({ ...ways, tiers: [{ name: 'a', placement: 'hot', experts: { share: 2 } }] }, 'tiers')
  await bad({ ...ways, tiers: [{ name: '../a', placement: 'hot', experts: 'rest' }] }, 'tiers')
  await bad({ ...ways, colour: 'red' }, 'colour')
  await bad(ways, 'signal', { signal: 1 })
  await t.rejects(verifyCheckpoint(3 as never), { code: 'VALIDATION_ERROR', details: { path: 'folder' } })
  await t.rejects(verifyCheckpoint(sound, { signal: AbortSignal.abort() }), { code: 'CANCELLED' })
})
