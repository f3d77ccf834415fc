import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  cpSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { encodeRecord } from '../../lib/journal/frame.js'
import { fillDisk, makeReadOnly, mountPoint, smallDisk } from './mounts.js'
import { bytesOf, loadModel, open, program, segmentsIn, usage } from './open.js'

const request = { model: 'tiny', promptTokens: [5, 6], seed: 1 }
const isRoot = process.getuid?.() === 0

/** A small journal of one segment: two requests, one of them finished. Returns the segment's bytes. */
async function smallJournal(folder: string): Promise<Buffer> {
  const journal = await open(folder)
  const load = loadModel(journal)
  await journal.accept('first', load, request)
  for (let i = 0; i < 4; i++) journal.produced('first', i, { token: i })
  await journal.accept('second', load, request)
  journal.finished('first', 'length', usage(4))
  await journal.close()
  return bytesOf(folder, '00000001.journal')
}

/** Where each record of a segment ends. */
function endsOf(bytes: Buffer): number[] {
  const ends: number[] = []
  for (let at = 0; at < bytes.length; ) {
    at += 12 + bytes.readUInt32LE(at + 4)
    ends.push(at)
  }
  return ends
}

t.test('cut at every byte: read up to the cut, and the rest reported; without its head refused', async (t) => {
  const folder = t.testdir()
  const bytes = await smallJournal(folder)
  const ends = endsOf(bytes)
  const acceptedAt = bytes.indexOf('"accepted"')
  t.ok(ends.length >= 6, `${ends.length} records`)
  for (let length = 0; length < bytes.length; length++) {
    const path = join(folder, '00000001.journal')
    writeFileSync(path, bytes.subarray(0, length))
    if (length < ends[0]!) {
      await t.rejects(
        open(folder),
        { code: 'JOURNAL_CORRUPTED', details: { damage: [{ offset: 0 }] } },
        `${length} bytes`
      )
      t.equal(statSync(path).size, length, 'a refusal changes nothing')
      continue
    }
    const journal = await open(folder)
    const whole = ends.filter((end) => end <= length).at(-1)!
    const { cut, requests } = journal.recovered
    t.same(
      cut,
      whole === length ? undefined : { file: path, offset: whole, bytes: length - whole, reason: 'incomplete' }
    )
    if (length > acceptedAt + 200) t.ok(requests.length > 0)
    // It goes on where it was cut.
    const load = loadModel(journal)
    await journal.accept('third', load, request)
    await journal.close()
    const again = await open(folder)
    t.equal(again.recovered.requests.at(-1)?.requestId, 'third')
    t.equal(again.recovered.cut, undefined)
    await again.close()
  }
})

t.test('a flipped bit: refused before the last record, cut off and reported in it', async (t) => {
  const folder = t.testdir()
  const bytes = await smallJournal(folder)
  const path = join(folder, '00000001.journal')
  const last = endsOf(bytes).at(-2)!
  for (let at = 0; at < bytes.length; at += 7) {
    const flipped = Buffer.from(bytes)
    flipped[at]! ^= 1 << (at & 7)
    writeFileSync(path, flipped)
    if (at < last) {
      await t.rejects(open(folder), { code: 'JOURNAL_CORRUPTED', severity: 'fatal' }, `byte ${at}`)
      t.ok(readFileSync(path).equals(flipped), 'a refusal changes nothing')
    } else {
      const journal = await open(folder)
      t.match(journal.recovered.cut, { offset: last, bytes: bytes.length - last })
      t.match(journal.recovered.requests, [{ requestId: 'first', state: 'running', completionTokens: 4 }, {}])
      await journal.close()
    }
  }
})

