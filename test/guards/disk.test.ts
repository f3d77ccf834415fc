/** Disks that run short: told once for each level, and blobs of the cold folder go before anything fails. */
import { randomBytes } from 'node:crypto'
import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { EngineEvent } from 'tiered-moe'
import { createEngine } from 'tiered-moe'
import { DiskWatch } from '../../lib/guards/disk-watch.js'
import { watchResources } from '../../lib/guards/resource-watch.js'
import { ColdFolder } from '../archive/setting.js'
import { smallDisk } from '../journal/mounts.js'

const kib = 1024

t.test('levels of a disk, each told once, with room between one and the next', async (t) => {
  const path = smallDisk(t, '2m')
  if (!path) return
  const told: [string, unknown][] = []
  const watch = new DiskWatch({ diskLowBytes: 1024 * kib, diskFullBytes: 256 * kib }, (_, { state, use }) => {
    told.push([state as string, use])
  })
  const made: number[] = []
  const folder = { path, use: 'cold folder', makeRoom: async (bytes: number) => void made.push(bytes) }
  const look = async (takenKib: number) => {
    writeFileSync(join(path, 'ballast'), Buffer.alloc(takenKib * kib))
    await watch.look([folder, { path: join(path, 'a/b/c/none'), use: 'nothing' }])
  }
  for (const taken of [0, 1200, 1300, 1000, 1900, 1900, 1765, 1900, 1765, 1200, 0, 0]) await look(taken)
  t.same(
    told.map(([level]) => level),
    ['low', 'full', 'low', 'enough']
  )
  t.equal(made.length, 3, 'room is made below the limit alone')
  t.ok(
    made.every((bytes) => bytes > 90 * kib && bytes <= 256 * kib),
    `${made} bytes were asked for`
  )
})

t.test('a folder that cannot give anything back is asked again, and nothing else comes of it', async (t) => {
  let asked = 0
  const folder = {
    path: t.testdir(),
    use: 'cold folder',
    makeRoom: async () => {
      asked++
      throw new TypeError('nothing can be deleted')
    }
  }
  const limits = { diskLowBytes: 2 ** 62, diskFullBytes: 2 ** 62, filesLow: 0 }
  const stop = watchResources(
    limits,
    () => [folder],
    () => 0,
    () => {}
  )
  while (asked < 2) await sleep(20)
  await stop()
  t.ok(asked >= 2)
})

t.test('a cold folder gives back what was used least lately, and no more than is wanted', async (t) => {
  const path = join(t.testdir(), 'cold')
  const { folder, leave } = await ColdFolder.open(path, 2 ** 20, () => {})
  t.teardown(leave)
  for (const key of ['a', 'b', 'c']) {
    await folder.receive(key.repeat(64), 1000, (sink) => sink.write(randomBytes(1000), 0))
  }
  folder.hold('a'.repeat(64), 1000)
  folder.release('a'.repeat(64))
  await folder.makeRoom(1500)
  t.same(
    ['a', 'b', 'c'].map((key) => folder.has(key.repeat(64), 1000)),
    [true, false, false]
  )
  t.notOk(existsSync(join(path, 'bb', `${'b'.repeat(64)}.blob`)))
  t.equal(folder.bytes, 1000)
})

t.test('an engine tells of the disk of its journal', async (t) => {
  const disk = smallDisk(t, '1m')
  if (!disk) return
  const events: EngineEvent[] = []
  const guards = { diskLowBytes: 600 * kib, diskFullBytes: 100 * kib }
  const engine = await createEngine({
    threads: 1,
    journal: join(disk, 'journal'),
    guards,
    onEvent: (event) => events.push(event)
  })
  const low = () => events.filter(({ event }) => event === 'resource_low')
  writeFileSync(join(disk, 'ballast'), Buffer.alloc(500 * kib))
  while (low().length < 1) await sleep(10)
  rmSync(join(disk, 'ballast'))
  while (low().length < 2) await sleep(10)
  t.match(low(), [
    { level: 'warn', fields: { resource: 'disk', use: 'journal', path: join(disk, 'journal'), limitBytes: 600 * kib } },
    { level: 'info', fields: { resource: 'disk', availableBytes: Number } }
  ])
  t.ok(statSync(join(disk, 'journal')).isDirectory())
  await engine.dispose()
})
