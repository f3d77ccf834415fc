// The memory that a server's requests get: what the system has left, and what KV caches hold of it.
import t from 'tap'
import { kvMemory } from '../../lib/server/kv-memory.js'
import { FakeClock } from '../fixtures/clock.js'
import { ask, completion, hold, loadLong, startEngine, startServer, until } from './setting.js'

t.test('both are of one moment, and no older than a tenth of a second', (t) => {
  const clock = new FakeClock()
  let [available, filled] = [1000, 0]
  const memory = kvMemory(
    () => available,
    () => filled,
    clock
  )
  t.equal(memory(), 1000)
  ;[available, filled] = [700, 300]
  clock.skip(50)
  t.equal(memory(), 1000, 'what has been taken since was there then')
  clock.skip(60)
  t.equal(memory(), 1000)
  available = 200
  clock.skip(110)
  t.equal(memory(), 500, 'somebody else took the rest')
  t.end()
})

t.test('what a request takes: of a model that keeps all experts, beside them; under a budget, from them', async (t) => {
  const engine = await startEngine({ maxBatchTokens: 32 })
  t.teardown(() => engine.dispose())
  await engine.loadModel({ id: 'tight', memory: '8MiB', contextLength: 256 })
  await loadLong(engine, t.testdir())
  const { url, server, close } = await startServer({}, { engine })
  t.teardown(close)
  t.equal(engine.listModels().find(({ id }) => id === 'tight')!.memory.kept, 'budget')
  const { kvBytesPerToken } = engine.listModels().find(({ id }) => id === 'long')!
  const held = await hold(url)
  t.equal(server.stats().admission.kvBytes, 60_003 * kvBytesPerToken)
  await until(() => server.stats().admission.kvBytesFilled > 0)
  t.ok(server.stats().admission.kvBytesFilled < server.stats().admission.kvBytes)
  held.letGo()
  await until(() => server.stats().requests === 0)
  const asked = ask(`${url}/v1/completions`, completion({ model: 'tight', max_tokens: 200, stream: true }))
  await until(() => server.stats().admission.running === 1)
  t.equal(server.stats().admission.kvBytes, 0)
  t.equal((await asked).status, 200)
})