t.test('salvage keeps what can be read, says what cannot, and puts the files aside', async (t) => {
  const folder = t.testdir()
  const bytes = await smallJournal(folder)
  const path = join(folder, '00000001.journal')
  const at = bytes.indexOf('"id":"second"')
  bytes[at + 7]! ^= 1
  writeFileSync(path, bytes)
  await t.rejects(open(folder), {
    code: 'JOURNAL_CORRUPTED',
    details: { readableRequests: 1, damage: [{ file: path, reason: 'checksum' }] }
  })
  const journal = await open(folder, { onDamage: 'salvage' })
  t.match(journal.recovered.damage, [{ file: path, reason: 'checksum' }])
  t.match(journal.recovered.requests, [{ requestId: 'first', state: 'finished', completionTokens: 4 }])
  t.equal(journal.recovered.requests.length, 1)
  await journal.close()
  t.same(segmentsIn(folder), ['00000002.journal'])
  t.ok(readFileSync(`${path}.damaged`).equals(bytes))
  const again = await open(folder)
  t.equal(again.recovered.requests.length, 1)
  await again.close()
})

t.test('a segment that is missing, empty, or from a later version', async (t) => {
  const folder = t.testdir()
  const journal = await open(folder, { segmentBytes: 1500 })
  const load = loadModel(journal)
  for (let i = 0; i < 20; i++) await journal.accept(`${i}`, load, request)
  await journal.close()
  const names = segmentsIn(folder)
  t.ok(names.length >= 3, `${names.length} segments`)
  const copy = join(folder, 'copy')
  const damaged = async (
    change: (path: string) => void,
    expected: { code: string; details?: object },
    message: string
  ) => {
    rmSync(copy, { recursive: true, force: true })
    mkdirSync(copy)
    for (const name of names) cpSync(join(folder, name), join(copy, name))
    change(join(copy, names.at(-2)!))
    await t.rejects(open(copy), expected, message)
  }
  await damaged((path) => rmSync(path), { code: 'JOURNAL_CORRUPTED' }, 'missing')
  await damaged((path) => truncateSync(path), { code: 'JOURNAL_CORRUPTED' }, 'empty')
  await damaged(
    (path) => truncateSync(path, statSync(path).size - 1),
    { code: 'JOURNAL_CORRUPTED' },
    'cut, with another behind it'
  )
  await damaged(
    (path) => rmSync(join(path, '..', names[0]!)),
    { code: 'JOURNAL_CORRUPTED' },
    'the first one is missing'
  )
  const later = encodeRecord({ type: 'segment', format: 2, number: names.length - 1, compacted: false })
  await damaged(
    (path) => writeFileSync(path, later),
    { code: 'JOURNAL_VERSION_UNSUPPORTED', details: { actual: 2 } },
    'a later format'
  )
  const strange = encodeRecord({ type: 'strange' } as never)
  await damaged(
    (path) => appendFileSync(join(path, '..', names.at(-1)!), strange),
    { code: 'JOURNAL_CORRUPTED' },
    'sound bytes that are no record'
  )
})

t.test('folders that cannot be used', async (t) => {
  const folder = t.testdir({ file: 'text', loop: {} })
  const link = join(folder, 'link')
  symlinkSync(link, link)
  await t.rejects(open(join(folder, 'file/below')), { code: 'FILE_WRITE_FAILED', details: { errno: 'ENOTDIR' } })
  await t.rejects(open(link), { code: 'FILE_WRITE_FAILED' })
  const occupied = join(folder, 'occupied')
  mkdirSync(join(occupied, '00000001.journal'), { recursive: true })
  await t.rejects(open(occupied), { code: 'FILE_READ_FAILED', details: { errno: 'EISDIR' } })
  const leftover = join(folder, 'leftover')
  mkdirSync(join(leftover, '00000001.journal.tmp'), { recursive: true })
  await t.rejects(open(leftover), { code: 'FILE_WRITE_FAILED' })
  // Where node's own recursive mkdir never ends.
  await t.rejects(open('/proc/journal'), { code: 'FILE_WRITE_FAILED', details: { errno: 'ENOENT' } })
})

