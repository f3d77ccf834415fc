// Clients that are slow, large or not HTTP at all: each gets its error, and its connection ends.
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { ask, completion, failure, startServer, until } from './setting.js'

t.test('limits', async (t) => {
  const limits = { bodyBytes: 2000, headerMs: 150, bodyMs: 150, idleMs: 100, connections: 4 }
  const { url, server, close } = await startServer({ limits })
  t.teardown(close)
  const { port } = new URL(url)
  /** What comes back for some bytes, until the connection ends. */
  const exchange = async (bytes: string): Promise<{ status: number; body: { error: Record<string, unknown> } }> => {
    const socket = connect(Number(port), '127.0.0.1')
    await once(socket, 'connect')
    socket.write(bytes)
    const answer = await text(socket)
    const [head = '', body = ''] = answer.split('\r\n\r\n')
    return { status: Number(head.split(' ')[1]), body: JSON.parse(body) }
  }
  const post = (head: string) => `POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n${head}`
  const json = 'content-type: application/json\r\n'

  const slow: [string, string, string][] = [
    ['nothing at all', '', 'idle'],
    ['a head that does not end', post('x-slow: '), 'headers'],
    ['a body that does not end', `${post(json)}content-length: 100\r\n\r\n{"model"`, 'body']
  ]
  for (const [what, bytes, phase] of slow) {
    await t.test(`${what}: 408`, async (t) => {
      const { status, body } = await exchange(bytes)
      t.equal(status, 408)
      t.match(body.error, { code: 'REQUEST_TIMEOUT', type: 'VALIDATION_ERROR', retryable: false, details: { phase } })
    })
  }

  await t.test('a body that is too large, by what its head says and by what comes', async (t) => {
    const large = completion({ prompt: 'x'.repeat(3000) })
    const answer = await ask(`${url}/v1/completions`, large)
    t.same(failure(answer), [413, 'REQUEST_TOO_LARGE'])
    t.match(answer.body.error.details, { limit: 2000, bytes: JSON.stringify(large).length })
    const said = await exchange(`${post(json)}content-length: 1000000000\r\nconnection: close\r\n\r\n`)
    t.same([said.status, said.body.error.code], [413, 'REQUEST_TOO_LARGE'])
    const chunk = `800\r\n${'x'.repeat(2048)}\r\n`
    const came = await exchange(`${post(json)}transfer-encoding: chunked\r\nconnection: close\r\n\r\n${chunk}`)
    t.same([came.status, came.body.error.code], [413, 'REQUEST_TOO_LARGE'])
  })

  await t.test('a head that is too large', async (t) => {
    const { status, body } = await exchange(post(`x-large: ${'x'.repeat(20_000)}\r\n\r\n`))
    t.same([status, body.error.code], [413, 'REQUEST_TOO_LARGE'])
  })

  await t.test('what is not HTTP', async (t) => {
    const { status, body } = await exchange('\x16\x03\x01 hello\r\n\r\n')
    t.same([status, body.error.code], [400, 'REQUEST_PARSE_FAILED'])
  })

  await t.test('a name that is not this machine', async (t) => {
    const { status, body } = await exchange(
      'GET /v1/models HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n'
    )
    t.same([status, body.error.code], [403, 'FORBIDDEN'])
  })

  await t.test('no Host, and expectations that nobody has heard of: answered like any request', async (t) => {
    const close = 'connection: close\r\n\r\n'
    const none = await exchange(`GET /v1/models HTTP/1.1\r\n${close}`)
    t.same([none.status, none.body.error.code, none.body.error.param], [400, 'VALIDATION_ERROR', 'host'])
    const { status } = await exchange(`GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\nexpect: the best\r\n${close}`)
    t.equal(status, 200)
  })

  await t.test('a connection without a request, and one more than there may be, are closed', async (t) => {
    await until(() => server.stats().connections === 0)
    const sockets = [1, 2, 3, 4].map(() => connect(Number(port), '127.0.0.1'))
    await Promise.all(sockets.map((socket) => once(socket, 'connect')))
    const fifth = connect(Number(port), '127.0.0.1')
    await once(fifth.resume(), 'close')
    for (const socket of sockets) socket.write('GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n')
    await Promise.all(sockets.map((socket) => once(socket.resume(), 'close')))
    await until(() => server.stats().connections === 0)
    const { body } = await ask(`${url}/metrics`)
    t.match(body, /^tiered_moe_http_connections_dropped_total 1$/m)
    t.match(body, /^tiered_moe_http_client_errors_total\{code="REQUEST_TIMEOUT"\} 3$/m)
  })

  await t.test('the metrics are in the form that Prometheus reads', async (t) => {
    const { body, headers } = await ask(`${url}/metrics`)
    t.equal(headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8')
    const label = '[a-zA-Z_]+="(?:[^"\\\\\\n]|\\\\.)*"'
    const sample = new RegExp(`^[a-z_]+(?:\\{${label}(?:,${label})*\\})? (?:[-+.e\\d]+|NaN|[-+]Inf)$`)
    const names = new Set<string>()
    for (const line of (body as string).trimEnd().split('\n')) {
      const [, kind, name = ''] = /^# (HELP|TYPE) (\S+) \S/.exec(line) ?? []
      if (kind === 'HELP') t.notOk(names.has(name), `${name} once`)
      if (kind) names.add(name)
      else t.match(line, sample)
    }
    t.ok(names.has('tiered_moe_http_request_seconds') && names.has('tiered_moe_engine_state'))
  })
})

t.test('bodies of 4 MiB in which everything is wrong: their first fault, and little memory', async (t) => {
  const script = fileURLToPath(new URL('./wrong-bodies.ts', import.meta.url))
  const args = ['--max-old-space-size=500', '--import=./scripts/test-loader.mjs', script]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  t.equal(status, 0, stderr.slice(0, 500))
  t.same(JSON.parse(stdout), ['messages[0].role', 'messages[0].role', 'messages[0].x', 'messages[0].content', 'x0'])
})
