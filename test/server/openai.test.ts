// The official client of OpenAI, as it is, against the server: what it gives its users, what it throws, and when it tries again.
import OpenAI from 'openai'
import t from 'tap'
import { ask, hold, loadLong, model, sha256, startEngine, startServer, until } from './setting.js'

const keys = [
  { id: 'user', sha256: sha256('sk-user') },
  { id: 'old', sha256: sha256('sk-old'), expiresAt: '2020-01-01T00:00:00Z' },
  { id: 'fast', sha256: sha256('sk-fast'), tierSets: ['fast'] },
  { id: 'poor', sha256: sha256('sk-poor'), quota: { tokensTotal: 1 } },
  { id: 'admin', sha256: sha256('sk-admin'), admin: true }
]
const messages = [{ role: 'user' as const, content: 'Who is there?' }]
const request = { model, messages, max_tokens: 8, temperature: 0 }

t.test('the openai client', async (t) => {
  const engine = await startEngine()
  t.teardown(() => engine.dispose())
  await loadLong(engine, t.testdir())
  const { url, server, close } = await startServer(
    { keys, admission: { concurrency: 1, queueDepth: 0 }, deadlines: { requestMs: 20_000, streamMs: 20_000 } },
    { engine }
  )
  t.teardown(close)
  const clientOf = (apiKey: string, maxRetries = 0) => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries })
  const client = clientOf('sk-user')
  const expected = await engine.generate({ model, messages, maxTokens: 8, temperature: 0 })
  /** Requests for a chat that the server has answered, by status. */
  const answered = async (): Promise<Record<string, number>> => {
    const { body } = await ask(`${url}/metrics`, undefined, { key: 'sk-user' })
    const lines = (body as string).matchAll(
      /^tiered_moe_http_requests_total\{route="\/v1\/chat\/completions",method="POST",status="(\d+)"\} (\d+)$/gm
    )
    return Object.fromEntries([...lines].map(([, status, count]) => [status, Number(count)]))
  }

  await t.test('chat', async (t) => {
    const { choices, usage } = await client.chat.completions.create({ ...request, logprobs: true, top_logprobs: 3 })
    t.equal(choices[0]!.message.content, expected.text)
    t.equal(choices[0]!.message.role, 'assistant')
    t.equal(choices[0]!.finish_reason, expected.finishReason)
    t.equal(usage!.total_tokens, expected.usage.totalTokens)
    const content = choices[0]!.logprobs!.content!
    t.equal(content.length, 8)
    t.equal(content.map(({ token }) => token).join(''), expected.text)
    for (const { logprob, top_logprobs: top, bytes } of content) {
      t.equal(top.length, 3)
      t.equal(top[0]!.logprob, logprob, 'greedy takes the most likely')
      t.same(top[0]!.bytes, bytes)
    }
  })

  await t.test('parts of text, and what models answered before', async (t) => {
    const parts = [{ role: 'user' as const, content: [{ type: 'text' as const, text: 'Who is there?' }] }]
    const { choices } = await client.chat.completions.create({ ...request, messages: parts })
    t.equal(choices[0]!.message.content, expected.text)
    const more = [...messages, choices[0]!.message, { role: 'user' as const, content: 'Stand!' }]
    t.ok((await client.chat.completions.create({ ...request, messages: more })).choices[0]!.message.content)
  })

  await t.test('completions, with seed and stop', async (t) => {
    const ask = { model, prompt: 'ROMEO:', max_tokens: 24, temperature: 1, seed: 11 }
    const first = await client.completions.create(ask)
    t.same((await client.completions.create(ask)).choices, first.choices, 'the same seed, the same text')
    const { text } = first.choices[0]!
    const stop = text.trim().slice(4, 8)
    const stopped = await client.completions.create({ ...ask, stop })
    t.equal(stopped.choices[0]!.text, text.slice(0, text.indexOf(stop)))
    t.equal(stopped.choices[0]!.finish_reason, 'stop')
  })

  await t.test('models', async (t) => {
    const ids: string[] = []
    for await (const { id } of client.models.list()) ids.push(id)
    t.same(ids, [model, 'long'])
    t.equal((await client.models.retrieve('long')).id, 'long')
  })

  await t.test('a stream', async (t) => {
    const stream = await client.chat.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true }
    })
    let text = ''
    const reasons: (string | null)[] = []
    let total = 0
    for await (const { choices, usage } of stream) {
      text += choices[0]?.delta.content ?? ''
      if (choices[0]) reasons.push(choices[0].finish_reason)
      if (usage) total = usage.total_tokens
    }
    t.equal(text, expected.text)
    t.equal(reasons.at(-1), 'length')
    t.equal(total, expected.usage.totalTokens)
  })

  await t.test('a stream that its client leaves ends in the engine', async (t) => {
    const stream = await client.completions.create({ model: 'long', prompt: [1, 2], max_tokens: 60_000, stream: true })
    let chunks = 0
    for await (const _ of stream) if (++chunks === 3) break
    await until(() => server.stats().requests === 0)
    t.equal(server.stats().admission.running, 0)
    await until(() => engine.listModels().every(({ activeSequences }) => activeSequences === 0))
  })

  await t.test('a request that its client aborts ends in the engine', async (t) => {
    const controller = new AbortController()
    const asked = client.completions.create(
      { model: 'long', prompt: [1, 2], max_tokens: 60_000 },
      { signal: controller.signal }
    )
    await until(() => server.stats().admission.running === 1)
    controller.abort()
    t.ok((await asked.catch((error: unknown) => error)) instanceof OpenAI.APIUserAbortError)
    await until(() => server.stats().requests === 0)
  })

  const own = { ...request, model: 'absent' }
  const failures: [string, () => Promise<unknown>, object, number][] = [
    [
      'bad request',
      () => clientOf('sk-user', 2).chat.completions.create({ ...request, n: 3 }),
      OpenAI.BadRequestError,
      400
    ],
    ['no such key', () => clientOf('sk-absent', 2).chat.completions.create(request), OpenAI.AuthenticationError, 401],
    ['expired key', () => clientOf('sk-old', 2).chat.completions.create(request), OpenAI.AuthenticationError, 401],
    [
      'a TierSet that the key may not use',
      () => clientOf('sk-fast', 2).chat.completions.create({ ...request, tierSet: 'max' } as typeof request),
      OpenAI.PermissionDeniedError,
      403
    ],
    ['no such model', () => clientOf('sk-user', 2).chat.completions.create(own), OpenAI.NotFoundError, 404]
  ]
  for (const [what, call, kind, status] of failures) {
    await t.test(`${what}: ${status}, and no retry`, async (t) => {
      const before = await answered()
      const error = await call().then(
        () => undefined,
        (error: InstanceType<typeof OpenAI.APIError>) => error
      )
      t.ok(error instanceof (kind as typeof OpenAI.APIError), String(error?.constructor.name))
      t.equal(error?.status, status)
      t.ok(error?.code && error.type && error.requestID)
      t.equal((await answered())[status], (before[status] ?? 0) + 1)
    })
  }

  await t.test('a quota that only somebody can raise is not waited for', async (t) => {
    const poor = clientOf('sk-poor', 2)
    await poor.chat.completions.create(request)
    await t.rejects(poor.chat.completions.create(request), { status: 429, code: 'RATE_LIMITED' })
    t.equal((await answered())[429], 1)
  })

  await t.test('no room: 503 where nothing is tried again, else until there is some', async (t) => {
    // Not so much that a client would be told to come back much later.
    const held = await hold(url, { key: 'sk-user', max_tokens: 2000 })
    // How fast it goes decides when a client is told to come back.
    await until(() => server.stats().tokensPerSecond !== undefined)
    const error = await client.chat.completions.create(request).then(
      () => undefined,
      (error: InstanceType<typeof OpenAI.APIError>) => error
    )
    t.ok(error instanceof OpenAI.InternalServerError)
    t.match(error, { status: 503, code: 'SERVICE_UNAVAILABLE', type: 'SERVICE_UNAVAILABLE' })
    t.match(error, { error: { details: { reason: 'concurrency', limit: 1, current: 1 } } })
    t.ok(Number(error?.headers?.get('retry-after')) >= 1)
    const before = await answered()
    const again = clientOf('sk-user', 1).chat.completions.create(request)
    await until(() => (server.stats().admission.refused.concurrency ?? 0) >= 2)
    held.letGo()
    t.equal((await again).choices[0]!.message.content, expected.text)
    const after = await answered()
    t.equal(after[503], before[503]! + 1, 'tried once more')
    t.equal(after[200], before[200]! + 1)
  })

  await t.test('a failure within a stream is thrown, with what came before', async (t) => {
    const stream = await client.completions.create({ model: 'long', prompt: [1, 2], max_tokens: 60_000, stream: true })
    let chunks = 0
    const read = async () => {
      for await (const _ of stream) if (++chunks === 3) await engine.unloadModel('long')
    }
    const error = await read().then(
      () => undefined,
      (error: InstanceType<typeof OpenAI.APIError>) => error
    )
    t.ok(error instanceof OpenAI.APIError)
    t.match(error, { error: { code: 'MODEL_NOT_LOADED', details: { usage: { completion_tokens: Number } } } })
    t.ok(chunks >= 3)
  })
})
