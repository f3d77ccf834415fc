/** The folder of blobs that came from the archive: bounded, whole files only, and what a killed process leaves. */
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createError } from '../../lib/errors/index.js'
import { ColdFolder, seededBytes, temporaryFolder } from './setting.js'

const size = 8192
const blob = (seed: number) => {
  const bytes = seededBytes(size, seed)
  return { bytes, key: createHash('sha256').update(bytes).digest('hex') }
}
const blobs = [1, 2, 3, 4, 5, 6].map(blob)

async function openFolder(path: string, limit: number) {
  const evicted: string[] = []
  const { folder, leave } = await ColdFolder.open(path, limit, (key) => evicted.push(key))
  const receive = ({ key, bytes }: { key: string; bytes: Buffer }) =>
    folder.receive(key, size, (sink) => sink.write(bytes, 0))
  const held = () => blobs.flatMap(({ key }, index) => (folder.has(key, size) ? [index] : []))
  const onDisk = () =>
    readdirSync(path, { recursive: true, encoding: 'utf8' }).reduce((sum, name) => {
      const info = statSync(join(path, name))
      return info.isFile() && name !== '.lock' ? sum + info.size : sum
    }, 0)
  return {
    folder,
    leave,
    evicted,
    receive,
    held,
    onDisk,
    keys: () => evicted.map((key) => blobs.findIndex((b) => b.key === key))
  }
}

t.test('least recently used first, and never more bytes than allowed', async (t) => {
  const path = temporaryFolder(t)
  const { folder, receive, held, onDisk, keys } = await openFolder(path, 3 * size)
  for (const index of [0, 1, 2]) await receive(blobs[index]!)
  t.ok(folder.hold(blobs[0]!.key, size))
  folder.release(blobs[0]!.key)
  await receive(blobs[3]!)
  t.same(held(), [0, 2, 3])
  t.same(keys(), [1])
  await Promise.all([4, 5, 1].map((index) => receive(blobs[index]!)))
  t.same(held(), [1, 4, 5], 'some that come at once do not share one room')
  t.equal(onDisk(), 3 * size)
  t.match(folder, { bytes: 3 * size, blobs: 3 })
  t.notOk(folder.has(blobs[1]!.key, size - 1), 'a blob of another size is another blob')
  t.equal(folder.hold(blobs[0]!.key, size), undefined)
})

