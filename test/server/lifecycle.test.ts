// A server from its first port to its last reply, and what an operator can have it do meanwhile.
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createServer as createNetServer } from 'node:net'
import t from 'tap'
import { createServer } from 'tiered-moe/server'
import { command, jsonLines, notBuilt } from '../cli/command.js'
import { ask, completion, failure, hold, loadLong, model, sha256, startEngine, startServer, until } from './setting.js'

/** The last event of a stream. */
const lastOf = (text: string) => JSON.parse(text.trimEnd().split('\n\n').at(-1)!.slice('data: '.length))

t.test('with one engine', async (t) => {
  const engine = await startEngine()
  t.teardown(() => engine.dispose())
  await loadLong(engine, t.testdir())

  await t.test('the next free port', async (t) => {
    const taken = createNetServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    t.teardown(() => taken.close())
    const { port } = taken.address() as AddressInfo
    const alone = await createServer(engine, { port })
    await t.rejects(alone.listen(), { code: 'PORT_IN_USE', exitCode: 1, details: { tried: [port], bound: null } })
    await alone.close()
    const { server, url, events, close } = await startServer({ port, portTries: 20 }, { engine })
    t.teardown(close)
    await until(() => events.some(({ event }) => event === 'server_listening'))
    const moved = events.find(({ event }) => event === 'port_moved')!
    t.match(moved.fields, { tried: [port, port + 1], bound: Number(new URL(url).port) })
    t.equal((await ask(`${server.url}/health/ready`)).status, 200)
    const elsewhere = await createServer(engine, {
      host: '127.0.0.300',
      port: 0,
      keys: [{ id: 'a', sha256: sha256('x') }]
    })
    await t.rejects(elsewhere.listen(), { code: 'CONFIG_INVALID', details: { path: 'server.host' } })
    await elsewhere.close()
    await t.rejects(elsewhere.listen(), { code: 'LIFECYCLE_INVALID_TRANSITION', details: { from: 'closed' } })
    await t.rejects(server.listen(), { code: 'LIFECYCLE_INVALID_TRANSITION', details: { from: 'listening' } })
    t.equal((await ask(`${server.url}/health/ready`)).status, 200)
  })

  await t.test('deadlines: of a request, and to its first token', async (t) => {
    const told: string[] = []
    const onError = ({ code }: { code: string }) => told.push(code)
    const { url, close } = await startServer({ deadlines: { requestMs: 400, streamMs: 1000 }, onError }, { engine })
    t.teardown(close)
    const late = await ask(`${url}/v1/completions`, { model: 'long', prompt: [1, 2], max_tokens: 60_000 })
    t.same(failure(late), [504, 'INFERENCE_TIMEOUT'])
    t.match(late.body.error, {
      retryable: true,
      type: 'GATEWAY_TIMEOUT',
      details: { deadline: 'request', timeout: 400 }
    })
    t.ok(late.body.error.details.usage.completion_tokens > 0, 'with its partial text')
    t.same(told, ['INFERENCE_TIMEOUT'], 'of the server, which says so')
    const stream = await hold(url)
    t.equal(stream.status, 200)
    t.match(lastOf(await stream.text), { error: { code: 'INFERENCE_TIMEOUT', details: { deadline: 'request' } } })
    const first = await startServer({ deadlines: { firstTokenMs: 1 } }, { engine })
    t.teardown(first.close)
    const prompt = Array.from({ length: 20_000 }, (_, i) => i % 200)
    const slow = await ask(`${first.url}/v1/completions`, { model: 'long', prompt, max_tokens: 5 })
    t.same(failure(slow), [504, 'INFERENCE_TIMEOUT'])
    t.equal(slow.body.error.details.deadline, 'first_token')
  })

  await t.test('the place in line, as comments', async (t) => {
    const { url, server, events, close } = await startServer({ admission: { concurrency: 1 } }, { engine })
    t.teardown(close)
    const held = await hold(url)
    const asked = ask(`${url}/v1/completions`, completion({ stream: true }), { headers: { 'x-queue-events': '1' } })
    await until(() => server.stats().admission.queued === 1)
    held.letGo()
    const { body } = await asked
    t.match(body, /^: queued position=1\n\n(.|\n)*\[DONE\]\n\n$/)
    await until(() => events.some(({ event }) => event === 'request_queued'))
  })

  await t.test('administration', async (t) => {
    const { url, close } = await startServer({}, { engine })
    t.teardown(close)
    const admin = (action: string, body: object = {}) => ask(`${url}/admin/${action}`, body)
    const { body: change } = await admin('tier-set', { model, tier_set: 'fast' })
    t.match(change.active, { name: 'fast' })
    t.same(failure(await admin('tier-set', { model, tier_set: 'absent' })), [400, 'CONFIG_UNKNOWN_TIER'])
    for (const fields of [{}, { tier_set: 'fast', latency_budget_ms: 5 }]) {
      t.match((await admin('tier-set', { model, ...fields })).body.error, {
        code: 'VALIDATION_ERROR',
        param: 'tier_set'
      })
    }
    t.same((await admin('freeze', { retry_after_seconds: 7 })).body, { state: 'frozen' })
    const refused = await ask(`${url}/v1/completions`, completion())
    t.same(failure(refused), [503, 'ENGINE_FROZEN'])
    t.equal(refused.headers.get('retry-after'), '7')
    t.same((await admin('thaw')).body, { state: 'active' })
    t.same(failure(await admin('thaw')), [500, 'LIFECYCLE_INVALID_TRANSITION'])
    const swap = { model, changes: [{ action: 'reinitialise', layer: 0, expert: 1, seed: 3 }] }
    t.equal((await admin('experts/swap', swap)).status, 200)
    const { body } = await admin('models/swap', { id: model, request: { context_length: 64, chat_template: 'plain' } })
    t.equal(body.descriptor.id, model)
    const state = await admin('state')
    t.match(state.body, { state: 'active', ready: true, models: [{ id: model, contextLength: 64 }, { id: 'long' }] })
    t.equal(state.body.failures[0].code, 'LIFECYCLE_INVALID_TRANSITION')
    t.ok(state.body.failures[0].suggestedAction)
    t.same(failure(await admin('models/swap', { id: 'absent', request: {} })), [404, 'MODEL_NOT_LOADED'])
    t.same(failure(await admin('nothing')), [404, 'NOT_FOUND'])
  })

  await t.test('a request that waits is served by what its model is when its turn comes', async (t) => {
    const { url, server, close } = await startServer({ admission: { concurrency: 1 } }, { engine })
    t.teardown(close)
    const held = await hold(url)
    const waiting = ask(`${url}/v1/completions`, completion({ stream: true }))
    await until(() => server.stats().admission.queued === 1)
    await engine.swapModel(model, { chatTemplate: 'plain' })
    held.letGo()
    t.match((await waiting).body, /\[DONE\]\n\n$/)
  })

  await t.test('a drain lets end what has begun, within its time, and refuses the rest', async (t) => {
    const { url, server, events } = await startServer({}, { engine })
    const short = await hold(url, { model, max_tokens: 40, prompt: 'ROMEO:' })
    const held = await hold(url)
    const drained = server.drain(400)
    const refused = await ask(`${url}/v1/completions`, completion())
    t.same(failure(refused), [503, 'SERVICE_UNAVAILABLE'])
    t.equal(refused.body.error.details.reason, 'draining')
    t.equal(refused.headers.get('connection'), 'close')
    t.match((await ask(`${url}/health/ready`)).body, { status: 'unready', reason: 'draining' })
    t.match(await short.text, /\[DONE\]\n\n$/, 'it had time to end')
    const cut = lastOf(await held.text)
    t.match(cut, { error: { code: 'SERVICE_UNAVAILABLE', details: { reason: 'draining', usage: {} } } })
    await drained
    await t.rejects(ask(`${url}/health/live`), TypeError, 'nobody listens any more')
    await until(() => events.some(({ event }) => event === 'server_draining'))
    t.equal(engine.state, 'active', 'the engine stays')
    t.ok(engine.listModels().every(({ activeSequences }) => activeSequences === 0))
  })
})

