import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from 'tiered-moe'
import { makeReadOnly, mountPoint, smallDisk } from '../journal/mounts.js'

const model = 'tiny-shakespeare'
const small = { contextLength: 64 }

t.test('memory that the machine has not is refused when the engine starts, with the bytes', async (t) => {
  const error = await createEngine({ memory: '1000TiB' }).catch((error) => error)
  const required = 1000 * 2 ** 40
  t.match(error, { code: 'RESOURCE_MEMORY_EXHAUSTED', details: { resourceInfo: { required, unit: 'bytes' } } })
  const { available } = error.details.resourceInfo
  t.ok(available > 0)
  t.same(error.details.alternatives, [{ change: 'memory', value: available, required: available }])
  for (const memory of ['much', 0, -1, 1.5]) {
    await t.rejects(createEngine({ memory }), { code: 'VALIDATION_ERROR' })
  }
})

t.test('models share what the engine may take', async (t) => {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 32, memory: '24MiB' })
  await engine.loadModel({ id: 'a', memory: '8MiB', ...small })
  await engine.loadModel({ id: 'b', ...small })
  const [a, b] = engine.listModels().map(({ memory }) => memory)
  t.same([a!.memory, b!.memory], [8 * 2 ** 20, 16 * 2 ** 20], 'the second one may take all that is left')
  const third = await engine.loadModel({ id: 'c', memory: '12MiB', ...small }).catch((error) => error)
  const { required, available, current, limit } = third.details.resourceInfo
  t.equal(third.code, 'RESOURCE_MEMORY_EXHAUSTED')
  t.same(
    [required, available, current, limit],
    [12, 0, 24, 24].map((mebibytes) => mebibytes * 2 ** 20)
  )
  t.same(third.details.alternatives, [], 'nothing is left')
  await engine.unloadModel('b')
  const large = await engine.loadModel({ id: 'c', memory: '17MiB', ...small }).catch((error) => error)
  const [less] = large.details.alternatives
  t.same(less, { change: 'memory', value: 16 * 2 ** 20, required: 16 * 2 ** 20 })
  await engine.loadModel({ id: 'c', memory: less.value, ...small })
  await engine.unloadModel('c')
  await engine.loadModel({ id: 'c', memory: '12MiB', ...small })
  await t.rejects(engine.loadModel({ id: 'd', memory: '4MiB', contextLength: 10_000 }), { code: 'VALIDATION_ERROR' })
  await t.rejects(engine.loadModel({ id: 'e', memory: '1MiB' }), { code: 'RESOURCE_BUDGET_TOO_SMALL' })
  await engine.loadModel({ id: 'f', memory: '4MiB', ...small }, {})
  await engine.dispose()
})

t.test('without a limit a model takes what it needs', async (t) => {
  const engine = await createEngine({ threads: 1 })
  await engine.loadModel()
  t.equal((await engine.generate({ model, prompt: 'x', maxTokens: 3, ignoreEos: true })).tokens.length, 3)
  await engine.dispose()
})

t.test('room on a disk', async (t) => {
  const folder = join(t.testdir(), 'a/b')
  const engine = await createEngine({ staging: { folder, bytes: '1MiB' } })
  t.ok(existsSync(folder))
  t.same(readdirSync(folder), [], 'nothing is left there')
  await engine.dispose()
  const file = join(t.testdirName, 'file')
  writeFileSync(file, '')
  await t.rejects(createEngine({ staging: { folder: file, bytes: 1 } }), { code: 'FILE_WRITE_FAILED' })
  await t.rejects(createEngine({ staging: { folder, bytes: '4000TiB' } }), {
    code: 'RESOURCE_DISK_EXHAUSTED',
    details: { path: folder, resourceInfo: { required: 4000 * 2 ** 40, unit: 'bytes' } }
  })
})

t.test('a small disk, and one that cannot be written', async (t) => {
  const disk = smallDisk(t, '64k')
  if (!disk) return
  const before = await createEngine({ staging: { folder: disk, bytes: 32768 } })
  const counters = before.counters()
  await before.dispose()
  await t.rejects(createEngine({ staging: { folder: disk, bytes: '128kB' } }), {
    code: 'RESOURCE_DISK_EXHAUSTED',
    details: { resourceInfo: { required: 128_000, available: 65_536 } }
  })
  const locked = mountPoint(t)
  if (makeReadOnly(locked)) {
    await t.rejects(createEngine({ staging: { folder: locked, bytes: 1 } }), {
      code: 'FILE_WRITE_FAILED',
      details: { errno: 'EROFS' }
    })
  }
  const after = await createEngine()
  t.same(after.counters(), counters, 'an engine that did not start holds nothing')
  await after.dispose()
})
