// Who may do what: keys from a hash, a variable and a file, their rights and quotas. No key is in any log, error or metric.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { inspect } from 'node:util'
import t from 'tap'
import { createServer } from 'tiered-moe/server'
import { ask, completion, failure, hold, loadLong, model, sha256, startEngine, startServer, until } from './setting.js'

t.test('keys', async (t) => {
  const lines: string[] = []
  const log = (fields: object, message?: string) => lines.push(JSON.stringify(fields) + message)
  const logger = { debug: log, info: log, warn: log, error: log }
  const engine = await startEngine({ logger })
  t.teardown(() => engine.dispose())
  const folder = t.testdir()
  await loadLong(engine, folder)
  const file = join(folder, 'key')
  writeFileSync(file, 'sk-file\n')
  process.env.TIERED_MOE_TEST_KEY = 'sk-env'
  t.teardown(() => delete process.env.TIERED_MOE_TEST_KEY)
  const { url, server, close } = await startServer(
    {
      logger,
      deadlines: { streamMs: 86_400_000 },
      keys: [
        { id: 'hash', sha256: sha256('sk-hash'), models: [model], tierSets: ['fast', 'deep'] },
        { id: 'variable', env: 'TIERED_MOE_TEST_KEY', admin: true, quota: { concurrent: 1 } },
        { id: 'file', file, quota: { requestsPerMinute: 2, tokensPerMinute: 100_000 } },
        { id: 'past', sha256: sha256('sk-past'), expiresAt: '2020-01-01T00:00:00Z' },
        { id: 'total', sha256: sha256('sk-total'), quota: { tokensTotal: 6 } },
        { id: 'tokens', sha256: sha256('sk-tokens'), quota: { tokensPerMinute: 20 } },
        { id: 'odd', sha256: sha256('sk-odd'), quota: { tokensPerMinute: 200 } },
        { id: 'leaver', sha256: sha256('sk-leaver'), quota: { tokensTotal: 20 } }
      ]
    },
    { engine }
  )
  t.teardown(close)
  const perToken = engine.listModels().find(({ id }) => id === 'long')!.kvBytesPerToken
  const complete = (key: string | undefined, fields: object = {}, headers: Record<string, string> = {}) =>
    ask(`${url}/v1/completions`, completion(fields), { ...(key !== undefined && { key }), headers })

  await t.test('each kind of key opens', async (t) => {
    for (const key of ['sk-hash', 'sk-env', 'sk-file']) t.equal((await complete(key)).status, 200, key)
  })

  await t.test('no key, and what is none', async (t) => {
    const missing = await complete(undefined)
    t.same(failure(missing), [401, 'UNAUTHORIZED'])
    t.equal(missing.headers.get('www-authenticate'), 'Bearer')
    const reasons = [missing, await complete('sk-hash '.repeat(2)), await complete('sk-other')].map(
      ({ body }) => body.error.details.reason
    )
    t.same(reasons, ['missing', 'malformed', 'unknown'])
    t.same(failure(await ask(`${url}/nowhere`)), [401, 'UNAUTHORIZED'], 'nor what there is')
    t.equal((await ask(`${url}/health/live`)).status, 200, 'but health')
  })

  await t.test('an expired one', async (t) => {
    const answer = await complete('sk-past')
    t.same(failure(answer), [401, 'AUTH_TOKEN_EXPIRED'])
    t.match(answer.body.error.details, { key_id: 'past', expired_at: '2020-01-01T00:00:00Z' })
  })

  await t.test('models', async (t) => {
    t.same(failure(await complete('sk-hash', { model: 'long' })), [403, 'FORBIDDEN'])
    t.same(failure(await ask(`${url}/v1/models/long`, undefined, { key: 'sk-hash' })), [403, 'FORBIDDEN'])
    const { body } = await ask(`${url}/v1/models`, undefined, { key: 'sk-hash' })
    t.same(
      body.data.map(({ id }: { id: string }) => id),
      [model]
    )
  })

  await t.test('TierSets', async (t) => {
    t.equal((await complete('sk-hash', { tierSet: 'deep' })).status, 200)
    for (const fields of [{ tierSet: 'max' }, { tier_set: ['fast', 'deep'] }, { latencyBudgetMs: 5 }]) {
      t.same(failure(await complete('sk-hash', fields)), [403, 'FORBIDDEN'])
    }
  })

  await t.test('administration', async (t) => {
    const refused = await ask(`${url}/admin/state`, undefined, { key: 'sk-hash' })
    t.same(failure(refused), [403, 'FORBIDDEN'])
    t.match(refused.body.error.details, { key_id: 'hash', need: 'admin' })
    t.equal((await ask(`${url}/admin/state`, undefined, { key: 'sk-env' })).body.state, 'active')
  })

  await t.test('requests in a minute', async (t) => {
    t.equal((await complete('sk-file')).status, 200)
    const refused = await complete('sk-file')
    t.same(failure(refused), [429, 'RATE_LIMITED'])
    t.match(refused.body.error.details, { reason: 'client_rate', limit: 2, window_seconds: 60 })
    const seconds = Number(refused.headers.get('retry-after'))
    t.ok(seconds > 0 && seconds <= 30, `${seconds} s`)
  })

  await t.test('tokens in a minute', async (t) => {
    t.equal((await complete('sk-tokens', { max_tokens: 12 })).status, 200)
    const refused = await complete('sk-tokens', { max_tokens: 12 })
    t.same(failure(refused), [429, 'RATE_LIMITED'])
    t.match(refused.body.error.details, { reason: 'client_tokens', limit: 20 })
  })

  await t.test('tokens in all', async (t) => {
    const { usage } = (await complete('sk-total')).body
    t.equal(usage.total_tokens, 6)
    const refused = await complete('sk-total')
    t.same(failure(refused), [429, 'RATE_LIMITED'])
    t.match(refused.body.error.details, { reason: 'client_quota', current: 6, limit: 6 })
    t.equal(refused.headers.get('x-should-retry'), 'false')
    const { body } = await ask(`${url}/metrics`, undefined, { key: 'sk-total' })
    t.match(body, /^tiered_moe_http_key_tokens_total\{key="total"\} 6$/m)
  })

  await t.test('of a prompt count the tokens that it has, not those that it was taken for', async (t) => {
    const { usage } = (await complete('sk-odd', { prompt: 'zq'.repeat(40) })).body
    t.ok(usage.prompt_tokens > 60, `${usage.prompt_tokens} tokens of 80 bytes`)
    const refused = await complete('sk-odd', { max_tokens: 190 })
    t.same(failure(refused), [429, 'RATE_LIMITED'])
    // A few come back meanwhile.
    t.ok(refused.body.error.details.current > 45, `${refused.body.error.details.current}`)
  })

  await t.test('a text that its client leaves counts up to there', async (t) => {
    const left = await hold(url, { key: 'sk-leaver', logprobs: 0 })
    await until(() => server.stats().admission.tokensInFlight > 0)
    const tokens = async () => {
      const { body } = await ask(`${url}/metrics`, undefined, { key: 'sk-hash' })
      return Number(/^tiered_moe_http_key_tokens_total\{key="leaver"\} (\d+)$/m.exec(body)?.[1])
    }
    await until(() => server.stats().admission.kvBytesFilled > 30 * perToken)
    left.letGo()
    await until(() => server.stats().requests === 0)
    t.ok((await tokens()) > 30)
    t.match((await complete('sk-leaver')).body.error, { code: 'RATE_LIMITED', details: { reason: 'client_quota' } })
  })

  await t.test('requests at a time: a second one waits, while others go on', async (t) => {
    const held = await hold(url, { key: 'sk-env' })
    // A stream may take its time; what runs does not make it late.
    const second = complete('sk-env', { stream: true })
    await until(() => server.stats().admission.queued === 1)
    t.equal((await complete('sk-hash')).status, 200)
    t.equal(server.stats().admission.queued, 1)
    held.letGo()
    const { status, headers } = await second
    t.equal(status, 200)
    t.equal(headers.get('x-queue-position'), '1')
    t.ok(Number(headers.get('x-queue-ms')) > 0)
  })

  await t.test('nothing that was written has a key in it', async (t) => {
    const { body } = await ask(`${url}/metrics`, undefined, { key: 'sk-hash' })
    t.ok(lines.length > 10)
    const all = `${lines.join('\n')}${body}`
    t.notMatch(all, /sk-(hash|env|file|past|other|total|tokens|odd|leaver)/)
    for (const key of ['sk-hash', 'sk-past']) t.notOk(all.includes(sha256(key)))
  })
})

