/** bench/kill.mjs at its smallest: the same parent, child and checks as its 300 kills. */
import { spawnSync } from 'node:child_process'
import t from 'tap'

t.test('three SIGKILLs: every text is that of an undisturbed run, and no request is lost or doubled', async (t) => {
  const args = ['bench/kill.mjs', '--kills', '3', '--seed', '7']
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  t.equal(status, 0, stdout + stderr)
  const [, kills, texts] = /^(\d+) kills .*?: (\d+) texts identical/m.exec(stdout)!
  t.equal(Number(kills), 3)
  t.ok(Number(texts) >= 3, `${texts} texts`)
})
