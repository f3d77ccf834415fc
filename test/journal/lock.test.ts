import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { native } from '../../lib/native.js'

t.test('a file is locked for one descriptor, until that is closed', async (t) => {
  const addon = native()
  const path = join(t.testdir({ lock: '' }), 'lock')
  const [first, second] = [openSync(path, 'r'), openSync(path, 'r')]
  t.ok(addon.tryLockFile(first))
  t.ok(addon.tryLockFile(first), 'it has it already')
  t.notOk(addon.tryLockFile(second))
  closeSync(first)
  t.ok(addon.tryLockFile(second))
  closeSync(second)
  t.throws(() => addon.tryLockFile(1_000_000), { code: 'FILE_WRITE_FAILED', details: { errno: 'EBADF' } })
  for (const wrong of [-1, 0.5, 2 ** 31, '1', undefined, {}]) {
    t.throws(() => addon.tryLockFile(wrong as number), { code: 'VALIDATION_ERROR' })
  }
})
