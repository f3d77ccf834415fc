/** `tiered-moe pull` as a user runs it; bench/pull.mjs breaks it at 200 seeded moments, here at some. */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { seededBytes } from '../archive/setting.js'
import { command, notBuilt } from '../cli/command.js'
import { startFaultyProxy } from '../fixtures/faulty-proxy.js'
import { nginxMissing, startNginx } from '../fixtures/nginx.js'

if (nginxMissing || notBuilt) {
  t.plan(0, nginxMissing || notBuilt || '')
  process.exit(0)
}
const nginx = await startNginx()
t.teardown(() => nginx.stop())
const proxy = await startFaultyProxy(nginx.port)
t.teardown(() => proxy.close())
const bytes = seededBytes(400_000, 1)
writeFileSync(join(nginx.files, 'model.gguf'), bytes, { mode: 0o644 })
const sha256 = createHash('sha256').update(bytes).digest('hex')

t.test('Ctrl-C in the middle, then the same command again', async (t) => {
  const folder = t.testdir()
  const to = join(folder, 'model.gguf')
  const pull = ['pull', `${proxy.url}/model.gguf`, '--to', `${folder}/`, '--sha256', sha256]
  proxy.faults = [{ kind: 'stall', after: 200_000 }]
  let ended = false
  const interrupted = await command(pull, {
    onStart: async (child) => {
      while (!ended && !(statSync(`${to}.part`, { throwIfNoEntry: false })?.size ?? 0)) await sleep(5)
      child.kill('SIGINT')
    }
  })
  ended = true
  t.match(interrupted, { code: 130, stdout: '', stderr: /^interrupted$/m })
  t.ok(existsSync(`${to}.part`) && !existsSync(to))
  const { code, stdout } = await command([...pull, '--json'])
  t.equal(code, 0)
  t.match(JSON.parse(stdout), { url: `${proxy.url}/model.gguf`, path: to, bytes: bytes.length, sha256, resumed: 1 })
  t.ok(readFileSync(to).equals(bytes))
})

t.test('failures end with the catalogue’s exit codes', async (t) => {
  const folder = t.testdir({
    'quick.yaml': `network: { retry: { attempts: 2, delays_ms: [1], jitter_ms: 0 } }\ndownload: { folder: FOLDER }\n`
  })
  const config = join(folder, 'quick.yaml')
  writeFileSync(config, readFileSync(config, 'utf8').replace('FOLDER', join(folder, 'models')))
  const pull = (path: string, ...more: string[]) =>
    command(['pull', `${nginx.url}${path}`, '--config', config, ...more])
  const [broken, header, unnamed, below] = await Promise.all([
    pull('/broken/x'),
    pull('/locked/model.gguf', '--header', 'Authorization: Bearer 1234'),
    pull('/?signature=secret'),
    pull('/model.gguf', '--to', join(config, 'below'))
  ])
  t.match(broken, { code: 255, stderr: /attempt 2 of 2[\s\S]*NETWORK_PARTITION/ })
  t.match(header, { code: 0, stdout: new RegExp(sha256) })
  t.ok(readFileSync(join(folder, 'models/model.gguf')).equals(bytes))
  t.match(unnamed, { code: 2, stderr: /--to/ })
  t.notMatch(unnamed.stderr, /secret/)
  t.match(below, { code: 1, stderr: /FILE_READ_FAILED/ })
})

t.test('interruptions at seeded moments, of the connection, the server and the command itself', async (t) => {
  const args = ['--import=./scripts/test-loader.mjs', 'bench/pull.mjs', '--interruptions', '5', '--seed', '5', '--json']
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  t.equal(status, 0, stderr)
  const { interruptions, same, failures } = JSON.parse(stdout)
  t.same({ interruptions, same, failures }, { interruptions: 5, same: true, failures: [] })
})