t.test('what a reader holds stays; room is waited for', async (t) => {
  const { folder, receive, held } = await openFolder(temporaryFolder(t), 2 * size)
  for (const index of [0, 1]) await receive(blobs[index]!)
  for (const index of [0, 1]) t.ok(existsSync(folder.hold(blobs[index]!.key, size)!))
  let arrived = false
  const waiting = receive(blobs[2]!).then(() => {
    arrived = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  t.notOk(arrived)
  folder.release(blobs[1]!.key)
  await waiting
  t.same(held(), [0, 2])
})

t.test('the order of use survives a restart; a smaller limit evicts', async (t) => {
  const path = temporaryFolder(t)
  const { folder, receive, leave } = await openFolder(path, 4 * size)
  for (const index of [0, 1, 2]) await receive(blobs[index]!)
  leave()
  const later = new Date(Date.now() + 5000)
  const first = readdirSync(path, { recursive: true, encoding: 'utf8' }).find((name) => name.includes(blobs[0]!.key))!
  utimesSync(join(path, first), later, later)
  const again = await openFolder(path, 4 * size)
  t.not(again.folder, folder, 'it is read anew')
  t.same(again.held(), [0, 1, 2])
  again.leave()
  const smaller = await openFolder(path, size)
  t.same(smaller.held(), [0])
  t.equal(smaller.onDisk(), size)
})

t.test('a blob that fails while it is written leaves nothing', async (t) => {
  const path = temporaryFolder(t)
  const { folder, held, onDisk } = await openFolder(path, 4 * size)
  const failing = folder.receive(blobs[0]!.key, size, async (sink) => {
    await sink.write(blobs[0]!.bytes.subarray(0, 100), 0)
    throw createError('CANCELLED', 'no longer wanted')
  })
  await t.rejects(failing, { code: 'CANCELLED' })
  t.same(held(), [])
  t.match(folder, { bytes: 0, blobs: 0 })
  t.equal(onDisk(), 0)
})

t.test('those of one process share it: the least of their limits holds, until its owner leaves', async (t) => {
  const path = temporaryFolder(t)
  const large = await openFolder(path, 4 * size)
  for (const index of [0, 1, 2, 3]) await large.receive(blobs[index]!)
  const [small, same] = await Promise.all([openFolder(path, 2 * size), openFolder(join(path, '.'), 9 * size)])
  t.equal(small.folder, large.folder)
  t.equal(same.folder, large.folder)
  t.same(large.held(), [2, 3])
  t.same(large.keys(), [0, 1], 'all hear of it')
  await large.receive(blobs[4]!)
  t.equal(large.onDisk(), 2 * size)
  small.leave()
  small.leave()
  await large.receive(blobs[5]!)
  t.equal(large.onDisk(), 3 * size)
  large.leave()
  same.leave()
  const again = await openFolder(path, 9 * size)
  t.same(again.held(), [3, 4, 5])
})

t.test('another process has it, alive or killed while it writes', async (t) => {
  const path = temporaryFolder(t)
  const code = `
    import { ColdFolder } from ${JSON.stringify(join(process.cwd(), 'dist/esm/archive/cold-folder.js'))}
    const { folder } = await ColdFolder.open(${JSON.stringify(path)}, 1e6, () => {})
    await folder.receive('${blobs[0]!.key}', ${size}, async (sink) => {
      await sink.write(Buffer.alloc(100), 0)
      process.stdout.write('half')
      await new Promise((resolve) => setTimeout(resolve, 60000))
    })`
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise((resolve) => child.stdout.once('data', resolve))
  const refused = { code: 'COLD_FOLDER_LOCKED', details: { path, pid: child.pid } }
  await t.rejects(openFolder(path, 1e6), refused)
  await t.rejects(openFolder(path, 1e6), refused, 'and what was refused has left nothing')
  t.equal(readdirSync(path).length, 2, 'the lock, and half a blob')
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await ended
  const after = await openFolder(path, 1e6)
  t.same(after.held(), [])
  t.equal(after.onDisk(), 0)
  await after.receive(blobs[0]!)
  t.same(after.held(), [0])
})

t.test('two that share a folder leave what the other receives alone', async (t) => {
  const path = temporaryFolder(t)
  const first = await openFolder(path, 1e6)
  let fill: () => void = () => {}
  const filled = new Promise<void>((resolve) => {
    fill = resolve
  })
  const { key, bytes } = blobs[0]!
  const receiving = first.folder.receive(key, size, async (sink) => {
    await sink.write(bytes, 0)
    await filled
  })
  while (first.onDisk() < size) await new Promise(setImmediate)
  const second = await openFolder(path, 1e6)
  await second.receive(blobs[1]!)
  fill()
  await receiving
  t.same(first.held(), [0, 1])
  for (const { leave } of [first, second]) leave()
  t.same((await openFolder(path, 1e6)).held(), [0, 1])
})

t.test('what another machine left is removed when nobody has written to it for an hour', async (t) => {
  const path = temporaryFolder(t)
  const left = [1, 2].map((n) => join(path, `.partial-${n}.elsewhere`))
  for (const name of left) writeFileSync(name, 'half')
  utimesSync(left[0]!, 0, Date.now() / 1000 - 3700)
  await openFolder(path, 1e6)
  t.same(
    left.map((name) => existsSync(name)),
    [false, true]
  )
})

t.test('files of others in the folder are not looked at', async (t) => {
  const path = temporaryFolder(t)
  const { key } = blobs[0]!
  mkdirSync(join(path, 'elsewhere', key.slice(0, 2)), { recursive: true })
  const foreign = [join(path, `${key}.blob`), join(path, 'elsewhere', key.slice(0, 2), `${key}.blob`)]
  for (const name of foreign) writeFileSync(name, Buffer.alloc(size))
  const { held, folder } = await openFolder(path, 1)
  t.same(held(), [])
  t.equal(folder.bytes, 0)
  t.ok(foreign.every((name) => existsSync(name)))
})

t.test('a folder that is removed while it is in use is made again', async (t) => {
  const path = temporaryFolder(t)
  const { receive, held } = await openFolder(join(path, 'cold'), 1e6)
  await receive(blobs[0]!)
  rmSync(join(path, 'cold'), { recursive: true })
  await receive(blobs[1]!)
  await receive(blobs[0]!)
  t.same(held(), [0, 1])
})

/** A file system of its own, where this process may make one. */
function smallDisk(t: Test, bytes: number): string | undefined {
  const path = temporaryFolder(t)
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', path])
  if (status !== 0) return undefined
  t.teardown(() => spawnSync('umount', ['-l', path]))
  return path
}

t.test('a full disk', async (t) => {
  const path = smallDisk(t, 6 * 4096)
  if (path === undefined) {
    t.pass('a full disk', { skip: 'a file system cannot be mounted here' })
    return
  }
  const { receive, held, folder } = await openFolder(path, 1e6)
  await receive(blobs[0]!)
  writeFileSync(join(path, 'filler'), Buffer.alloc(2 * 4096))
  await t.rejects(receive(blobs[1]!), { code: 'FILE_WRITE_FAILED', details: { errno: 'ENOSPC' } })
  t.same(held(), [0])
  t.equal(folder.bytes, size)
})

t.test('a folder that cannot be', async (t) => {
  const path = temporaryFolder(t)
  writeFileSync(join(path, 'file'), '')
  await t.rejects(openFolder(join(path, 'file', 'cold'), 1e6), { code: 'FILE_WRITE_FAILED' })
  if (process.getuid?.() === 0) return
  mkdirSync(join(path, 'closed'))
  chmodSync(join(path, 'closed'), 0)
  await t.rejects(openFolder(join(path, 'closed'), 1e6), { code: 'FILE_READ_FAILED' })
})
