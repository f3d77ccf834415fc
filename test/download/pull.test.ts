/** Downloads from a real nginx that is killed, slow and changed meanwhile, through a proxy where a connection has to break. */
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { EngineEvent, PullOptions, PullRequest, PullResult } from 'tiered-moe'
import { pullFile } from 'tiered-moe'
import { seededBytes } from '../archive/setting.js'
import { startFaultyProxy } from '../fixtures/faulty-proxy.js'
import { nginxMissing, nginxVersion, startNginx } from '../fixtures/nginx.js'
import { fillDisk, smallDisk } from '../journal/mounts.js'

if (nginxMissing) {
  t.plan(0, nginxMissing)
  process.exit(0)
}
t.comment(nginxVersion())
const nginx = await startNginx()
t.teardown(() => nginx.stop())
const proxy = await startFaultyProxy(nginx.port)
t.teardown(() => proxy.close())
t.beforeEach(async () => {
  proxy.faults = []
  proxy.always = undefined
  await nginx.requests()
})

const size = 480 * 1024
const sumOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

/** Puts a file on the server, `ageS` seconds old; its sum. */
function serve(name: string, bytes: Buffer, ageS = 100): string {
  writeFileSync(join(nginx.files, name), bytes, { mode: 0o644 })
  const at = Date.now() / 1000 - ageS
  utimesSync(join(nginx.files, name), at, at)
  return sumOf(bytes)
}
const original = seededBytes(size, 1)
const sha256 = serve('model.gguf', original)

interface Pulled {
  to: string
  part: string
  events: EngineEvent[]
  run(over?: Partial<PullRequest>, options?: PullOptions): Promise<PullResult>
  right(bytes?: Buffer): boolean
}

/** A download into a folder of the test's own, with waits that a test can afford. */
function prepare(t: { testdir(): string }, url: string, folder = t.testdir()): Pulled {
  const to = join(folder, 'model.gguf')
  const events: EngineEvent[] = []
  const quick = {
    retry: { attempts: 5, delaysMs: [1, 20, 100, 200], jitterMs: 2 },
    timeouts: { connectMs: 2000, firstByteMs: 400, betweenBytesMs: 2000 },
    seed: 7,
    onEvent: (event: EngineEvent) => events.push(event)
  }
  return {
    to,
    part: `${to}.part`,
    events,
    run: (over = {}, options = {}) => pullFile({ url, to, ...over }, { ...quick, ...options }),
    right: (bytes = original) => readFileSync(to).equals(bytes)
  }
}

/** Leaves about `bytes` of the file as an aborted call does. */
async function abortAfter(pulled: Pulled, bytes: number, over: Partial<PullRequest> = {}): Promise<number> {
  const abort = new AbortController()
  proxy.always = { kind: 'stall', after: bytes }
  const onProgress = ({ bytesDone }: { bytesDone: number }): void => {
    if (bytesDone > bytes / 2) abort.abort('enough')
  }
  const aborted = { code: 'CANCELLED', cause: 'enough', details: { method: 'pullFile' } }
  await t.rejects(pulled.run(over, { signal: abort.signal, onProgress }), aborted)
  proxy.always = undefined
  await nginx.requests()
  return statSync(pulled.part).size
}

t.test('a file comes whole, with its sum, and is not fetched twice', async (t) => {
  const pulled = prepare(t, `${nginx.url}/model.gguf?signature=secret`)
  const seen: number[] = []
  const { to, run } = pulled
  const result = await run({}, { onProgress: ({ bytesDone, bytesTotal }) => seen.push(bytesDone / bytesTotal) })
  t.same(result, { path: to, bytes: size, sha256, resumed: 0, restarted: 0, attempts: 1 })
  t.ok(pulled.right())
  t.equal(seen[0], 0)
  t.equal(seen.at(-1), 1)
  t.notOk(existsSync(pulled.part) || existsSync(`${pulled.part}.json`), 'nothing is left beside it')
  t.match(await nginx.requests(), [{ status: 200, range: '-' }])
  await t.rejects(run(), { code: 'VALIDATION_ERROR', details: { path: 'to', allowed: /replace/ } })
  t.match(await run({ sha256: sha256.toUpperCase() }), { attempts: 0, sha256, bytes: size })
  t.same(await nginx.requests(), [], 'the very file is there')
  writeFileSync(to, 'another')
  await t.rejects(run({ sha256 }), { code: 'VALIDATION_ERROR', details: { found: /other bytes/ } })
  t.equal(readFileSync(to, 'utf8'), 'another', 'it is not touched')
  await run({ sha256, replace: true })
  t.ok(pulled.right())
})

