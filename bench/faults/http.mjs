// The server's border: what is no request, who may not ask, and clients that are too slow or go away.
import { createHash } from 'node:crypto'
import { connect, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { startServer } from './server.mjs'
import { id } from './serving.mjs'

const statuses = ['pattern 6', 'pattern 5']
const sha256 = (text) => createHash('sha256').update(text).digest('hex')
const secret = 'a-secret-of-this-run'

/** A row of one answer of the server with keys. */
const answer = (row, ask, more = () => {}) => ({
  at: ['http'],
  recovery: 'the code, its class and what to do are in the body; the next request is served',
  ...row,
  async run(t, { keyed }) {
    await keyed.watched(t, async () => {
      const found = await ask(keyed)
      t.sawHttp(found)
      await more(t, found, keyed)
      t.check('the next one is served', (await keyed.text({ max_tokens: 2 }, { key: 'full' }))?.length > 0)
      t.check('no key is in the log', !keyed.told().includes(secret))
    })
  }
})

/** Bytes over a bare connection, and the answer as text; `wait`: nothing more is sent. */
function raw(server, bytes) {
  const { port } = new URL(server.url)
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), '127.0.0.1', () => socket.write(bytes))
    let text = ''
    socket.setEncoding('utf8').on('data', (part) => {
      text += part
    })
    socket.on('error', reject)
    socket.on('close', () => {
      const [head, body = ''] = text.split('\r\n\r\n')
      const headers = Object.fromEntries(
        [...head.matchAll(/^([\w-]+): (.*?)\r?$/gm)].map(([, name, value]) => [name.toLowerCase(), value])
      )
      resolve({
        status: Number(/^HTTP\/1.1 (\d+)/.exec(head)?.[1]),
        headers,
        body: body ? JSON.parse(body) : undefined
      })
    })
  })
}

export default {
  name: 'http',
  title: 'HTTP and keys',
  async begin(folder) {
    const keys = [
      { id: 'full', sha256: sha256('full'), admin: true },
      { id: 'old', sha256: sha256(secret), expires_at: '2020-01-01T00:00:00Z' },
      { id: 'narrow', sha256: sha256('narrow'), tier_sets: ['fast'], models: ['another'] }
    ]
    const limits = { body_bytes: 4096, header_ms: 200, body_ms: 200 }
    return {
      folder,
      keyed: await startServer(folder, { models: [{ id, context_length: 256 }], server: { keys, limits } })
    }
  },
  async end(shared) {
    await shared?.keyed.stop()
  },
  rows: [
    answer(
      { id: 'no-json', covers: statuses, inject: 'a body that is no JSON', code: 'REQUEST_PARSE_FAILED' },
      (server) => server.post('/v1/completions', '{"model": ', { key: 'full' })
    ),
    answer(
      {
        id: 'wrong-field',
        covers: statuses,
        inject: 'a field with a value that is not allowed',
        code: 'VALIDATION_ERROR'
      },
      (server) => server.complete({ temperature: -1 }, { key: 'full' }),
      (t, { body }) => t.check('the field is named', body?.error?.param === 'temperature')
    ),
    answer(
      { id: 'unknown-model', covers: statuses, inject: 'a model that is not loaded', code: 'MODEL_NOT_LOADED' },
      (server) => server.complete({ model: 'nobody' }, { key: 'full' })
    ),
    answer(
      { id: 'unknown-route', covers: statuses, inject: 'an address that there is not', code: 'NOT_FOUND' },
      (server) => server.ask('GET', '/v2/nothing', { key: 'full' })
    ),
    answer({ id: 'no-key', covers: statuses, inject: 'a request without a key', code: 'UNAUTHORIZED' }, (server) =>
      server.complete()
    ),
    answer(
      {
        id: 'unknown-key',
        full: true,
        covers: statuses,
        inject: 'a key that the server does not know',
        code: 'UNAUTHORIZED'
      },
      (server) => server.complete({}, { key: `${secret}-not` })
    ),
    answer(
      {
        id: 'expired-key',
        covers: ['edge 14', ...statuses],
        inject: 'a key that has ended',
        code: 'AUTH_TOKEN_EXPIRED'
      },
      (server) => server.complete({}, { key: secret })
    ),
    answer(
      {
        id: 'foreign-model',
        covers: ['edge 14', ...statuses],
        inject: 'a key that may not use the model',
        code: 'FORBIDDEN'
      },
      (server) => server.complete({}, { key: 'narrow' })
    ),
    answer(
      { id: 'no-admin', full: true, covers: statuses, inject: 'a key that is no admin at /admin', code: 'FORBIDDEN' },
      (server) => server.post('/admin/freeze', {}, { key: 'narrow' })
    ),
    answer(
      {
        id: 'large-body',
        covers: ['pattern 8', ...statuses],
        inject: 'a body over the limit',
        code: 'REQUEST_TOO_LARGE'
      },
      (server) => server.complete({ prompt: 'x'.repeat(8192) }, { key: 'full' })
    ),
    answer(
      {
        id: 'slow-head',
        covers: ['pattern 7', 'edge 4'],
        inject: 'a client sends half of a head and waits (slow loris)',
        code: 'REQUEST_TIMEOUT'
      },
      (server) => raw(server, 'POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n')
    ),
    answer(
      {
        id: 'slow-body',
        covers: ['pattern 7', 'edge 4'],
        inject: 'a client sends half of a body and waits',
        code: 'REQUEST_TIMEOUT'
      },
      (server) =>
        raw(
          server,
          'POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer full\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"model"'
        )
    ),
    answer(
      { id: 'no-http', covers: statuses, inject: 'bytes that are no HTTP', code: 'REQUEST_PARSE_FAILED' },
      (server) => raw(server, '\x16\x03\x01 hello\r\n\r\n')
    ),
    {
      id: 'client-gone',
      covers: ['edge 7', 'pattern 4'],
      inject: 'the client closes its connection in the middle of a stream',
      at: ['http'],
      recovery: 'native work stops, nothing of the request is held, and others are served',
      async run(t, { keyed }) {
        await keyed.watched(t, async () => {
          const controller = new AbortController()
          await keyed
            .complete(
              { max_tokens: 240, stream: true },
              { key: 'full', signal: controller.signal, onData: () => controller.abort() }
            )
            .catch(() => undefined)
          let state
          for (let i = 0; i < 100; i++) {
            state = (await keyed.ask('GET', '/admin/state', { key: 'full' })).body
            if (state?.models[0].activeSequences === 0 && state.admission.running === 0) break
            await sleep(10)
          }
          t.check('its sequence is gone', state?.models[0].activeSequences === 0 && state.admission.running === 0)
          t.sawHttp(await keyed.complete({ max_tokens: 2 }, { key: 'full' }))
        })
      }
    },
    {
      id: 'port-in-use',
      covers: ['S008 configuration: descriptive message', 'pattern 5'],
      inject: 'another program listens on the port',
      code: 'PORT_IN_USE',
      at: ['cli'],
      recovery: 'the ports tried are named; with port_tries the next free one is taken',
      async run(t, { folder }) {
        const other = createServer()
        await new Promise((resolve) => other.listen(0, '127.0.0.1', resolve))
        const { port } = other.address()
        await t.cli(['serve', '--port', String(port)])
        const next = await startServer(folder, { models: [{ id }], server: { port, port_tries: 20 } })
        t.check('the next one was taken', Number(new URL(next.url).port) > port)
        t.check('it serves', (await next.text({ max_tokens: 2 }))?.length > 0)
        await next.stop()
        await new Promise((resolve) => other.close(resolve))
      }
    }
  ]
}
