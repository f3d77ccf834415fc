import { spawn } from 'node:child_process'
import { appendFileSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine, verifyAuditLog } from 'tiered-moe'
import { AuditLog } from '../../lib/telemetry/audit-log.js'
import { readAuditLog } from '../../lib/telemetry/audit-verify.js'
import { smallDisk } from '../journal/mounts.js'

interface Outcomes {
  log: AuditLog
  failures: unknown[]
  counts: { written: number; lost: number }
}

/** Without a lock a log that is dropped is as one whose process died. */
async function open(path: string, tryLock = () => true): Promise<Outcomes> {
  const failures: unknown[] = []
  const counts = { written: 0, lost: 0 }
  const log = await AuditLog.open({
    path,
    run: { version: 'test' },
    tryLock,
    onFailure: (error) => failures.push(error),
    onRecord: (outcome) => counts[outcome]++
  })
  return { log, failures, counts }
}

async function write(path: string, events = 5, close = true): Promise<void> {
  const { log } = await open(path)
  for (let i = 0; i < events; i++) log.append('model_loaded', { model: `m${i}`, text: 'ü', none: null }, { i })
  if (close) await log.close()
  else await log.sync()
}

/** A copy of `list` with `count` items at `at` replaced. */
function spliced<Item>(list: readonly Item[], at: number, count: number, ...items: Item[]): Item[] {
  return [...list.slice(0, at), ...items, ...list.slice(at + count)]
}

const linesOf = (path: string): string[] => readFileSync(path, 'utf8').trimEnd().split('\n')

t.test('two runs of the same work have the same hashes, and different seals', async (t) => {
  const dir = t.testdir()
  const [a, b] = [join(dir, 'a'), join(dir, 'b')]
  await write(a)
  await write(a)
  await write(b)
  const [first, second] = [await verifyAuditLog(a), await verifyAuditLog(b)]
  t.match(first, { records: 14, runs: 2, closed: true, tornBytes: 0 })
  t.match(second, { records: 7, runs: 1, closed: true })
  t.equal(first.hash, second.hash)
  t.not(first.seal, second.seal)
  await write(b, 6)
  t.not((await verifyAuditLog(b)).hash, first.hash, 'other work has another hash')
})

