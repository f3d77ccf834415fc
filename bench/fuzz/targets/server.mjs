// What comes to the server: raw bytes on its port, and bodies that are JSON.
import { connect } from 'node:net'
import { catalog } from '../../../dist/esm/errors/index.js'
import { createEngine } from '../../../dist/esm/index.js'
import { createServer } from '../../../dist/esm/server/index.js'
import { mutatedBytes, mutatedValue } from '../mutate.mjs'

const chat = {
  model: 'tiny-shakespeare',
  messages: [{ role: 'user', content: 'ROMEO:' }],
  max_tokens: 2,
  temperature: 0,
  seed: 1,
  stop: ['\n'],
  stream: false
}
const completion = {
  model: 'tiny-shakespeare',
  prompt: 'ROMEO:',
  max_tokens: 2,
  logprobs: 1,
  stream: true,
  stream_options: { include_usage: true }
}
const samples = [
  [
    '/v1/chat/completions',
    { ...chat, response_format: { type: 'text' }, priority: 5, tierSet: 'all', latencyBudgetMs: 100, user: 'u' }
  ],
  [
    '/v1/chat/completions',
    {
      ...chat,
      messages: [
        { role: 'system', content: [{ type: 'text', text: 'a' }] },
        { role: 'user', content: 'b' }
      ]
    }
  ],
  ['/v1/completions', completion],
  ['/v1/completions', { ...completion, prompt: [1, 2, 3], stream: false, top_k: 4, min_p: 0.1 }],
  ['/admin/tier-set', { model: 'tiny-shakespeare', tier_set: 'all' }]
]

/** A text that an answer may have: an error of the catalogue, and none that says that something inside broke. */
function codeOf(status, body) {
  if (status < 400) return String(status)
  const code = JSON.parse(body)?.error?.code
  if (!Object.hasOwn(catalog, code))
    throw new Error(`status ${status} without a code of the catalogue: ${body.slice(0, 300)}`)
  if (['RUNTIME_INVARIANT_VIOLATED', 'UNKNOWN_ERROR'].includes(code))
    throw new Error(`${status} ${code}: ${body.slice(0, 2000)}`)
  return code
}

async function started() {
  const engine = await createEngine({ threads: 1, telemetry: { openTelemetry: false } })
  await engine.loadModel({ id: 'tiny-shakespeare', chatTemplate: 'plain' })
  const server = await createServer(engine, { port: 0, drainMs: 0, deadlines: { requestMs: 300, streamMs: 300 } })
  const { port } = await server.listen()
  return { port, url: `http://127.0.0.1:${port}` }
}

export async function bodies() {
  const { url } = await started()
  return {
    make(draw) {
      const [path, body] = draw.pick(samples)
      const text = JSON.stringify(mutatedValue(draw, body))
      return { path, text: draw.chance(0.2) ? mutatedBytes(draw, [Buffer.from(text)]).toString() : text }
    },
    async parse({ path, text }) {
      const answer = await fetch(url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: text
      })
      return codeOf(answer.status, await answer.text())
    }
  }
}

const words = [
  '\r\n',
  '\r\n\r\n',
  'Content-Length: 5\r\n',
  'Transfer-Encoding: chunked\r\n',
  '0\r\n\r\n',
  'Host: a\r\n',
  'Expect: 100-continue\r\n',
  'Authorization: Bearer x\r\n',
  ' HTTP/1.1',
  '%2e%2e/',
  '\u0000'
]

export async function http() {
  const { port } = await started()
  const raw = [
    ...samples.map(([path, body]) => {
      const text = JSON.stringify(body)
      return Buffer.from(
        `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`
      )
    }),
    ...['/v1/models', '/health/ready', '/metrics', '/admin/state', '/v1/models/x'].map((path) =>
      Buffer.from(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer abc\r\nConnection: close\r\n\r\n`)
    )
  ]
  return {
    make: (draw) => mutatedBytes(draw, raw, words),
    async parse(bytes) {
      const answer = await exchange(port, bytes)
      const head = /^HTTP\/1\.1 (\d{3}) /.exec(answer)
      if (!head) {
        if (answer !== '') throw new Error(`no answer of HTTP: ${answer.slice(0, 300)}`)
        return 'closed'
      }
      const status = Number(head[1])
      // Of the requests that were made of one, the first answer is looked at; its body is the last thing of a single one.
      const first = answer.slice(answer.indexOf('\r\n\r\n') + 4)
      if (status < 400 || answer.split('HTTP/1.1 ').length > 2) return String(status)
      const length = Number(/^content-length: (\d+)/im.exec(answer)?.[1] ?? first.length)
      return length === 0 || /^HEAD /.test(String(bytes)) ? String(status) : codeOf(status, first)
    }
  }
}

/** Sends all bytes and the end, and reads to the end. */
function exchange(port, bytes) {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' })
    let answer = ''
    socket.on('data', (piece) => {
      answer += piece.toString('latin1')
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(answer))
    socket.setTimeout(5000, () => socket.destroy())
    socket.end(bytes)
  })
}