t.test('without permission', async (t) => {
  const folder = mountPoint(t)
  const written = join(folder, 'unreadable')
  await smallJournal(written)
  const denied = async (path: string, code: string) =>
    t.rejects(open(path), { code, details: { errno: 'EACCES' } }, `${path}: ${code}`)
  for (const [name, mode] of Object.entries({ closed: 0o000, fixed: 0o500 })) mkdirSync(join(folder, name), { mode })
  chmodSync(join(written, '00000001.journal'), 0)
  // What root may do, nobody may not.
  const nobody = 65534
  for (const path of ['closed', 'fixed', 'unreadable', 'unreadable/lock', 'unreadable/00000001.journal', '']) {
    if (isRoot) chownSync(join(folder, path), nobody, nobody)
  }
  if (isRoot) process.seteuid!(nobody)
  try {
    await denied(join(folder, 'closed'), 'FILE_WRITE_FAILED')
    await denied(join(folder, 'fixed'), 'FILE_WRITE_FAILED')
    await denied(written, 'FILE_READ_FAILED')
  } finally {
    if (isRoot) process.seteuid!(0)
  }
})

t.test('a read-only file system', async (t) => {
  const target = mountPoint(t)
  await smallJournal(target)
  if (!makeReadOnly(target)) {
    t.comment('skipped: nothing can be mounted here')
    return
  }
  await t.rejects(open(target), { code: 'FILE_WRITE_FAILED', details: { errno: 'EROFS' } })
})

t.test('a full disk', async (t) => {
  const folder = t.testdir()
  const target = smallDisk(t, '128k')
  if (!target) return
  const path = join(target, 'journal')
  const journal = await open(path, { segmentBytes: 1 << 20 })
  const load = loadModel(journal)
  await journal.accept('running', load, request)
  writeFileSync(join(target, 'half'), Buffer.alloc(64 << 10))
  const large = { ...request, promptTokens: Array(2000).fill(123456) }
  const outcomes: string[] = []
  for (let i = 0; i < 10; i++) {
    await journal.accept(`${i}`, load, large).then(
      () => outcomes.push('ok'),
      (error) => {
        outcomes.push(error.code)
        const { required, available, unit } = error.details.resourceInfo
        t.ok(required > 10_000 && available < required && unit === 'bytes', `${required} of ${available}`)
        t.equal(journal.get(`${i}`), undefined, 'refused is not here')
      }
    )
  }
  t.same(new Set(outcomes), new Set(['ok', 'JOURNAL_WRITE_FAILED']))
  const accepted = outcomes.filter((outcome) => outcome === 'ok').length
  // Fill what is left: not even the tokens of the one that runs fit now.
  const free = fillDisk(target)
  for (let i = 0; i < 3000; i++) journal.produced('running', i, { token: 100_000 + i })
  await t.rejects(journal.flush(), { code: 'JOURNAL_WRITE_FAILED', details: { errno: 'ENOSPC' } })
  t.equal(journal.get('running')?.tokens.length, 3000, 'it runs on')
  const copy = join(folder, 'copy')
  cpSync(path, copy, { recursive: true })
  const half = await open(copy)
  t.equal(half.recovered.cut, undefined, 'nothing half-written')
  t.equal(half.recovered.requests.length, 1 + accepted)
  await half.close()
  free()
  rmSync(join(target, 'half'))
  await journal.accept('again', load, request)
  await journal.close()
  const again = await open(path)
  t.equal(again.recovered.requests.length, 2 + accepted)
  t.equal(again.get('running')?.tokens.length, 3000, 'what had to wait was written with it')
  await again.close()
})

t.test('a full disk at the very beginning', async (t) => {
  const target = smallDisk(t, '16k')
  if (!target) return
  mkdirSync(join(target, 'journal'))
  try {
    writeFileSync(join(target, 'ballast'), Buffer.alloc(32 << 10))
  } catch {}
  await t.rejects(open(join(target, 'journal')), {
    code: 'JOURNAL_WRITE_FAILED',
    details: { resourceInfo: { unit: 'bytes' } }
  })
})