t.test('what was changed, cut or moved is found, whatever line it is', async (t) => {
  const path = join(t.testdir(), 'log')
  await write(path)
  await write(path, 2)
  const { seal, records } = await verifyAuditLog(path)
  const lines = linesOf(path)
  t.equal(lines.length, records)
  const refused = async (changed: readonly string[], what: string) => {
    writeFileSync(path, `${changed.join('\n')}\n`)
    await t.rejects(verifyAuditLog(path, seal), { code: 'AUDIT_LOG_INVALID', details: { path, line: Number } }, what)
    if (changed.length >= records)
      await t.rejects(open(path), { code: 'AUDIT_LOG_INVALID' }, `${what}: no run is added`)
  }
  for (const [i, line] of lines.entries()) {
    const edited = (edit: (line: string) => string) => lines.map((other, at) => (at === i ? edit(other) : other))
    await refused(spliced(lines, i, 1), `line ${i} taken out`)
    await refused(spliced(lines, i, 0, line), `line ${i} twice`)
    if (i > 0) await refused(spliced(lines, i - 1, 2, line, lines[i - 1]!), `line ${i} moved`)
    await refused(
      edited((text) => text.replace('"data":{', '"data":{"x":1,')),
      `data of line ${i}`
    )
    await refused(
      edited((text) => text.replace(/"at":"2/, '"at":"3')),
      `time of line ${i}`
    )
    await refused(
      edited((text) => text.replace('"run":', '"run": ')),
      `spelling of line ${i}`
    )
    for (const at of [3, Math.floor(line.length / 2), line.length - 8]) {
      const flipped = String.fromCharCode(line.charCodeAt(at) ^ 1)
      await refused(
        edited((text) => text.slice(0, at) + flipped + text.slice(at + 1)),
        `bit of line ${i}`
      )
    }
  }
  await refused(lines.slice(0, 7), 'the whole second run taken off')
  writeFileSync(path, `${lines.slice(0, 5).join('\n')}\n`)
  t.equal((await verifyAuditLog(path)).closed, false, 'an end that was cut off looks like a crash')
  await t.rejects(verifyAuditLog(`${path}.none`), { code: 'FILE_READ_FAILED' })
  await t.rejects(verifyAuditLog(t.testdirName), { code: 'FILE_READ_FAILED' })
})

t.test('a torn last line is cut off, wherever it was torn, and the next run tells', async (t) => {
  const path = join(t.testdir(), 'log')
  await write(path, 2, false)
  const whole = readFileSync(path)
  const last = whole.lastIndexOf(0x0a, whole.length - 2) + 1
  for (let length = last + 1; length < whole.length; length += 7) {
    writeFileSync(path, whole.subarray(0, length))
    t.equal((await verifyAuditLog(path)).tornBytes, length - last)
    await write(path, 1)
    const result = await verifyAuditLog(path)
    t.match(result, { runs: 2, closed: true, tornBytes: 0 })
    const record = JSON.parse(linesOf(path)[2]!)
    t.match(record, { event: 'run_started', note: { previousClosed: false, tornBytes: length - last } })
  }
})

t.test('killed at any moment: every record that was made is there, and the file holds', async (t) => {
  const path = join(t.testdir(), 'log')
  const script = `import { AuditLog } from '${join(process.cwd(), 'dist/esm/telemetry/audit-log.js')}'
    const log = await AuditLog.open({ path: process.argv[1], run: {}, tryLock: () => true, onFailure: console.log, onRecord() {} })
    for (let i = 0; ; i++) {
      log.append('model_loaded', { i }, {})
      process.stdout.write(i + '\\n')
      if (i % 20 === 0) await new Promise(setImmediate)
    }`
  for (let round = 0; round < 4; round++) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', script, path])
    let told = ''
    child.stdout.on('data', (chunk) => {
      told += chunk
      if (told.length > 300 * (round + 1)) child.kill('SIGKILL')
    })
    await new Promise((resolve) => child.on('close', resolve))
    const last = Number(told.slice(0, told.lastIndexOf('\n')).split('\n').at(-1))
    t.ok(last > 50)
    const { records, chain } = await readAuditLog(path)
    t.equal(chain.run, round + 1)
    t.ok(records > 0 && chain.seq > last + 1, `${chain.seq} records, ${last + 1} were told`)
  }
})

t.test('one engine at a time', async (t) => {
  const path = join(t.testdir(), 'log')
  const first = await createEngine({ threads: 1, audit: path })
  const { length } = linesOf(path)
  await t.rejects(createEngine({ threads: 1, audit: path }), { code: 'AUDIT_LOG_INVALID', details: { path } })
  t.equal(linesOf(path).length, length)
  await first.dispose()
  await (await createEngine({ threads: 1, audit: path })).dispose()
  t.match(await verifyAuditLog(path), { runs: 2, closed: true })
})

t.test('somebody else writes to it, where nothing can be locked', async (t) => {
  const path = join(t.testdir(), 'log')
  const first = await open(path)
  const second = await open(path)
  first.log.append('model_loaded', {}, {})
  first.log.append('model_loaded', {}, {})
  t.match(first.failures, [{ code: 'AUDIT_LOG_INVALID' }], 'told once')
  t.equal(first.counts.lost, 2)
  second.log.append('model_loaded', {}, {})
  await second.log.close()
  await first.log.close()
  t.match(await verifyAuditLog(path), { runs: 2, closed: true, records: 4 })
})

t.test('a full disk: work goes on, and what was lost is counted', async (t) => {
  const dir = smallDisk(t, '16k')
  if (!dir) return
  const path = join(dir, 'log')
  const { log, failures, counts } = await open(path)
  const filler = join(dir, 'filler')
  writeFileSync(filler, '')
  for (let i = 0; i < 100; i++) log.append('model_loaded', { i }, {})
  t.match(failures, [{ code: 'FILE_WRITE_FAILED', details: { errno: 'ENOSPC', path } }], 'told once')
  t.ok(counts.lost > 10 && counts.written > 10)
  await log.sync()
  const written = counts.written
  t.match(await verifyAuditLog(path), { records: written, tornBytes: 0, closed: false }, 'what is there holds')
  await log.close()
  t.equal(failures.length, 1)
})

t.test('a disk that was full for a while', async (t) => {
  const dir = smallDisk(t, '64k')
  if (!dir) return
  const path = join(dir, 'log')
  const { log, counts } = await open(path)
  const filler = join(dir, 'filler')
  try {
    for (;;) appendFileSync(filler, Buffer.alloc(4096))
  } catch {
    // Full.
  }
  for (let i = 0; i < 40; i++) log.append('model_loaded', { i }, {})
  const { lost } = counts
  t.ok(lost > 0)
  truncateSync(filler, 0)
  log.append('model_loaded', { after: true }, {})
  await log.close()
  const records = linesOf(path).map((line) => JSON.parse(line))
  t.match(records.at(-3), { event: 'audit_records_lost', data: { count: lost } })
  t.match(records.at(-2), { data: { after: true } })
  t.match(await verifyAuditLog(path), { closed: true })
})

t.test('a folder in place of the file, a folder that is not there', async (t) => {
  const dir = t.testdir()
  await t.rejects(open(join(dir, 'none', 'log')), { code: 'FILE_WRITE_FAILED', details: { errno: 'ENOENT' } })
  await t.rejects(open(dir), { code: 'FILE_WRITE_FAILED', details: { errno: 'EISDIR' } })
  const path = join(dir, 'log')
  await write(path)
  t.equal(statSync(path).mode & 0o777, 0o600, 'for its owner only')
})

t.test('a file that is removed while it is written to', async (t) => {
  const path = join(t.testdir(), 'log')
  const { log, failures, counts } = await open(path)
  rmSync(path)
  log.append('model_loaded', {}, {})
  log.append('model_loaded', {}, {})
  t.match(failures, [{ code: 'AUDIT_LOG_INVALID', details: { reason: 'it was removed' } }], 'told once')
  t.equal(counts.lost, 2)
  await log.close()
})
