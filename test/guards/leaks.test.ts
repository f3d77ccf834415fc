/** Everything that a process can forget to give back, planted and found. */
import { spawn } from 'node:child_process'
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createEngine } from 'tiered-moe'
import type { LeakReport, LeakWatch as Watch } from '../../lib/guards/leaks.js'
import type { native as Native } from '../../lib/native.js'
import { command, notBuilt } from '../cli/command.js'
import { built, embedded } from '../fixtures/package.js'

const { LeakWatch } = (await built('guards/leaks.js')) as { LeakWatch: typeof Watch }
const { native } = (await built('native.js')) as { native: typeof Native }
const linux = process.platform === 'linux'
const settleMs = 400

/** What is told while the plant is there; and that nothing is once it has gone. */
async function planted(t: Test, plant: () => Promise<() => unknown>): Promise<LeakReport> {
  const watch = LeakWatch.begin(native())
  const remove = await plant()
  const report = await watch.check(50)
  await t.rejects(watch.assert(50), { code: 'RESOURCE_LEAK_DETECTED', retryable: false })
  await remove()
  await watch.assert(10_000)
  return report
}

t.test('what is planted is found, and nothing once it has gone', async (t) => {
  const { handles } = await planted(t, async () => {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, resolve))
    return () => new Promise((resolve) => server.close(resolve))
  })
  t.match(handles, { TCPServerWrap: 1 })
  const timer = await planted(t, async () => {
    const interval = setInterval(() => {}, 1e6)
    return () => clearInterval(interval)
  })
  t.same(timer.handles, { Timeout: 1 })
  if (linux) {
    const { files } = await planted(t, async () => {
      const descriptor = openSync(embedded, 'r')
      return () => closeSync(descriptor)
    })
    t.equal(files.length, 1)
    t.match(files[0], embedded)
    const { processes } = await planted(t, async () => {
      const child = spawn('sleep', ['100'], { stdio: 'ignore' })
      const ended = new Promise((resolve) => child.once('exit', resolve))
      t.teardown(() => child.kill('SIGKILL'))
      return () => {
        child.kill('SIGKILL')
        return ended
      }
    })
    t.equal(processes.length, 1)
  }
  const { native: counts } = await planted(t, async () => {
    const engine = await createEngine({ threads: 1 })
    await engine.loadModel()
    return () => engine.dispose()
  })
  t.ok(counts.liveBytes! > 100_000 && counts.liveHandles! > 0, JSON.stringify(counts))
  const { temporary } = await planted(t, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-workers-'))
    writeFileSync(join(folder, 'lock'), `${JSON.stringify({ pid: process.pid, at: Date.now() })}\n`)
    const others = mkdtempSync(join(tmpdir(), 'tiered-moe-workers-'))
    mkdirSync(join(others, 'below'))
    return () => {
      for (const path of [folder, others]) rmSync(path, { recursive: true })
    }
  })
  t.equal(temporary.length, 1, 'another process’s folder is not ours')
})

t.test('the error says what and how much', async (t) => {
  const watch = LeakWatch.begin(native())
  const interval = setInterval(() => {}, 1e6)
  const error = await watch.assert(settleMs / 10).catch((error) => error)
  clearInterval(interval)
  t.match(error, {
    httpStatus: 500,
    message: /1 of Timeout/,
    details: { leakedProcesses: [], leakedTempFiles: [], leakedHandles: { Timeout: 1 }, leakedFiles: [] }
  })
})

t.test('doctor --leaks: an engine gives back all that it takes', { skip: notBuilt }, async (t) => {
  const { code, stdout, stderr } = await command(['doctor', '--leaks', '--json'])
  t.equal(code, 0, stderr)
  t.same(JSON.parse(stdout), {
    rounds: 3,
    clean: true,
    handles: {},
    files: [],
    native: {},
    processes: [],
    temporary: []
  })
})
