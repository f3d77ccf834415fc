/** The archive over a real nginx, with a proxy that breaks connections between where one has to break. */
import { mkdirSync, readFileSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { EngineEvent } from 'tiered-moe'
import { isEngineError } from 'tiered-moe'
import type { BlobReference } from '../../lib/archive/blob-download.js'
import { tellArchive } from '../../lib/engine/archive-events.js'
import { Telemetry } from '../../lib/telemetry/telemetry.js'
import { startFaultyProxy } from '../fixtures/faulty-proxy.js'
import { nginxMissing, nginxVersion, startNginx } from '../fixtures/nginx.js'
import { blobBytes, isRight, openArchive, seededBytes, temporaryFolder, writeBlobs } from './setting.js'

if (nginxMissing) {
  t.plan(0, nginxMissing)
  process.exit(0)
}
t.comment(nginxVersion())
const nginx = await startNginx()
t.teardown(() => nginx.stop())
const blobs = writeBlobs(nginx.files, 'experts/rare/layer-000.bin', 6, 1) as [BlobReference, ...BlobReference[]]
const [first, second, third, fourth] = blobs as [BlobReference, BlobReference, BlobReference, BlobReference]
const proxy = await startFaultyProxy(nginx.port)
t.teardown(() => proxy.close())
t.beforeEach(async () => {
  proxy.faults = []
  proxy.always = undefined
  proxy.connections = 0
  await nginx.requests()
})
const rangeOf = ({ offset, bytes }: BlobReference, from = 0) => `bytes=${offset + from}-${offset + bytes - 1}`

t.test('a blob is one range request, and never another one', async (t) => {
  const { archive, coldFolder, count } = await openArchive(t, nginx.url)
  t.notOk(archive.isCold(second))
  const path = await archive.fetch(second)
  t.ok(isRight(path, second) && archive.isCold(second))
  t.equal(await archive.fetch(second), path)
  t.match(await nginx.requests(), [{ status: 206, bytes: blobBytes, range: rangeOf(second), path: `/${second.file}` }])
  t.equal(count('archive.fetched'), 1)
  const again = await openArchive(t, nginx.url, { coldFolder })
  t.ok(again.archive.isCold(second), 'it survives a restart')
  t.ok(isRight(await again.archive.fetch(second), second))
  t.same(await nginx.requests(), [])
  await again.archive.fetch(third)
  await again.archive.forget(third)
  t.notOk(again.archive.isCold(third))
})

t.test('who waits for one blob waits for one request; the last who leaves ends it', async (t) => {
  const { archive, count } = await openArchive(t, proxy.url)
  proxy.always = { kind: 'stall', after: 100_000 }
  const leaving = new AbortController()
  const staying = new AbortController()
  const left = archive.fetch(first, { signal: leaving.signal })
  const stayed = archive.fetch(first, { signal: staying.signal })
  leaving.abort('tired')
  await t.rejects(left, { code: 'CANCELLED', cause: 'tired' })
  t.equal(archive.status().fetching, 1)
  staying.abort()
  await t.rejects(stayed, { code: 'CANCELLED' })
  await t.rejects(archive.fetch(first, { signal: AbortSignal.abort() }), { code: 'CANCELLED' })
  proxy.always = undefined
  t.ok(isRight(await archive.fetch(first), first), 'a later fetch begins anew')
  const paths = await Promise.all([archive.fetch(second), archive.fetch(second), archive.fetch(second)])
  t.equal(new Set(paths).size, 1)
  t.equal(count('archive.fetched'), 2)
  t.equal(count('archive.failed'), 0, 'leaving is no failure')
})

t.test('what somebody waits for goes before what nobody does', async (t) => {
  const { archive, events } = await openArchive(t, nginx.url, { requests: 1 })
  const order = () => events.flatMap((event) => (event.type === 'archive.fetched' ? [event.offset / blobBytes] : []))
  const all = blobs.map((blob, index) => archive.fetch(blob, { background: index > 0 && index < 5 }))
  all.push(archive.fetch(third))
  t.match(archive.status(), { fetching: 1, waiting: 5 })
  await Promise.all(all)
  t.same(order(), [0, 2, 5, 1, 3, 4])
  t.match(archive.status(), { fetching: 0, waiting: 0, coldBlobs: 6, coldBytes: 6 * blobBytes, circuit: 'CLOSED' })
})

for (const kind of ['reset', 'close', 'stall'] as const) {
  t.test(`a connection that ${kind}s in the middle: the rest is fetched from there`, async (t) => {
    const { archive, events } = await openArchive(t, proxy.url)
    proxy.faults = [
      { kind, after: 100_000 },
      { kind, after: 50_000 }
    ]
    t.ok(isRight(await archive.fetch(fourth), fourth))
    const [report] = events.filter((event) => event.type === 'archive.fetched')
    t.match(report, { attempts: 3, resumed: 2, restarted: 0, received: blobBytes }, 'no byte came twice')
    const ranges = (await nginx.requests()).map(({ range }) => range)
    t.equal(ranges[0], rangeOf(fourth))
    const begins = ranges.map((range) => Number(/=(\d+)-/.exec(range)![1]) - fourth.offset)
    // Node drops what it had read ahead when a connection breaks: up to 64 KiB.
    t.ok(begins[1]! > 30_000 && begins[2]! > begins[1]!, `the requests began at ${begins}`)
  })
}

t.test('no answer: after the last attempt an error that says so', async (t) => {
  for (const kind of ['reset', 'close', 'stall'] as const) {
    const timeouts = { firstByteMs: 60, betweenBytesMs: 60 }
    const { archive, events, count } = await openArchive(t, proxy.url, { timeouts })
    proxy.always = { kind, after: 0 }
    await t.rejects(archive.fetch(first), {
      code: 'NETWORK_PARTITION',
      retryable: true,
      exitCode: 255,
      details: { target: `${proxy.url}/${first.file}`, attempts: 5, retryCount: 4, method: 'archive' }
    })
    t.equal(count('archive.retry'), 4)
    t.match(
      events.map((event) => (event.type === 'archive.retry' ? [event.attempt, event.maxAttempts] : [])),
      [[1, 5], [2, 5], [3, 5], [4, 5]] // biome-ignore format: one row
    )
    const told: EngineEvent[] = []
    const telemetry = new Telemetry({ onEvent: (event) => told.push(event) })
    telemetry.open()
    for (const event of events) tellArchive(telemetry, 'tiny', event)
    await telemetry.flush()
    t.match(told[3], {
      event: 'retry_backoff',
      fields: { model: 'tiny', target: `${proxy.url}/${first.file}`, attempt: 4, maxAttempts: 5, schedule: Array }
    })
    proxy.always = undefined
    t.ok(isRight(await archive.fetch(first), first), 'and then it comes')
  }
  const unused = await startFaultyProxy(1)
  await unused.close()
  const { archive } = await openArchive(t, unused.url)
  await t.rejects(archive.fetch(first), { code: 'NETWORK_PARTITION', details: { systemCode: 'ECONNREFUSED' } })
  // An address that never answers (RFC 5737), or a network that says at once that there is none.
  const nowhere = await openArchive(t, 'http://192.0.2.1:9', { timeouts: { connectMs: 20 } })
  await t.rejects(nowhere.archive.fetch(first), { code: 'NETWORK_PARTITION', details: { attempts: 5 } })
})

t.test('answers of other statuses', async (t) => {
  const statusOf = async (path: string) => {
    const { archive, count } = await openArchive(t, `${nginx.url}${path}`)
    const error = await archive.fetch(first).catch((error) => error)
    return {
      code: error.code,
      status: error.details.status,
      requests: (await nginx.requests()).length,
      retries: count('archive.retry')
    }
  }
  const refusal = { code: 'ARCHIVE_REFUSED', requests: 1, retries: 0 }
  t.match(await statusOf('/nowhere'), { ...refusal, status: 404 })
  t.match(await statusOf('/forbidden'), { ...refusal, status: 403 })
  t.match(await statusOf('/locked'), { ...refusal, status: 401 })
  t.match(await statusOf('/broken'), { code: 'NETWORK_PARTITION', status: 500, requests: 5, retries: 4 })
  t.match(await statusOf('/circle'), { code: 'ARCHIVE_REFUSED', requests: 6 })
  const { archive, events } = await openArchive(t, `${nginx.url}/busy`, { retry: { attempts: 2, delaysMs: [1] } })
  await t.rejects(archive.fetch(first), { code: 'NETWORK_PARTITION', details: { status: 503, retryAfterSeconds: 1 } })
  t.match(events[0], { type: 'archive.retry', delayMs: 1000 }, "the server's Retry-After is kept")
})

t.test('wrong bytes are fetched again from the beginning, twice', async (t) => {
  const { archive, events, count } = await openArchive(t, proxy.url)
  proxy.faults = [{ kind: 'corrupt', after: 70_000 }]
  // A kept connection would go on without a fault.
  t.ok(isRight(await archive.fetch(first), first))
  t.match(events, [{ type: 'archive.restarted' }, { type: 'archive.fetched', restarted: 1, received: 2 * blobBytes }])
  const wrong = { ...second, crc32c: (second.crc32c ^ 1) >>> 0 }
  await t.rejects(archive.fetch(wrong), {
    code: 'EXPERT_CORRUPTED',
    details: { file: second.file, offset: second.offset, expected: wrong.crc32c, actual: second.crc32c }
  })
  t.equal(count('archive.restarted'), 3)
  const forged = { ...second, sha256: first.sha256.replace(/^./, (digit) => (digit === '0' ? '1' : '0')) }
  await t.rejects(archive.fetch(forged), { code: 'EXPERT_CORRUPTED', details: { actual: second.sha256 } })
  t.notOk(archive.isCold(second))
  t.equal(archive.status().coldBytes, blobBytes, 'nothing is kept of them')
})

t.test('a file of another length', async (t) => {
  const [blob] = writeBlobs(nginx.files, 'short.bin', 3, 2) as [BlobReference]
  const last = { ...blob, offset: 2 * blobBytes }
  truncateSync(join(nginx.files, 'short.bin'), 2 * blobBytes + 100)
  const { archive } = await openArchive(t, nginx.url)
  await t.rejects(archive.fetch(last), { code: 'ARCHIVE_REFUSED', details: { reason: /has 524388 bytes/ } })
  await t.rejects(archive.fetch(blob), { code: 'ARCHIVE_REFUSED', details: { reason: /the manifest says 786432/ } })
  truncateSync(join(nginx.files, 'short.bin'), 100)
  await t.rejects(archive.fetch(last), { code: 'ARCHIVE_REFUSED', details: { status: 416 } })
  const whole = await openArchive(t, `${nginx.url}/whole`)
  await t.rejects(whole.archive.fetch(last), { code: 'ARCHIVE_REFUSED', details: { reason: /has 100 bytes/ } })
})

t.test('a file that changes while it is read is read again', async (t) => {
  const [blob] = writeBlobs(nginx.files, 'changing.bin', 1, 3) as [BlobReference]
  const path = join(nginx.files, 'changing.bin')
  const bytes = readFileSync(path)
  // What comes first is another version: mixed with the rest it would be neither.
  writeFileSync(path, seededBytes(bytes.length, 4))
  utimesSync(path, 2000, 2000)
  const { archive, events } = await openArchive(t, proxy.url, {}, ({ type }) => {
    if (type !== 'archive.retry') return
    writeFileSync(path, bytes)
    utimesSync(path, 3000, 3000)
  })
  proxy.faults = [{ kind: 'close', after: 100_000 }]
  t.ok(isRight(await archive.fetch(blob), blob))
  t.match(
    events.filter(({ type }) => type !== 'archive.retry'),
    [
      { type: 'archive.restarted', reason: 'the file changed' },
      { type: 'archive.fetched', restarted: 1, resumed: 0 }
    ]
  )
})

t.test('a server that ignores ranges', async (t) => {
  const { archive, events } = await openArchive(t, `${proxy.url}/whole`)
  proxy.faults = [{ kind: 'reset', after: 300_000 }]
  t.ok(isRight(await archive.fetch(second), second), 'what comes before the range is thrown away')
  t.match(events.at(-1), { type: 'archive.fetched', resumed: 1, restarted: 0, received: blobBytes })
  t.ok((await nginx.requests()).every(({ status }) => status === 200))
})

t.test('redirects, credentials and signatures', async (t) => {
  const moved = await openArchive(t, `${nginx.url}/moved`)
  t.ok(isRight(await moved.archive.fetch(first), first))
  t.same(
    (await nginx.requests()).map(({ status }) => status),
    [302, 206]
  )
  const headers = { authorization: 'Bearer 1234' }
  const locked = await openArchive(t, `${nginx.url}/locked/`, { headers })
  t.ok(isRight(await locked.archive.fetch(first), first))
  const signed = await openArchive(t, `${nginx.url}/signed?signature=5678`)
  t.ok(isRight(await signed.archive.fetch(first), first))
  const denied = await openArchive(t, `${nginx.url}/signed?signature=secret`)
  const error = await denied.archive.fetch(first).catch((error) => error)
  t.equal(error.code, 'ARCHIVE_REFUSED')
  t.notMatch(JSON.stringify(error), /secret/, 'a signature is told to nobody')
})

t.test('a dead archive: what is cold is served, the rest refused, and it is left alone for a while', async (t) => {
  const { archive, events } = await openArchive(t, nginx.url, {
    retry: { attempts: 2, delaysMs: [1], jitterMs: 0 },
    breaker: { failureThreshold: 2, cooldownMs: 300 }
  })
  const path = await archive.fetch(first)
  await nginx.stop()
  await t.rejects(archive.fetch(second), { code: 'NETWORK_PARTITION' })
  t.equal(archive.status().circuit, 'CLOSED')
  await t.rejects(archive.fetch(third), { code: 'NETWORK_PARTITION' })
  await t.rejects(archive.fetch(second), {
    code: 'CIRCUIT_BREAKER_OPEN',
    details: { failureCount: 2, failureThreshold: 2, cooldownSeconds: 0.3, state: 'OPEN' }
  })
  t.equal(await archive.fetch(first), path)
  t.ok(isRight(path, first))
  await nginx.start()
  while (archive.status().circuit !== 'CLOSED') await archive.fetch(second).catch(() => undefined)
  t.ok(isRight(await archive.fetch(third), third))
  t.same(
    events.flatMap((event) => (event.type === 'archive.circuit' ? [event.reason] : [])),
    ['FAILURE_THRESHOLD_EXCEEDED', 'RECOVERY_TIMEOUT_ELAPSED', 'SUCCESS_THRESHOLD_REACHED']
  )
  const told: string[] = []
  const telemetry = new Telemetry({ onEvent: ({ level, fields }) => told.push(`${fields.next}: ${level}`) })
  telemetry.open()
  for (const event of events) if (event.type === 'archive.circuit') tellArchive(telemetry, 'tiny', event)
  await telemetry.flush()
  t.same(told, ['OPEN: error', 'HALF_OPEN: warn', 'CLOSED: info'])
})

t.test('small files', async (t) => {
  mkdirSync(join(nginx.files, 'a b'), { recursive: true })
  writeFileSync(join(nginx.files, 'a b', 'manifest.json'), '{"version":"1.0"}')
  const { archive } = await openArchive(t, `${nginx.url}/a%20b/`)
  t.equal((await archive.readFile('manifest.json', 1000)).toString(), '{"version":"1.0"}')
  await t.rejects(archive.readFile('manifest.json', 10), { code: 'ARCHIVE_REFUSED' })
  await t.rejects(archive.readFile('none.json', 1000), { code: 'ARCHIVE_REFUSED', details: { status: 404 } })
})

t.test('closing ends what is under way', async (t) => {
  const { archive } = await openArchive(t, proxy.url, { requests: 1 })
  proxy.always = { kind: 'stall', after: 0 }
  const ending = blobs.map((blob) => archive.fetch(blob).catch((error) => error))
  await archive.close()
  const errors = await Promise.all(ending)
  t.ok(errors.every((error) => isEngineError(error) && error.code === 'CANCELLED' && error.name === 'AbortError'))
  await t.rejects(archive.fetch(first), { code: 'CANCELLED' })
})

t.test('a folder that holds less than a blob', async (t) => {
  const { archive } = await openArchive(t, nginx.url, { coldBytes: 4096, coldFolder: temporaryFolder(t) })
  await t.rejects(archive.fetch(first), {
    code: 'RESOURCE_BUDGET_TOO_SMALL',
    details: { resourceInfo: { required: blobBytes, available: 4096 } }
  })
})
