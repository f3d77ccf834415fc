/** Downloads from a server that answers with whatever bytes it likes, and into folders where somebody has put something. */
import { createHash } from 'node:crypto'
import { existsSync, lstatSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import type { PullOptions, PullRequest, PullResult } from 'tiered-moe'
import { pullFile } from 'tiered-moe'

/** What the server sends for a path, as it is; then it closes the connection. */
const answers = new Map<string, string>()
const server = createServer((socket) => {
  socket.on('error', () => undefined)
  socket.once('data', (request) => {
    const [, path = ''] = /^GET (\S+)/.exec(request.toString('latin1')) ?? []
    const answer = answers.get(path)
    if (answer === undefined) socket.end('HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n')
    else if (answer.startsWith('HTTP/1.1 1')) socket.write(answer)
    else socket.end(answer, 'latin1')
  })
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
t.teardown(() => server.close())
const { port } = server.address() as { port: number }

const body = 'all that there is'
const whole = `HTTP/1.1 200 OK\r\netag: "a"\r\ncontent-length: ${body.length}\r\n\r\n${body}`
const sha256 = createHash('sha256').update(body).digest('hex')

function pull(to: string, answer: string, over: Partial<PullRequest> = {}, options: PullOptions = {}) {
  const path = `/${answers.size}`
  answers.set(path, answer)
  const quick = {
    retry: { attempts: 2, delaysMs: [1], jitterMs: 0 },
    timeouts: { firstByteMs: 300, betweenBytesMs: 300 }
  }
  return pullFile({ url: `http://127.0.0.1:${port}${path}`, to, ...over }, { ...quick, ...options })
}

/** The result, or the error. */
const outcome = (pulled: Promise<PullResult>) => pulled.catch((error) => error)

t.test('answers that no server should give end with a code, and leave nothing', async (t) => {
  const unreachable = { code: 'NETWORK_PARTITION', details: { attempts: 2 } }
  const refused = { code: 'ARCHIVE_REFUSED' }
  const ok = 'HTTP/1.1 200 OK\r\n'
  const partial = 'HTTP/1.1 206 Partial Content\r\n'
  const cases: [name: string, answer: string, expected: object][] = [
    ['another protocol', 'HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n', unreachable],
    ['another protocol, which it does not name', 'HTTP/1.1 101 Switching Protocols\r\n\r\n', refused],
    ['nothing but news of its progress', 'HTTP/1.1 102 Processing\r\n\r\n'.repeat(5), unreachable],
    ['no HTTP', 'SSH-2.0-x\r\n', unreachable],
    ['nothing', '', unreachable],
    ['a head without an end', `${ok}x: ${'a'.repeat(100_000)}`, unreachable],
    ['fewer bytes than it says', `${ok}content-length: 100\r\n\r\n${body}`, unreachable],
    ['a length that is none', `${ok}content-length: 1e3\r\n\r\n${body}`, unreachable],
    ['two lengths', `${ok}content-length: 5\r\ncontent-length: 6\r\n\r\n${body}`, unreachable],
    ['no length', `${ok}\r\n${body}`, refused],
    ['more bytes than there are numbers', `${ok}content-length: ${'9'.repeat(19)}\r\n\r\n${body}`, refused],
    [
      'more bytes than the disk has',
      `${ok}content-length: ${2 ** 52}\r\n\r\n${body}`,
      { code: 'RESOURCE_DISK_EXHAUSTED' }
    ],
    ['a coding that nobody asked for', `${ok}content-encoding: gzip\r\ncontent-length: 9\r\n\r\n${body}`, refused],
    ['a part of the file', `${partial}content-range: bytes 5-9/10\r\n\r\n12345`, unreachable],
    ['a part that ends before its beginning', `${partial}content-range: bytes 0-/0\r\n\r\n`, unreachable],
    ['no content', 'HTTP/1.1 204 No Content\r\n\r\n', refused],
    ['not modified', 'HTTP/1.1 304 Not Modified\r\n\r\n', refused],
    ['a redirect to nowhere', 'HTTP/1.1 302 Found\r\nlocation: http://\r\ncontent-length: 0\r\n\r\n', refused],
    ['a redirect to a file', 'HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\ncontent-length: 0\r\n\r\n', refused]
  ]
  for (const [name, answer, expected] of cases) {
    const to = join(t.testdir(), 'file')
    t.match(await outcome(pull(to, answer)), expected, name)
    for (const path of [to, `${to}.part`, `${to}.part.json`]) {
      // What came of a longer one is kept.
      if (!name.startsWith('fewer')) t.notOk(existsSync(path), `${name}: ${path}`)
    }
  }
  const late = `HTTP/1.1 503 Later\r\nretry-after: ${'9'.repeat(400)}\r\ncontent-length: 0\r\n\r\n`
  const error = await outcome(pull(join(t.testdir(), 'file'), late, {}, { retry: { attempts: 1 } }))
  t.ok(Number.isSafeInteger(error.details.retryAfterSeconds), 'a wait that has an end')
})

t.test('links that are there already are not written through', async (t) => {
  const folder = t.testdir({ victim: 'of somebody else' })
  const [to, victim] = [join(folder, 'file'), join(folder, 'victim')]
  symlinkSync(victim, `${to}.part`)
  const note = { url: `http://127.0.0.1:${port}/${answers.size}`, bytes: 100, validator: '"a"', sha256: null }
  writeFileSync(`${to}.part.json`, JSON.stringify(note))
  t.match(await outcome(pull(to, whole)), { code: 'FILE_WRITE_FAILED', details: { errno: 'ELOOP' } })
  t.equal(readFileSync(victim, 'utf8'), 'of somebody else')
  const other = join(folder, 'other')
  symlinkSync(victim, `${other}.part.json.tmp`)
  t.match(await outcome(pull(other, whole)), { sha256 })
  t.equal(readFileSync(victim, 'utf8'), 'of somebody else')
  t.notOk(existsSync(`${other}.part.json.tmp`))
  symlinkSync(join(folder, 'nowhere'), join(folder, 'link'))
  t.match(await outcome(pull(join(folder, 'link'), whole)), { sha256 })
  t.ok(lstatSync(join(folder, 'link')).isFile(), 'a link to nothing is replaced')
})

t.test('a file that appears meanwhile stays, unless it is to be replaced', async (t) => {
  const folder = t.testdir()
  const to = join(folder, 'file')
  const appear = (text: string) => ({
    onProgress: ({ bytesDone }: { bytesDone: number }) => {
      if (bytesDone > 0) writeFileSync(to, text)
    }
  })
  t.match(await outcome(pull(to, whole, {}, appear('mine'))), { code: 'VALIDATION_ERROR', details: { path: 'to' } })
  t.equal(readFileSync(to, 'utf8'), 'mine')
  t.equal(readFileSync(`${to}.part`, 'utf8'), body, 'what has come is kept')
  t.match(await outcome(pull(to, whole, { sha256, replace: true }, appear('mine'))), { sha256 })
  t.equal(readFileSync(to, 'utf8'), body)
  const same = join(folder, 'same')
  const copy = { onProgress: () => writeFileSync(same, body) }
  t.match(await outcome(pull(same, whole, { sha256 }, copy)), { sha256, bytes: body.length })
  t.equal(readFileSync(same, 'utf8'), body)
  t.notOk(existsSync(`${same}.part`), 'it was the same one')
})

t.test('a part that is whole, of a file with another size than is asked for, does not count', async (t) => {
  const to = join(t.testdir(), 'file')
  const url = `http://127.0.0.1:${port}/${answers.size}`
  writeFileSync(`${to}.part`, 'of an older one')
  writeFileSync(`${to}.part.json`, JSON.stringify({ url, bytes: 15, validator: '"old"', sha256: null }))
  t.match(await outcome(pull(to, whole, { bytes: body.length })), { bytes: body.length, sha256, resumed: 0 })
})