for (const kind of ['reset', 'close', 'stall'] as const) {
  t.test(`connections that ${kind}: it goes on where it was, as long as bytes come`, async (t) => {
    const pulled = prepare(t, `${proxy.url}/model.gguf`)
    proxy.faults = Array.from({ length: 3 }, () => ({ kind, after: 140_000 }))
    const before = proxy.bytes
    // Two attempts: each that brings bytes is the first one again.
    const retry = { attempts: 2, delaysMs: [1], jitterMs: 0 }
    const result = await pulled.run({ sha256 }, { retry, timeouts: { betweenBytesMs: 60 } })
    t.match(result, { sha256, resumed: 3, restarted: 0, attempts: 4 })
    t.ok(pulled.right())
    // Node drops what it had read ahead when a connection breaks.
    t.ok(proxy.bytes - before < size + 4 * 70_000, `${proxy.bytes - before} bytes came`)
    const retries = pulled.events.map(({ event, fields }) => [event, fields.attempt, fields.maxAttempts])
    t.same(retries, Array(3).fill(['download_retry', 1, 2]))
    t.match(pulled.events[0]?.fields, {
      target: `${proxy.url}/model.gguf`,
      nextRetrySeconds: 0.001,
      backoffStrategy: 'exponential_with_jitter',
      schedule: [0.001]
    })
  })
}

t.test('a server that is killed in the middle and comes back', async (t) => {
  const pulled = prepare(t, `${nginx.url}/slow/model.gguf`)
  let killed: Promise<void> | undefined
  const result = await pulled.run(
    { sha256 },
    {
      onProgress: ({ bytesDone }) => {
        if (bytesDone > 150_000) killed ??= nginx.kill().then(() => nginx.start())
      }
    }
  )
  await killed
  t.match(result, { sha256, resumed: 1, restarted: 0 })
  t.ok(pulled.right())
  t.ok(pulled.events.length > 0 && pulled.events.every(({ event }) => event === 'download_retry'))
})

t.test('a server that is gone: an error that says so, and what had come stays', async (t) => {
  const pulled = prepare(t, `${proxy.url}/model.gguf`)
  const left = await abortAfter(pulled, 200_000)
  proxy.always = { kind: 'close', after: 0 }
  await t.rejects(pulled.run(), {
    code: 'NETWORK_PARTITION',
    exitCode: 255,
    details: { target: `${proxy.url}/model.gguf`, attempts: 5, retryCount: 4, method: 'pullFile' }
  })
  t.equal(statSync(pulled.part).size, left)
  proxy.always = undefined
  t.match(await pulled.run(), { sha256, resumed: 1, attempts: 1 })
  t.match((await nginx.requests()).at(-1), { status: 206, range: `bytes=${left}-` })
  t.ok(pulled.right())
})

t.test('a throttled server is waited for', async (t) => {
  const pulled = prepare(t, `${nginx.url}/slow/model.gguf`)
  t.match(await pulled.run({ bytes: size }, { timeouts: { betweenBytesMs: 5000 } }), { sha256, attempts: 1 })
})

t.test('wrong bytes on the way are deleted and fetched again', async (t) => {
  const pulled = prepare(t, `${proxy.url}/model.gguf`)
  proxy.faults = [{ kind: 'corrupt', after: 300_000 }]
  t.match(await pulled.run({ sha256 }), { sha256, restarted: 1, resumed: 0 })
  t.ok(pulled.right())
  t.match(pulled.events, [{ event: 'download_restarted', fields: { reason: /its SHA-256 is/ } }])
})

