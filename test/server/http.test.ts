// What HTTP clients get: answers in OpenAI's form, and failures as the catalogue has them.

import t from 'tap'
import { catalog } from 'tiered-moe'
import { ask, completion, failure, model, startServer } from './setting.js'

t.test('texts, models and health', async (t) => {
  const { url, engine, close } = await startServer()
  t.teardown(close)
  const expected = await engine.generate({ model, prompt: 'ROMEO:', maxTokens: 4, temperature: 0 })

  await t.test('a completion is the text of the engine', async (t) => {
    const { status, headers, body } = await ask(`${url}/v1/completions`, completion({ seed: 7 }))
    t.equal(status, 200)
    t.match(headers.get('x-request-id'), /^req-/)
    t.equal(headers.get('x-queue-position'), '0')
    t.match(body, { object: 'text_completion', model, choices: [{ index: 0, text: expected.text, logprobs: null }] })
    const { promptTokens, completionTokens, totalTokens } = expected.usage
    t.same(body.usage, {
      prompt_tokens: promptTokens,
      prompt_tokens_details: { cached_tokens: 0 },
      completion_tokens: completionTokens,
      total_tokens: totalTokens
    })
    t.same(body.tiered_moe, { seed: 7, tier_set: expected.tierSet })
  })

  await t.test('a prompt of tokens, and lists of one', async (t) => {
    const { tokens } = await engine.tokenize({ model, text: 'ROMEO:' })
    for (const prompt of [tokens, [tokens], ['ROMEO:']]) {
      t.equal((await ask(`${url}/v1/completions`, completion({ prompt }))).body.choices[0].text, expected.text)
    }
  })

  await t.test('completions have 16 tokens where nothing is said, and null is nothing', async (t) => {
    const { body } = await ask(`${url}/v1/completions`, completion({ max_tokens: null, stop: null }))
    t.equal(body.usage.completion_tokens, 16)
    t.equal(body.choices[0].finish_reason, 'length')
  })

  await t.test('a prompt that another request began with, of the same salt', async (t) => {
    const prompt = Array.from({ length: 140 }, (_, i) => (i * 7) % 200)
    const cached = async (fields: object) => {
      const { body } = await ask(`${url}/v1/completions`, completion({ prompt, ...fields }))
      return body.usage.prompt_tokens_details.cached_tokens
    }
    t.same([await cached({}), await cached({}), await cached({ cache_salt: 'a' })], [0, 128, 0])
    const streamed = completion({ prompt, cache_salt: 'a', stream: true, stream_options: { include_usage: true } })
    const { body } = await ask(`${url}/v1/completions`, streamed)
    t.match(body, /"cached_tokens":128/)
    t.match(await (await fetch(`${url}/metrics`)).text(), /tiered_moe_prefix_lookups_total\{[^}]*outcome="hit"\} 2/)
    const refused = await ask(`${url}/v1/completions`, completion({ cache_salt: '' }))
    t.match(refused, { status: 400, body: { error: { code: 'VALIDATION_ERROR', param: 'cache_salt' } } })
  })

  await t.test('a stream has the same text, its usage, and an end', async (t) => {
    const { headers, body } = await ask(
      `${url}/v1/completions`,
      completion({ stream: true, stream_options: { include_usage: true } })
    )
    t.match(headers.get('content-type'), /^text\/event-stream/)
    const lines = (body as string).split('\n\n').filter((line) => line !== '')
    t.equal(lines.pop(), 'data: [DONE]')
    const chunks = lines.map((line) => JSON.parse(line.slice('data: '.length)))
    t.equal(chunks.at(-1).usage.total_tokens, expected.usage.totalTokens)
    t.same(chunks.at(-1).choices, [])
    const choices = chunks.slice(0, -1).map(({ choices: [choice] }) => choice)
    t.equal(choices.map(({ text }) => text).join(''), expected.text)
    t.equal(choices.at(-1).finish_reason, 'length')
    t.same(new Set(chunks.slice(0, -1).map(({ usage }) => usage)), new Set([null]))
  })

  await t.test('the places of tokens in a text are the same in a stream, of text that is held back too', async (t) => {
    const request = completion({ max_tokens: 12, logprobs: 0, stop: [`${expected.text.slice(0, 3)}#`] })
    const { body } = await ask(`${url}/v1/completions`, request)
    const streamed = await ask(`${url}/v1/completions`, { ...request, stream: true })
    const offsets = [...(streamed.body as string).matchAll(/"text_offset":\[(\d+)\]/g)].map(([, offset]) =>
      Number(offset)
    )
    t.equal(offsets.length, 12)
    t.same(offsets, body.choices[0].logprobs.text_offset)
  })

  await t.test('models', async (t) => {
    const { body } = await ask(`${url}/v1/models`)
    t.match(body, { object: 'list', data: [{ id: model, object: 'model', owned_by: 'tiered-moe' }] })
    t.same((await ask(`${url}/v1/models/${model}`)).body, body.data[0])
    t.same(failure(await ask(`${url}/v1/models/absent`)), [404, 'MODEL_NOT_LOADED'])
    t.same(failure(await ask(`${url}/v1/models/${'x'.repeat(5000)}`)), [404, 'MODEL_NOT_LOADED'])
  })

  await t.test('health', async (t) => {
    t.same((await ask(`${url}/health/live`)).body, { status: 'live' })
    t.same((await ask(`${url}/health/ready`)).body, { status: 'ready', state: 'active' })
    await engine.freeze()
    const frozen = await ask(`${url}/health/ready`)
    t.equal(frozen.status, 503)
    t.same(frozen.body, { status: 'unready', state: 'frozen', reason: 'frozen' })
    t.same(failure(await ask(`${url}/v1/completions`, completion())), [503, 'ENGINE_FROZEN'])
    await engine.thaw()
  })

  const wrong: [string, string, unknown, keyof typeof catalog, string | null][] = [
    ['no JSON', '/v1/completions', '{"model":', 'REQUEST_PARSE_FAILED', null],
    ['nothing', '/v1/completions', '', 'REQUEST_PARSE_FAILED', null],
    ['a poisoned object', '/v1/completions', '{"__proto__": {"x": 1}}', 'REQUEST_PARSE_FAILED', null],
    ['a list', '/v1/completions', [], 'VALIDATION_ERROR', 'the argument'],
    ['no prompt', '/v1/completions', { model }, 'VALIDATION_ERROR', 'prompt'],
    ['a field that nobody knows', '/v1/completions', completion({ foo: 1 }), 'VALIDATION_ERROR', 'foo'],
    ['what is not supported', '/v1/completions', completion({ n: 2 }), 'VALIDATION_ERROR', 'n'],
    ['tools', '/v1/chat/completions', { model, messages: [], tools: [{}] }, 'VALIDATION_ERROR', 'messages'],
    ['a range', '/v1/completions', completion({ max_tokens: 0 }), 'VALIDATION_ERROR', 'max_tokens'],
    ['a range of the engine', '/v1/completions', completion({ top_p: 2 }), 'VALIDATION_ERROR', 'top_p'],
    ['a token', '/v1/completions', completion({ prompt: [1, 9999] }), 'VALIDATION_ERROR', 'prompt[1]'],
    [
      'two spellings',
      '/v1/completions',
      completion({ tierSet: 'max', tier_set: 'max' }),
      'VALIDATION_ERROR',
      'tier_set'
    ],
    ['a TierSet', '/v1/completions', completion({ tierSet: 'absent' }), 'CONFIG_UNKNOWN_TIER', null],
    ['a model', '/v1/completions', completion({ model: 'absent' }), 'MODEL_NOT_LOADED', null],
    ['a long prompt', '/v1/completions', completion({ prompt: 'a b '.repeat(400) }), 'CONTEXT_LENGTH_EXCEEDED', null],
    ['an address', '/v2/completions', completion(), 'NOT_FOUND', null],
    ['a broken escape in an address', '/v1/mod%ls', completion(), 'REQUEST_PARSE_FAILED', null]
  ]
  for (const [what, path, body, code, param] of wrong) {
    await t.test(`refused: ${what}`, async (t) => {
      const answer = await ask(url + path, body)
      const { httpStatus, engineCode, retry } = catalog[code]
      t.same(failure(answer), [httpStatus, code])
      t.match(answer.body.error, { param, engine_code: engineCode, retryable: retry !== 'never' })
      t.equal(answer.headers.get('x-should-retry'), String(retry !== 'never'))
      t.ok(answer.body.error.details.suggested_action)
      t.equal(answer.body.error.request_id, answer.headers.get('x-request-id'))
    })
  }

  await t.test('a method that an address does not have', async (t) => {
    const answer = await ask(`${url}/v1/completions`)
    t.same(failure(answer), [404, 'NOT_FOUND'])
    t.same(answer.body.error.details.allow, ['POST'])
  })

  await t.test('a body that is not JSON by its own word', async (t) => {
    const answer = await ask(`${url}/v1/completions`, completion(), { headers: { 'content-type': 'text/plain' } })
    t.same(failure(answer), [400, 'VALIDATION_ERROR'])
    t.equal(answer.body.error.param, 'content-type')
  })

  await t.test('pages of elsewhere in a browser of this machine', async (t) => {
    const answer = await ask(`${url}/admin/thaw`, {}, { headers: { origin: 'http://elsewhere.example' } })
    t.same(failure(answer), [403, 'FORBIDDEN'])
  })
})