t.test('killed while it writes: always readable', async (t) => {
  const folder = join(t.testdir(), 'journal')
  const args = program(
    folder,
    `const load = journal.modelLoaded({ id: 'tiny', path: '/tiny', identity: { bytes: 1, modifiedNs: '1', sha256: 'a', sampled: false }, options: {}, contextLength: 1, routingSeed: '', tiersSha256: '' })
    const known = journal.recovered.requests.map(({ requestId }) => requestId)
    console.log('known ' + known.join(' '))
    for (let i = 0; ; i++) {
      const id = process.pid + '-' + i
      await journal.accept(id, load, { promptTokens: Array(20).fill(i) })
      console.log('accepted ' + id)
      for (let n = 0; n < 5; n++) journal.produced(id, n, { token: n })
      if (i % 3) {
        await journal.acknowledge(id)
        console.log('acknowledged ' + id)
      }
    }`
  )
  const needed = new Set<string>()
  const maybe = new Set<string>()
  for (let round = 0; round < 6; round++) {
    const child = spawn(process.execPath, args)
    let output = ''
    child.stdout.on('data', (data) => {
      output += data
      if (output.split('\n').length > 20 + 17 * round) child.kill('SIGKILL')
    })
    let errors = ''
    child.stderr.on('data', (data) => {
      errors += data
    })
    await once(child, 'close')
    t.equal(errors, '', `round ${round}`)
    for (const line of output.split('\n').slice(0, -1)) {
      const [what, ...ids] = line.split(' ')
      if (what === 'known') {
        const found = new Set(ids)
        for (const id of needed) if (!found.has(id)) t.fail(`${id} was lost`)
        for (const id of found) if (id !== '' && !needed.has(id)) maybe.add(id)
        t.equal(found.size, ids.length, 'none twice')
        for (const id of ids) if (id !== '') needed.add(id)
      }
      if (what === 'accepted') needed.add(ids[0]!)
      if (what === 'acknowledged') needed.delete(ids[0]!)
    }
    // The last one's acknowledgement may be on disk though nobody heard of it.
    const last = [...needed].at(-1)
    if (last) needed.delete(last)
  }
  t.ok(needed.size > 5, `${needed.size} requests, ${maybe.size} that were on disk before the parent heard of it`)
})

t.test('a folder that is removed while it is in use: nothing is accepted until it is back', async (t) => {
  const folder = join(t.testdir(), 'journal')
  const journal = await open(folder)
  const load = loadModel(journal)
  await journal.accept('running', load, request)
  rmSync(folder, { recursive: true })
  const refused = { code: 'JOURNAL_WRITE_FAILED', details: { errno: 'ENOENT' } }
  for (const id of ['lost', 'again']) {
    await t.rejects(journal.accept(id, load, request), refused)
    t.equal(journal.get(id), undefined)
  }
  journal.produced('running', 0, { token: 7 })
  const first = journal.flush()
  await new Promise(setImmediate)
  const second = journal.flush()
  await t.rejects(first, refused)
  await t.rejects(second, refused, 'one that comes while a group is refused does not take it for written')
  mkdirSync(folder)
  await journal.accept('back', load, request)
  await journal.close()
  const again = await open(folder)
  t.match(again.recovered.requests, [{ requestId: 'running', completionTokens: 1 }, { requestId: 'back' }])
  t.equal(again.recovered.requests.length, 2)
  await again.close()
})

t.test('a closed journal writes nothing', async (t) => {
  const folder = join(t.testdir(), 'journal')
  const journal = await open(folder)
  const load = loadModel(journal)
  await journal.accept('running', load, request)
  await Promise.all([journal.close(), journal.close()])
  const before = bytesOf(folder, '00000001.journal')
  journal.finished('running', 'stop', usage(0))
  await t.rejects(journal.accept('late', load, request), { code: 'ENGINE_DISPOSED' })
  await journal.flush()
  t.same(bytesOf(folder, '00000001.journal'), before)
})