t.test('wrong bytes on the server end it, and nothing is left', async (t) => {
  const pulled = prepare(t, `${nginx.url}/model.gguf`)
  const wrong = sumOf(Buffer.from('another file'))
  await t.rejects(pulled.run({ sha256: wrong }), {
    code: 'MODEL_CORRUPTED',
    retryable: false,
    details: { file: pulled.to, expectedSha256: wrong, actualSha256: sha256, target: `${nginx.url}/model.gguf` }
  })
  t.equal((await nginx.requests()).length, 3, 'fetched again twice')
  t.notOk(existsSync(pulled.part) || existsSync(`${pulled.part}.json`) || existsSync(pulled.to))
})

t.test('a file that is changed or cut off between two calls is fetched from its beginning', async (t) => {
  const changed = seededBytes(size, 2)
  for (const bytes of [changed, changed.subarray(0, 100_000)]) {
    serve('other.gguf', original)
    const pulled = prepare(t, `${proxy.url}/other.gguf`)
    await abortAfter(pulled, 300_000)
    const sum = serve('other.gguf', bytes, 50)
    t.match(await pulled.run(), { sha256: sum, restarted: 1, resumed: 0 })
    t.ok(pulled.right(bytes))
    t.match(pulled.events, [{ event: 'download_restarted', fields: { reason: 'the file changed' } }])
  }
})

t.test(
  'a server without validators: only what has a sum is gone on with, and a file that ends before is another',
  async (t) => {
    serve('bare.gguf', original)
    const pulled = prepare(t, `${proxy.url}/bare/bare.gguf`)
    await abortAfter(pulled, 200_000)
    t.match(await pulled.run(), { sha256, resumed: 0, restarted: 0 }, 'nothing says that it is the same')
    const shorter = seededBytes(50_000, 3)
    const sum = sumOf(shorter)
    const again = prepare(t, `${proxy.url}/bare/bare.gguf`)
    await abortAfter(again, 200_000, { sha256: sum })
    t.match(await again.run({ sha256: sum }, { retry: { attempts: 1 } }).catch((error) => error), {
      code: 'MODEL_CORRUPTED'
    })
    await abortAfter(again, 200_000, { sha256: sum })
    serve('bare.gguf', shorter)
    t.match(await again.run({ sha256: sum }), { sha256: sum, restarted: 1 })
    t.same(
      (await nginx.requests()).map(({ status }) => status),
      [416, 200]
    )
    t.ok(again.right(shorter))
  }
)

t.test('a server without validators: bytes of two versions are not put together', async (t) => {
  serve('mixed.gguf', original)
  const changed = seededBytes(size, 5)
  const sum = serve('next.gguf', changed)
  const pulled = prepare(t, `${proxy.url}/bare/mixed.gguf`)
  proxy.faults = [{ kind: 'close', after: 200_000 }]
  const next = join(nginx.files, 'next.gguf')
  const onProgress = ({ bytesDone }: { bytesDone: number }): void => {
    // Renamed: what is being sent stays as it is.
    if (bytesDone > 50_000 && existsSync(next)) renameSync(next, join(nginx.files, 'mixed.gguf'))
  }
  t.match(await pulled.run({}, { onProgress }), { sha256: sum, resumed: 0, restarted: 1, attempts: 2 })
  t.ok(pulled.right(changed))
  t.same(
    pulled.events.map(({ event }) => event),
    ['download_retry', 'download_restarted']
  )
  // What comes once more counts as nothing further.
  const broken = prepare(t, `${proxy.url}/bare/mixed.gguf`)
  proxy.always = { kind: 'close', after: 200_000 }
  const before = proxy.connections
  const retry = { attempts: 3, delaysMs: [1], jitterMs: 0 }
  await t.rejects(broken.run({}, { retry }), { code: 'NETWORK_PARTITION', details: { attempts: 3 } })
  t.ok(proxy.connections - before <= 5, `${proxy.connections - before} connections`)
})

t.test('a file that came whole and did not get its place: the server says whether it is still the same', async (t) => {
  const changed = seededBytes(size, 6)
  for (const bytes of [original, changed]) {
    serve('kept.gguf', original)
    const pulled = prepare(t, `${nginx.url}/kept.gguf`)
    const onProgress = () => writeFileSync(pulled.to, "somebody's")
    await t.rejects(pulled.run({}, { onProgress }), { code: 'VALIDATION_ERROR', details: { path: 'to' } })
    rmSync(pulled.to)
    t.equal(statSync(pulled.part).size, size)
    await nginx.requests()
    const same = bytes === original
    const sum = same ? sha256 : serve('kept.gguf', bytes, 50)
    t.match(await pulled.run(), { sha256: sum, restarted: same ? 0 : 1, resumed: 0 })
    t.ok(pulled.right(bytes))
    if (same) t.match(await nginx.requests(), [{ status: 206, range: `bytes=${size - 1}-` }])
  }
})

