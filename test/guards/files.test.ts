/** No descriptor is left: what needs one says so, in TypeScript and in the addon, and all of it works again when there are. */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'

const skip = process.platform === 'linux' ? false : 'the descriptors of a process are listed on Linux'

t.test('descriptors run out', { skip }, async (t) => {
  const folder = t.testdir()
  const trace = join(folder, 'trace')
  writeFileSync(trace, 'no trace')
  const command = 'ulimit -n 600; exec "$0" test/guards/files-child.mjs "$1" "$2"'
  const { stdout, stderr } = spawnSync('bash', ['-c', command, process.execPath, folder, trace], { encoding: 'utf8' })
  const { native, read, write, after, low, back } = JSON.parse(stdout || JSON.stringify({ stderr }))
  const exhausted = {
    code: 'RESOURCE_FILES_EXHAUSTED',
    httpStatus: 503,
    retryable: true,
    errno: 'EMFILE',
    resourceInfo: { required: 1, available: 0, current: 600, limit: 600, unit: 'files' }
  }
  t.same(native, exhausted)
  t.same(read, exhausted)
  t.same(write, exhausted)
  t.equal(after, 'no failure')
  t.match(low, [
    { level: 'warn', resource: 'files', state: 'low', limit: 600 },
    { level: 'info', resource: 'files', state: 'enough', limit: 600 }
  ])
  t.equal(back, 0, 'the addon has as many files open as before')
})