t.test('tiered-moe serve', { skip: notBuilt }, async (t) => {
  let url = ''
  let streaming: Promise<string> | undefined
  const args = ['serve', '--port', '0', '--json', '--log', 'json', '--threads', '1', '--drain', '20']
  const { code, stdout, stderr } = await command(args, {
    onOutput: (child, text) => {
      if (url !== '' || !text.includes('\n')) return
      url = (jsonLines(text)[0] as { url: string }).url
      const use = async () => {
        const { body } = await ask(`${url}/v1/chat/completions`, {
          model,
          messages: [{ role: 'user', content: 'Who?' }],
          max_tokens: 3
        })
        t.equal(body.usage.completion_tokens, 3, 'a chat, with the plain template')
        const held = await hold(url, { model, prompt: 'ROMEO:', max_tokens: 100 })
        streaming = held.text
        child.kill('SIGTERM')
      }
      use().catch((error: unknown) => {
        t.error(error)
        child.kill('SIGKILL')
      })
    }
  })
  t.equal(code, 0, stderr)
  t.match(await streaming, /\[DONE\]\n\n$/, 'what had begun has ended')
  t.same(jsonLines(stdout)[0], { url, models: [model] })
  const events = jsonLines(stderr).map(({ event }) => event)
  for (const event of ['config_loaded', 'model_loaded', 'server_listening', 'server_draining'])
    t.ok(events.includes(event), event)
  const refused = await command(['serve', '--host', '0.0.0.0', '--json', '--log', 'off'])
  t.equal(refused.code, 2, 'nobody else without keys')
  t.equal(jsonLines(refused.stderr).at(-1)?.code, 'CONFIG_INVALID')
})
