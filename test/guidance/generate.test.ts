/** Structured output of an engine: whole texts, neighbours in a batch, requests that go on after a crash. */
import { copyFileSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Engine, GenerationItem, GenerationRequest, JsonSchema, ResponseFormat } from 'tiered-moe'
import { createEngine } from 'tiered-moe'
import { items } from '../engine/items.js'
import { byteVocabulary, writeMoeModel } from '../fixtures/moe-model.js'
import { random } from '../fixtures/weights.js'
import { fault } from './checker.js'
import { randomSchema } from './random-schema.js'

const model = 'tiny-shakespeare'
const folder = t.testdir({})
const engine = await createEngine({ threads: 2 })
await engine.loadModel()
t.teardown(() => engine.dispose())

const person: JsonSchema = {
  type: 'object',
  properties: {
    name: { type: 'string', minLength: 1, maxLength: 12 },
    age: { type: 'integer', minimum: 0, maximum: 120 },
    likes: { type: 'array', items: { enum: ['tea', 'war', 'love'] }, minItems: 1, maxItems: 3 },
    friend: { anyOf: [{ type: 'string', maxLength: 9 }, { type: 'null' }] }
  },
  required: ['name', 'age', 'likes']
}
const format = (schema: JsonSchema): ResponseFormat => ({ type: 'json_schema', schema })
const asked = (more: Partial<GenerationRequest> = {}): GenerationRequest => ({
  model,
  prompt: 'ROMEO:\n',
  maxTokens: 400,
  responseFormat: format(person),
  ...more
})

t.test('greedy and sampled texts are whole, and are what the schema asks for', async (t) => {
  const requests = [
    asked({ temperature: 0 }),
    ...Array.from({ length: 6 }, (_, seed) => asked({ seed, temperature: 1 + seed / 4 }))
  ]
  let whole = 0
  for (const { text, finishReason, tokens } of await Promise.all(requests.map((request) => engine.generate(request)))) {
    if (finishReason === 'length') {
      t.equal(tokens.length, 400)
      continue
    }
    whole++
    t.equal(fault(person, JSON.parse(text)), undefined, text)
  }
  t.ok(whole >= 5, `${whole} of ${requests.length} are whole`)
})

t.test('random schemas', async (t) => {
  const next = random(31)
  const schemas = Array.from({ length: 24 }, () => randomSchema(next, 2))
  const results = await Promise.all(
    schemas.map((schema, seed) =>
      engine.generate(asked({ responseFormat: format(schema), seed, temperature: seed % 3, maxTokens: 300 }))
    )
  )
  let whole = 0
  for (const [i, { text, finishReason }] of results.entries()) {
    if (finishReason !== 'stop') continue
    whole++
    t.equal(fault(schemas[i], JSON.parse(text)), undefined, text)
  }
  t.ok(whole >= 12, `${whole} of ${results.length} are whole`)
})

