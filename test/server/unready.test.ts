// What a server says while its engine computes nothing: before the body is read, with the reason and when to come again.
import { once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { createEngine } from 'tiered-moe'
import { loadingRefusal } from '../../lib/server/health.js'
import { ask, completion, failure, hold, loadLong, model, startEngine, startServer, until } from './setting.js'

/** The answer to a head whose body never comes. */
async function early(url: string): Promise<string> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  await once(socket, 'connect')
  const head =
    'POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100'
  socket.write(`${head}\r\nconnection: close\r\n\r\n`)
  return text(socket)
}

t.test('no model yet', async (t) => {
  const engine = await createEngine({ threads: 1 })
  t.teardown(() => engine.dispose())
  const { url, close } = await startServer({}, { engine })
  t.teardown(close)
  const refused = await early(url)
  t.match(refused, /^HTTP\/1\.1 503 [\s\S]*retry-after: 30\r\n[\s\S]*"reason":"loading"/)
  const answer = await ask(`${url}/v1/completions`, completion())
  t.same(failure(answer), [503, 'SERVICE_UNAVAILABLE'])
  t.equal(answer.headers.get('x-should-retry'), 'true')
  t.match((await ask(`${url}/health/ready`)).body, { reason: 'loading' })
  const { body } = await ask(`${url}/metrics`)
  t.match(body, /^tiered_moe_http_refused_total\{reason="loading"\} 2$/m)
  await engine.loadModel()
  t.equal((await ask(`${url}/v1/completions`, completion())).status, 200)
})

t.test('a model that is being loaded beside others', async (t) => {
  const engine = await startEngine()
  t.teardown(() => engine.dispose())
  const refusalOf = (own: string) => {
    try {
      engine.createGenerator({ model: own, prompt: 'ROMEO:' })
    } catch (error) {
      return loadingRefusal(error)
    }
    return undefined
  }
  const load = engine.loadModel({ id: 'second' })
  t.match(refusalOf('second'), { code: 'SERVICE_UNAVAILABLE', details: { reason: 'loading', retryAfterSeconds: 30 } })
  t.equal(refusalOf('third'), undefined, 'nobody loads it')
  await load
  t.equal(refusalOf('second'), undefined)
})

t.test('with an engine in another process', async (t) => {
  const isolation = { mode: 'process', restartDelayBaseMs: 2000, streams: { maxActive: 1 } } as const
  const engine = await createEngine({ threads: 1, isolation: { ...isolation, crashFolder: t.testdir() } })
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  await loadLong(engine, join(t.testdir()))
  const { url, close } = await startServer({}, { engine })
  t.teardown(close)

  await t.test('more streams than it may have', async (t) => {
    const held = await hold(url)
    const refused = await ask(`${url}/v1/completions`, completion())
    t.same(failure(refused), [503, 'SERVICE_UNAVAILABLE'])
    t.match(refused.body.error.details, { reason: 'streams', current: 1, limit: 1 })
    t.equal(refused.headers.get('retry-after'), '30')
    held.letGo()
    await held.text
  })

  await t.test('the only worker is dead', async (t) => {
    process.kill(engine.workers()[0]!.pid!, 'SIGKILL')
    await until(() => engine.workers()[0]!.state === 'restarting')
    t.match(await early(url), /^HTTP\/1\.1 503 [\s\S]*retry-after: 30\r\n[\s\S]*"reason":"workers"/)
    await until(() => engine.workers()[0]!.state === 'ready')
    t.equal((await ask(`${url}/v1/completions`, completion({ model }))).status, 200)
  })
})
