/** Conversions that are killed: the script of bench/ at a small scale; its own default is 50 kills. */
import { spawnSync } from 'node:child_process'
import t from 'tap'

t.test('never a manifest that verifies but lies; the same command goes on', async (t) => {
  const folder = t.testdir({})
  const args = ['bench/convert-kill.mjs', '--kills', '6', '--seed', '3', '--folder', folder, '--json']
  const { stdout, stderr, status } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  t.equal(status, 0, stderr)
  const { killed, failures, found } = JSON.parse(stdout)
  t.equal(killed, 6, JSON.stringify(found))
  t.same(failures, [])
})
