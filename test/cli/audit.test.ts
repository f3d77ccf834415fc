import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { command, notBuilt } from './command.js'

const skip =
  notBuilt || (existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon')

t.test('run --audit, then audit verify', { skip }, async (t) => {
  const file = join(t.testdir(), 'audit.log')
  const run = ['run', '-p', 'ROMEO:', '-n', '3', '--seed', '1', '--audit', file]
  t.equal((await command(run)).code, 0)
  const first = JSON.parse((await command(['audit', 'verify', file, '--json'])).stdout)
  t.match(first, { path: file, runs: 1, closed: true, tornBytes: 0, hash: /^[0-9a-f]{64}$/ })
  t.equal((await command([...run, '--threads', '1'])).code, 0)
  const { code, stdout } = await command(['audit', 'verify', file, '--seal', first.seal])
  t.equal(code, 0)
  t.match(stdout, new RegExp(`records of 2 runs hold\\n  last run: ${first.hash}`), 'the same run has the same hash')

  const text = readFileSync(file, 'utf8')
  writeFileSync(file, text.replace('"layers":4', '"layers":5'))
  const changed = await command(['audit', 'verify', file])
  t.equal(changed.code, 1)
  t.match(changed.stderr, /line \d was changed: its hash does not match its data[\s\S]*AUDIT_LOG_INVALID/)
  t.equal((await command(run)).code, 1, 'nothing is appended to it')

  const cut = text.slice(0, text.lastIndexOf('\n', text.length - 2) + 1)
  writeFileSync(file, cut)
  t.match(await command(['audit', 'verify', file]), { code: 1, stderr: /the end was cut off/ })
  t.match(await command(['audit', 'verify', file, '--open']), { code: 0 })
  writeFileSync(file, `${cut}{"run":2`)
  t.match(await command(['audit', 'verify', file]), { code: 1, stderr: /8 bytes of a torn line/ })
  t.match(await command(['audit', 'verify', file, '--seal', '0'.repeat(64), '--open']), { code: 1 })
  t.match(await command(['audit', 'verify', join(t.testdirName, 'none')]), { code: 1, stderr: /FILE_READ_FAILED/ })
  t.match(await command(['audit', 'verify']), { code: 2 })
})

t.test('run --drain: a signal lets the answer end, a second one does not', { skip }, async (t) => {
  const run = ['run', '-p', 'ROMEO:', '-n', '240', '--ignore-eos', '--seed', '1']
  const whole = await command(run)
  for (const signals of [['SIGTERM'], ['SIGINT']] as const) {
    let sent = 0
    const { code, stdout, stderr } = await command([...run, '--drain', '60'], {
      onOutput: (child) => {
        if (sent < signals.length && child.kill(signals[sent]!)) sent++
      }
    })
    t.equal(code, 0, stderr)
    t.equal(stdout.split('\n[load')[0], whole.stdout.split('\n[load')[0], 'the whole answer')
  }
  let sent = false
  const none = await command([...run, '--drain', '0'], {
    onOutput: (child) => {
      if (!sent) sent = child.kill('SIGTERM')
    }
  })
  t.equal(none.code, 0)
  t.ok(none.stdout.length < whole.stdout.length, 'no time to drain is the end at once')
})