t.test('keys that are not there, and settings that contradict each other', async (t) => {
  const engine = await startEngine()
  t.teardown(() => engine.dispose())
  const bad: [object, string, string | undefined][] = [
    [{ host: '0.0.0.0' }, 'CONFIG_INVALID', 'host'],
    [{ keys: [{ id: 'a', env: 'TIERED_MOE_TEST_ABSENT' }] }, 'CONFIG_INVALID', 'server.keys[0].env'],
    [{ keys: [{ id: 'a', file: '/absent/key' }] }, 'CONFIG_NOT_FOUND', '/absent/key'],
    [{ keys: [{ id: 'a' }] }, 'CONFIG_INVALID', 'keys[0].sha256'],
    [{ keys: [1, 2].map(() => ({ id: 'a', sha256: sha256('x') })) }, 'CONFIG_INVALID', 'keys[1].id'],
    [{ keys: ['a', 'b'].map((id) => ({ id, sha256: sha256('x') })) }, 'CONFIG_INVALID', 'server.keys[1]'],
    [{ deadlines: { requestMs: 10, firstTokenMs: 20 } }, 'CONFIG_INVALID', 'deadlines.firstTokenMs'],
    [{ keys: [{ id: 'a b', sha256: sha256('x') }] }, 'VALIDATION_ERROR', 'keys[0].id'],
    [{ port: 70_000 }, 'VALIDATION_ERROR', 'port'],
    [{ unknown: 1 }, 'VALIDATION_ERROR', 'unknown']
  ]
  for (const [options, code, path] of bad) await t.rejects(createServer(engine, options), { code, details: { path } })
  const secret = 'sk-live-123'
  const misplaced: [keys: unknown, path: string][] = [
    [secret, 'keys'],
    [[secret], 'keys[0]'],
    [[{ id: 'a', sha256: secret }], 'keys[0].sha256'],
    [[{ id: 'a', env: secret }], 'server.keys[0].env'],
    [[{ id: 'a', file: '/absent/key', admin: secret }], 'keys[0].admin'],
    [[{ id: 'a', file: '/absent/key', tierSets: secret }], 'keys[0].tierSets']
  ]
  for (const [keys, path] of misplaced) {
    const error = await createServer(engine, { keys } as object).catch((thrown) => thrown)
    t.equal(error.details.path, path)
    t.notOk(inspect(error, { depth: 9 }).includes(secret), `a key as ${path} is not shown`)
  }
})
