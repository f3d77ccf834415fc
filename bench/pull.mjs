// Downloads that are broken at seeded moments: `tiered-moe pull` from a real nginx, until it has ended, and what it has then.
//   node --import=./scripts/test-loader.mjs bench/pull.mjs                      200 interruptions
//   node --import=./scripts/test-loader.mjs bench/pull.mjs --interruptions 12 --seed 5 --json
// Interruptions: the connection is reset, closed or stalls; nginx is killed and started again; the command gets Ctrl-C or SIGKILL and is started
// again. One byte is damaged on the way too, so that all of it comes once more. Fails where the file is not the one that was served.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { startFaultyProxy } from '../test/fixtures/faulty-proxy.ts'
import { startNginx } from '../test/fixtures/nginx.ts'
import { printTable, root, seededRandom, show } from './harness.mjs'

const { values: options } = parseArgs({
  options: {
    interruptions: { type: 'string', default: '200' },
    seed: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false }
  }
})
const count = Number(options.interruptions)
const random = seededRandom(Number(options.seed))
const kinds = ['reset', 'close', 'stall', 'server', 'SIGINT', 'SIGKILL']
/** Bytes that come between two interruptions; a stall costs what is on its way. */
const [least, most] = [96 * 1024, 224 * 1024]
const bytes = Buffer.alloc(Math.ceil(count * 1.25 * ((least + most) / 2)))
for (let at = 0; at + 4 <= bytes.length; at += 4) bytes.writeUInt32LE(Math.floor(random() * 2 ** 32), at)
const sha256 = createHash('sha256').update(bytes).digest('hex')

const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-pull-'))
const to = join(folder, 'model.gguf')
const config = join(folder, 'quick.yaml')
writeFileSync(
  config,
  'network: { retry: { attempts: 8, delays_ms: [5, 10, 20, 40, 80, 160], jitter_ms: 5 } }\n' +
    'download: { timeouts: { connect_ms: 1000, first_byte_ms: 2000, between_bytes_ms: 300 } }\n'
)
const nginx = await startNginx()
writeFileSync(join(nginx.files, 'model.gguf'), bytes)
chmodSync(join(nginx.files, 'model.gguf'), 0o644)
const proxy = await startFaultyProxy(nginx.port)

const plan = Array.from({ length: count }, () => ({
  kind: kinds[Math.floor(random() * kinds.length)],
  after: least + Math.floor(random() * (most - least))
}))
const outside = (kind) => !['reset', 'close', 'stall'].includes(kind)
plan[Math.floor(count / 2)].kind = 'stall'
// What comes from outside comes while the connection stalls.
proxy.faults = plan.map(({ kind, after }) => ({ kind: outside(kind) ? 'stall' : kind, after }))
// Of a connection whose beginning comes for sure.
proxy.faults[Math.floor(count / 2)].damageAt = 2000

const failures = []
const args = ['pull', `${proxy.url}/model.gguf`, '--to', to, '--sha256', sha256, '--config', config, '--json']

/** Starts the command; what it said, and how it ended. */
function start() {
  const child = spawn(process.execPath, [join(root, 'dist/esm/cli/main.js'), ...args])
  const said = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr']) {
    child[name].setEncoding('utf8').on('data', (text) => {
      said[name] += text
    })
  }
  const ended = new Promise((resolve) => child.once('close', (code, signal) => resolve({ code, signal, ...said })))
  return { child, ended }
}

const began = performance.now()
let starts = 1
let running = start()
let outcome
running.ended.then((result) => {
  outcome = result
})
for (let done = 0; !outcome; ) {
  // One interruption at a time: those of the connection happen by themselves.
  if (proxy.fired > done) {
    const { kind } = plan[done++]
    if (kind === 'server') {
      await nginx.kill()
      await nginx.start()
    } else if (outside(kind)) {
      const { child, ended } = running
      child.kill(kind)
      const { code, signal, stderr } = await ended
      const right = kind === 'SIGKILL' ? signal === 'SIGKILL' : code === 130
      if (!right) failures.push(`${kind}: ended with ${code ?? signal}: ${stderr}`)
      if (existsSync(to)) failures.push(`${kind}: the file is there before it is whole`)
      starts++
      running = start()
      outcome = undefined
      running.ended.then((result) => {
        outcome = result
      })
    }
  }
  await sleep(1)
}
const { code, stdout, stderr } = outcome
const seconds = (performance.now() - began) / 1000
if (code !== 0) failures.push(`ended with ${code}: ${stderr}`)
const same = existsSync(to) && createHash('sha256').update(readFileSync(to)).digest('hex') === sha256
if (!same) failures.push('the file is not the one that was served')
if (existsSync(`${to}.part`) || existsSync(`${to}.part.json`)) failures.push('something is left beside it')
const { restarted = 0 } = code === 0 ? JSON.parse(stdout) : {}
if (code === 0 && restarted < 1) failures.push('the damaged byte was not found')
if (proxy.fired !== count) failures.push(`${proxy.fired} interruptions of ${count}`)
const report = {
  interruptions: proxy.fired,
  same,
  starts,
  restarted,
  fileBytes: existsSync(to) ? statSync(to).size : 0,
  receivedBytes: proxy.bytes,
  seconds,
  failures
}
await proxy.close()
await nginx.stop()
rmSync(folder, { recursive: true, force: true })
if (options.json) console.log(JSON.stringify(report))
else {
  printTable(
    ['interruption', 'times'],
    kinds.map((kind) => [kind, plan.filter((each) => each.kind === kind).length])
  )
  console.log(
    `\n${report.interruptions} interruptions, ${starts} starts of the command, ${show(seconds)} s: SHA-256 ${same ? 'equal' : 'WRONG'}`
  )
  console.log(
    `${show(report.receivedBytes / report.fileBytes)} times the file's ${report.fileBytes} bytes came, begun again ${restarted} times`
  )
  for (const failure of failures) console.error(failure)
}
process.exitCode = failures.length > 0 ? 1 : 0