t.test('a server that ignores ranges: what is there is skipped', async (t) => {
  const pulled = prepare(t, `${proxy.url}/whole/model.gguf`)
  await abortAfter(pulled, 200_000)
  t.match(await pulled.run(), { sha256, resumed: 1, restarted: 0 })
  t.match(await nginx.requests(), [{ status: 200 }])
  t.ok(pulled.right())
})

t.test('a file that is cut off while it is sent: its length was a lie', async (t) => {
  serve('lying.gguf', original)
  const pulled = prepare(t, `${nginx.url}/slow/lying.gguf`)
  let cut = false
  const result = await pulled.run(
    {},
    {
      onProgress: ({ bytesDone }) => {
        if (bytesDone < 150_000 || cut) return
        cut = true
        serve('lying.gguf', original.subarray(0, 120_000), 50)
      }
    }
  )
  t.match(result, { bytes: 120_000, restarted: 1 })
  t.ok(pulled.right(original.subarray(0, 120_000)))
  await t.rejects(pulled.run({ replace: true, bytes: size }), {
    code: 'ARCHIVE_REFUSED',
    details: { reason: /expected were/ }
  })
})

t.test('an expired signature keeps what has come; a new one goes on with it', async (t) => {
  const pulled = prepare(t, `${proxy.url}/signed/model.gguf?signature=5678`)
  const left = await abortAfter(pulled, 200_000)
  t.notMatch(readFileSync(`${pulled.part}.json`, 'utf8'), /5678/, 'the signature is noted nowhere')
  const refused = await pulled.run({ url: `${proxy.url}/signed/model.gguf?signature=old` }).catch((error) => error)
  t.match(refused, {
    code: 'AUTH_TOKEN_EXPIRED',
    httpStatus: 401,
    retryable: false,
    details: { status: 403, target: `${proxy.url}/signed/model.gguf` }
  })
  t.notMatch(JSON.stringify(refused), /old/)
  t.equal(statSync(pulled.part).size, left)
  t.match(await pulled.run(), { sha256, resumed: 1, attempts: 1 })
  const locked = prepare(t, `${proxy.url}/locked/model.gguf`)
  await t.rejects(locked.run(), { code: 'AUTH_TOKEN_EXPIRED', details: { status: 401 } })
  t.notOk(existsSync(locked.part), 'where nothing came nothing is left')
  t.match(await locked.run({ headers: { authorization: 'Bearer 1234' } }), { sha256 })
})

t.test('statuses: what may pass is tried again, what does not is told', async (t) => {
  const busy = prepare(t, `${nginx.url}/busy/model.gguf`)
  await t.rejects(busy.run({}, { retry: { attempts: 1 } }), {
    code: 'NETWORK_PARTITION',
    details: { retryAfterSeconds: 1 }
  })
  await t.rejects(prepare(t, `${nginx.url}/broken/`).run(), {
    code: 'NETWORK_PARTITION',
    details: { status: 500, attempts: 5 }
  })
  await t.rejects(prepare(t, `${nginx.url}/none`).run(), { code: 'ARCHIVE_REFUSED', details: { status: 404 } })
  await t.rejects(prepare(t, `${nginx.url}/circle/`).run(), {
    code: 'ARCHIVE_REFUSED',
    details: { reason: /redirects/ }
  })
  t.match(await prepare(t, `${nginx.url}/moved/model.gguf`).run(), { sha256, attempts: 1 })
})

