// Clients that take nothing of what they are sent, that go away, and that ask again before they have their answer: what each may hold.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import type { Server } from 'tiered-moe/server'
import { ask, hold, loadLong, startEngine, startServer, until } from './setting.js'

/** Much of it for each token, so that what lies between server and client is soon full. */
const wide = { model: 'long', prompt: [1, 2, 3], max_tokens: 60_000, stream: true, logprobs: 20 }

const post = (fields: object): string => {
  const body = JSON.stringify(fields)
  const head = 'POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n'
  return `${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
}

/** Resolves when nothing more is computed for the one that runs: its client takes nothing, and what lies between is full. */
async function stalled(server: Server): Promise<void> {
  let [tokens, same] = [0, 0]
  await until(() => {
    const before = tokens
    tokens = server.stats().admission.kvBytesFilled
    same = tokens > 0 && tokens === before ? same + 1 : 0
    return same === 40
  })
}

t.test('clients that are slow', async (t) => {
  const engine = await startEngine()
  t.teardown(() => engine.dispose())
  await loadLong(engine, t.testdir())
  const start = async (t: Test, options: Parameters<typeof startServer>[0]) => {
    const setting = await startServer(options, { engine })
    t.teardown(setting.close)
    const open = async (...requests: string[]): Promise<Socket> => {
      const socket = connect(Number(new URL(setting.url).port), '127.0.0.1')
      socket.on('error', () => {})
      await once(socket, 'connect')
      socket.write(requests.join(''))
      return socket
    }
    return { ...setting, open }
  }

  await t.test('a stream that nobody reads ends at its deadline, and holds nothing then', async (t) => {
    const { server, open } = await start(t, { deadlines: { streamMs: 3000 } })
    const socket = await open(post(wide))
    await until(() => server.stats().admission.running === 1)
    await until(() => server.stats().requests === 0)
    t.match(server.stats(), { connections: 1, admission: { running: 0, queued: 0 } })
    const rest = text(socket)
    await until(() => server.stats().connections === 0 || socket.bytesRead > 0)
    socket.end()
    const all = await rest
    t.match(all, /"code":"INFERENCE_TIMEOUT"/, 'what it reads later ends with that')
    t.notMatch(all, /\[DONE\]/)
  })

  await t.test('nor does it keep a server from its end', async (t) => {
    const { server, open } = await start(t, {})
    await open(post(wide))
    await until(() => server.stats().admission.running === 1)
    await stalled(server)
    await server.drain(50)
    await until(() => server.stats().connections === 0)
  })

  await t.test('whoever takes nothing for too long is gone', async (t) => {
    const { server, open } = await start(t, { limits: { idleMs: 300 } })
    const socket = await open(post(wide))
    await until(() => server.stats().admission.running === 1)
    await until(() => server.stats().connections === 0)
    t.match(server.stats(), { requests: 0, admission: { running: 0 } })
    socket.destroy()
    const whole = await open(post({ ...wide, stream: false, max_tokens: 5000 }))
    await until(() => server.stats().admission.admitted === 2 && server.stats().requests === 0)
    await until(() => server.stats().connections === 0)
    whole.destroy()
  })

  await t.test('requests in a row on one connection end with it', async (t) => {
    const { server, open } = await start(t, {})
    const whole = { model: 'long', prompt: [1, 2], max_tokens: 60_000 }
    const socket = await open(post({ ...whole, stream: true }), post(whole), post({ ...wide, max_tokens: 50_000 }))
    await until(() => server.stats().admission.running === 3)
    socket.destroy()
    await until(() => server.stats().requests === 0)
    t.equal(server.stats().admission.running, 0)
  })

  await t.test('what is not HTTP in the middle of a stream gets no answer in the middle of it', async (t) => {
    const { server, open } = await start(t, {})
    const socket = await open(post({ ...wide, logprobs: undefined }))
    const all = text(socket)
    await until(() => server.stats().admission.running === 1 && server.stats().admission.kvBytesFilled > 0)
    socket.write('this is not HTTP\r\n\r\n')
    const answer = await all.catch(() => '')
    t.equal(answer.split('HTTP/1.1').length, 2, 'one head')
    await until(() => server.stats().requests === 0)
  })

  await t.test('who leaves in the middle of a body is no failure of anybody', async (t) => {
    const { url, server, open } = await start(t, {})
    const socket = await open(post(wide).slice(0, -10))
    await until(() => server.stats().connections === 1)
    // Its head has been read when a later request has its answer.
    await ask(`${url}/health/live`)
    socket.destroy()
    await until(() => server.stats().connections <= 1)
    t.same((await ask(`${url}/admin/state`)).body.failures, [])
  })

  await t.test('who leaves is counted', async (t) => {
    const { url, server } = await start(t, {})
    const held = await hold(url)
    held.letGo()
    await until(() => server.stats().requests === 0)
    const controller = new AbortController()
    const { signal } = controller
    const asked = ask(`${url}/v1/completions`, { ...wide, stream: false, logprobs: undefined }, { signal })
    await until(() => server.stats().admission.running === 1)
    controller.abort()
    await t.rejects(asked)
    await until(() => server.stats().requests === 0)
    const { body } = await ask(`${url}/metrics`)
    t.match(body, /^tiered_moe_http_requests_total\{route="\/v1\/completions",method="POST",status="499"\} 2$/m)
  })
})
