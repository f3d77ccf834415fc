import t from 'tap'
import { createEngine } from 'tiered-moe'
import { checkCall, checkRequest } from '../../lib/generation/options.js'

const check = (request: unknown) => checkRequest('generate', request)

t.test('defaults, and a random seed unless it is greedy', async (t) => {
  const first = check({ model: 'm', prompt: 'x' })
  t.match(first, { maxTokens: 512, temperature: 0.8, stop: [], topLogprobs: -1, ignoreEos: false })
  t.not(first.seed, check({ model: 'm', prompt: 'x' }).seed)
  t.equal(check({ model: 'm', prompt: 'x', temperature: 0 }).seed, 0)
  t.equal(check({ model: 'm', prompt: 'x', seed: 5 }).seed, 5)
  t.same(check({ model: 'm', prompt: 'x', stop: 'a' }).stop, ['a'])
  t.equal(check({ model: 'm', prompt: 'x', logprobs: true }).topLogprobs, 0)
  t.equal(check({ model: 'm', prompt: 'x', logprobs: true, topLogprobs: 3 }).topLogprobs, 3)
  t.equal(check({ model: 'm', prompt: 'x', maxTokens: undefined }).maxTokens, 512)
})

t.test("OpenAI's spellings", async (t) => {
  const request = check({ model: 'm', prompt: 'x', max_tokens: 3, top_p: 0.5, top_k: 2, min_p: 0.1, ignore_eos: true })
  t.match(request, { maxTokens: 3, topP: 0.5, topK: 2, minP: 0.1, ignoreEos: true })
  t.throws(() => check({ model: 'm', prompt: 'x', max_tokens: 3, maxTokens: 3 }), { code: 'VALIDATION_ERROR' })
})

t.test('each refusal names the path, what was found and what is allowed', async (t) => {
  const cases: [unknown, string, RegExp][] = [
    [undefined, 'the argument', /an object/],
    [[], 'the argument', /an object/],
    [{ prompt: 'x' }, 'model', /id of a loaded model/],
    [{ model: 'm' }, 'the prompt', /exactly one of/],
    [{ model: 'm', prompt: 'x', messages: [{ role: 'user', content: 'y' }] }, 'the prompt', /exactly one of/],
    [{ model: 'm', prompt: 3 }, 'prompt', /a string/],
    [{ model: 'm', promptTokens: [1.5] }, 'promptTokens', /token ids/],
    [{ model: 'm', promptTokens: [-1] }, 'promptTokens', /token ids/],
    [{ model: 'm', promptTokens: new Float32Array(2) }, 'promptTokens', /token ids/],
    [{ model: 'm', messages: [] }, 'messages', /at least one/],
    [{ model: 'm', messages: [{ role: 'user' }] }, 'messages[0].content', /role/],
    [{ model: 'm', prompt: 'x', temperature: -1 }, 'temperature', /0 \(greedy\)/],
    [{ model: 'm', prompt: 'x', temperature: Number.NaN }, 'temperature', /0 \(greedy\)/],
    [{ model: 'm', prompt: 'x', topP: 0 }, 'topP', /above 0/],
    [{ model: 'm', prompt: 'x', topK: 1.5 }, 'topK', /integer/],
    [{ model: 'm', prompt: 'x', maxTokens: 0 }, 'maxTokens', /from 1/],
    [{ model: 'm', prompt: 'x', maxTokens: 1e300 }, 'maxTokens', /from 1/],
    [{ model: 'm', prompt: 'x', seed: 2 ** 60 }, 'seed', /2\^53/],
    [{ model: 'm', prompt: 'x', stop: ['a', ''] }, 'stop', /16 strings/],
    [{ model: 'm', prompt: 'x', topLogprobs: 21 }, 'topLogprobs', /0 to 20/],
    [{ model: 'm', prompt: 'x', temprature: 1 }, 'temprature', /temperature/],
    [{ model: 'm', prompt: 'x', __proto__: null, constructor: 1 }, 'constructor', /temperature/]
  ]
  for (const [request, path, allowed] of cases) {
    t.throws(() => check(request), { code: 'VALIDATION_ERROR', details: { path, allowed } }, path)
  }
  const hostile = {
    get model() {
      throw new RangeError('mine')
    }
  }
  t.throws(() => check(hostile), { code: 'VALIDATION_ERROR', cause: { message: 'mine' } })
  t.throws(() => checkCall('x', { timeoutMs: 0 }), { code: 'VALIDATION_ERROR', details: { path: 'timeoutMs' } })
  t.throws(() => checkCall('x', { timeoutMs: Number.POSITIVE_INFINITY }), { code: 'VALIDATION_ERROR' })
  t.throws(() => checkCall('x', { signal: {} }), { code: 'VALIDATION_ERROR', details: { path: 'signal' } })
  t.same(checkCall('x', undefined), {})
})

t.test('a misspelt option is named, in an option too', async (t) => {
  const cases: [object, string, RegExp][] = [
    [{ thread: 2 }, 'thread', /threads/],
    [{ gpu: { memry: '2GiB' } }, 'gpu.memry', /memory: bytes/],
    [{ gpu: { memory: 'much' } }, 'gpu.memory', /bytes, or a text such as/]
  ]
  for (const [options, path, allowed] of cases)
    await t.rejects(createEngine(options), { code: 'VALIDATION_ERROR', details: { path, allowed } }, path)
})