t.test('a full disk is told before the first byte; one that fills meanwhile keeps what has come', async (t) => {
  const disk = smallDisk(t, '768k')
  if (!disk) return
  const large = serve('large.gguf', seededBytes(2 ** 20, 4))
  const refused = prepare(t, `${nginx.url}/large.gguf`, disk)
  await t.rejects(refused.run(), {
    code: 'RESOURCE_DISK_EXHAUSTED',
    details: { required: Math.ceil(2 ** 20 * 1.05), resourceInfo: { unit: 'bytes' } }
  })
  t.notOk(existsSync(refused.part) || existsSync(`${refused.part}.json`), 'nothing is left')
  t.type(large, 'string')
  const pulled = prepare(t, `${nginx.url}/slow/model.gguf`, disk)
  let free: (() => void) | undefined
  const onProgress = ({ bytesDone }: { bytesDone: number }): void => {
    if (bytesDone > 100_000) free ??= fillDisk(disk)
  }
  await t.rejects(pulled.run({ sha256 }, { onProgress }), { code: 'RESOURCE_DISK_EXHAUSTED' })
  t.ok(statSync(pulled.part).size > 100_000)
  await t.rejects(pulled.run({ sha256 }), { code: 'RESOURCE_DISK_EXHAUSTED' }, 'room for the rest is looked for first')
  free?.()
  t.match(
    await pulled.run({ sha256, url: `${nginx.url}/model.gguf` }),
    { sha256, resumed: 1 },
    'from another address too'
  )
  t.ok(pulled.right())
})

t.test('two calls for one file, and files of others beside it', async (t) => {
  const pulled = prepare(t, `${proxy.url}/model.gguf`)
  const abort = new AbortController()
  proxy.always = { kind: 'stall', after: 200_000 }
  const first = pulled.run({}, { signal: abort.signal })
  while (!existsSync(`${pulled.part}.json`)) await sleep(2)
  await t.rejects(pulled.run(), { code: 'FILE_WRITE_FAILED', details: { errno: 'EBUSY', path: pulled.part } })
  abort.abort()
  await t.rejects(first, { code: 'CANCELLED' })
  proxy.always = undefined
  writeFileSync(`${pulled.part}.json`, '{"url": 1')
  t.match(await pulled.run(), { resumed: 0, sha256 }, 'a note that cannot be read: from the beginning')
  writeFileSync(pulled.part, "somebody's")
  await t.rejects(pulled.run({ replace: true }), { code: 'VALIDATION_ERROR', details: { found: /no download/ } })
  t.equal(readFileSync(pulled.part, 'utf8'), "somebody's")
  t.ok(pulled.right())
  const folder = join(pulled.to, '../folder')
  mkdirSync(folder)
  await t.rejects(pulled.run({ to: folder }), { code: 'VALIDATION_ERROR', details: { path: 'to' } })
  await t.rejects(pulled.run({ to: join(pulled.to, 'below') }), { code: /^FILE_(READ|WRITE)_FAILED$/ })
  t.match(await pulled.run({ to: join(folder, 'a/b/c'), url: `${nginx.url}/model.gguf` }), { sha256 })
  symlinkSync(join(folder, 'a'), join(folder, 'link'))
  renameSync(join(folder, 'a/b/c'), join(folder, 'a/b/d'))
  t.match(await pulled.run({ to: join(folder, 'link/b/c'), url: `${nginx.url}/model.gguf` }), { sha256 })
})

t.test('an empty file, and what is no request', async (t) => {
  serve('empty', Buffer.alloc(0))
  const pulled = prepare(t, `${nginx.url}/empty`)
  t.match(await pulled.run(), { bytes: 0, sha256: sumOf(Buffer.alloc(0)), attempts: 1 })
  t.ok(pulled.right(Buffer.alloc(0)))
  for (const [over, path] of [
    [{ url: 'ftp://example.org/x' }, 'url'],
    [{ url: 'http://name:password@example.org/x' }, 'url'],
    [{ url: 'ftp://example.org/x?signature=password' }, 'url'],
    [{ to: '' }, 'to'],
    [{ sha256: 'abc' }, 'sha256'],
    [{ bytes: -1 }, 'bytes'],
    [{ headers: { 'a b': 'c' } }, 'headers']
  ] as const) {
    const error = await pulled.run(over).catch((thrown) => thrown)
    t.match(error, { code: 'VALIDATION_ERROR', details: { path } })
    t.notMatch(JSON.stringify(error), /password@|=password/)
  }
  await t.rejects(pulled.run({}, { signal: AbortSignal.abort('early') }), { code: 'CANCELLED', cause: 'early' })
})