t.test("json_object, OpenAI's spelling, text, an end-of-text token that is banned, too few tokens", async (t) => {
  const object = { type: 'json_object' } as const
  const { responseFormat: _, ...free } = asked({ seed: 4, maxTokens: 40 })
  const spelled = { ...free, response_format: object } as unknown as GenerationRequest
  const given = await engine.generate({ ...free, responseFormat: object })
  t.equal((await engine.generate(spelled)).text, given.text)
  t.match(given.text, /^\s*\{/)
  const text = await engine.generate({ ...free, responseFormat: { type: 'text' } })
  t.same(text.tokens, (await engine.generate(free)).tokens)
  const number = asked({ responseFormat: format({ type: 'integer', maximum: 99, minimum: 0 }), temperature: 0 })
  for (const ignoreEos of [false, true]) {
    const { text, finishReason } = await engine.generate({ ...number, ignoreEos })
    t.equal(finishReason, 'stop')
    t.match(text, /^\s*\d{1,2}$/)
    if (ignoreEos) t.match(text, /^\s*(0|\d\d)$/, 'goes on as long as it may')
  }
  const cut = await engine.generate(asked({ temperature: 0, maxTokens: 5 }))
  t.match(cut, { finishReason: 'length', usage: { completionTokens: 5 } })
})

t.test('log probabilities are of the plain model, with tokens that may not come', async (t) => {
  const [first] = await items(engine.createGenerator(asked({ temperature: 0, topLogprobs: 3, logits: true })), 1)
  const { logits, token, topLogprobs } = first!
  t.not(topLogprobs![0]!.token, token, 'the likeliest token begins no JSON')
  const best = logits!.indexOf(Math.max(...logits!))
  t.equal(topLogprobs![0]!.token, best)
})

t.test('neither threads nor what a request is stepped together with change a bit of it', async (t) => {
  const requests: GenerationRequest[] = [
    { model, prompt: 'JULIET:\nO ', seed: 7, temperature: 1.1, maxTokens: 40, logits: true },
    asked({ seed: 8, maxTokens: 40, logits: true }),
    asked({ seed: 9, maxTokens: 30, logits: true, repetitionPenalty: 1.3, responseFormat: { type: 'json_object' } }),
    { model, prompt: 'KING', temperature: 0, maxTokens: 30, logits: true }
  ]
  const single = await createEngine({ threads: 1 })
  t.teardown(() => single.dispose())
  await single.loadModel()
  const bits = (list: GenerationItem[]) => list.map(({ token, text, logits }) => [token, text, logits && [...logits]])
  const write = async (of: Engine, request: GenerationRequest) => bits(await items(of.createGenerator(request)))
  const expected: ReturnType<typeof bits>[] = []
  for (const request of requests) expected.push(await write(engine, request))
  t.ok(expected.every((list) => list.length > 10))
  for (const [i, request] of requests.entries()) t.same(await write(single, request), expected[i], `1 thread, ${i}`)
  for (const of of [engine, single]) {
    const together = await Promise.all(requests.map((request) => write(of, request)))
    for (const [i, own] of together.entries()) t.same(own, expected[i], `${of.backend.threads} threads, beside, ${i}`)
  }
})

t.test('a request goes on in the middle of an object', async (t) => {
  const journal = join(folder, 'journal')
  const request = { ...asked({ seed: 5 }), requestId: 'r' }
  const expected = await items(engine.createGenerator(request))
  const first = await createEngine({ threads: 2, journal: { path: journal, syncMs: 1 } })
  await first.loadModel()
  t.same(await items(first.createGenerator(request), 9), expected.slice(0, 9))
  await new Promise((resolve) => setTimeout(resolve, 20))
  // As a SIGKILL would leave it.
  const left = join(folder, 'left')
  mkdirSync(left)
  for (const name of readdirSync(journal)) copyFileSync(join(journal, name), join(left, name))
  const second = await createEngine({ threads: 2, journal: left })
  t.same(await items(await second.resumeGenerator({ requestId: 'r', from: 4 })), expected.slice(4))
  t.same(await items(await second.resumeGenerator({ requestId: 'r' })), expected, 'and once more, from its end')
  await second.dispose()
  await first.dispose()
})

t.test('refused at once', async (t) => {
  const attempt = (responseFormat: unknown) =>
    engine.generate(asked({ responseFormat: responseFormat as ResponseFormat }))
  await t.rejects(attempt(format({ type: 'integer', multipleOf: 2 })), {
    code: 'GUIDANCE_SCHEMA_UNSUPPORTED',
    httpStatus: 400,
    engineCode: 'GuidanceError',
    details: { path: '#', reason: 'unsupported', keyword: 'multipleOf' }
  })
  for (const wrong of [
    { type: 'yaml' },
    { type: 'json_schema' },
    format([] as never),
    format({ a: 1n }),
    format({
      get a() {
        throw new TypeError('a getter')
      }
    }),
    'json_object',
    { type: 'text', a: 1 }
  ]) {
    await t.rejects(attempt(wrong), { code: 'VALIDATION_ERROR' }, String(wrong))
  }
})

t.test('the bytes of tokens', async (t) => {
  const { tokens } = await engine.tokenize({ model, text: 'wherefore é' })
  const bytes = await engine.tokenBytes({ model, tokens })
  t.equal(Buffer.concat(bytes).toString(), 'wherefore é')
  bytes[0]!.fill(0)
  t.equal(Buffer.concat(await engine.tokenBytes({ model, tokens })).toString(), 'wherefore é', 'copies')
  t.same(await engine.tokenBytes({ model, tokens: [99999] }), [new Uint8Array()])
  await t.rejects(engine.tokenBytes({ model: 'none', tokens }), { code: 'MODEL_NOT_LOADED' })
})

t.test('a vocabulary that cannot write what is asked for', async (t) => {
  const { types } = byteVocabulary(300)
  const noQuote = writeMoeModel(join(folder, 'no-quote.gguf'), {
    metadata: { 'tokenizer.ggml.token_type': types.map((type, id) => (id === 0x22 ? 3 : type)) }
  })
  await engine.loadModel({ id: 'no-quote', model: noQuote })
  const request = { model: 'no-quote', promptTokens: [1, 2], temperature: 0 }
  const error = await engine.generate({ ...request, responseFormat: format(person) }).catch((error: unknown) => error)
  t.match(error, {
    code: 'GUIDANCE_FAILED',
    httpStatus: 500,
    engineCode: 'GuidanceError',
    details: { state: /may follow/, text: /^\s*\{\s*$/, usage: { promptTokens: 2 } }
  })
  const { details } = error as { details: { position: number; tokens: number[] } }
  t.equal(details.position, details.tokens.length)
  const { text } = await engine.generate({
    ...request,
    responseFormat: format({ type: 'array', items: { const: 1 }, maxItems: 3 })
  })
  t.same(new Set(JSON.parse(text)), new Set(JSON.parse(text).map(() => 1)), 'what it can write it writes')
  const none = writeMoeModel(join(folder, 'none.gguf'), {
    metadata: {
      'olmoe.vocab_size': 300,
      ...Object.fromEntries(
        ['model', 'pre', 'tokens', 'token_type', 'merges', 'bos_token_id', 'eos_token_id', 'add_bos_token'].map(
          (key) => [`tokenizer.ggml.${key}`, undefined]
        )
      )
    }
  })
  await engine.loadModel({ id: 'none', model: none })
  await t.rejects(engine.generate({ ...request, model: 'none', responseFormat: { type: 'json_object' } }), {
    code: 'TOKENIZER_UNSUPPORTED'
  })
})
