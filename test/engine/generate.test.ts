import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import t from 'tap'
import { createEngine, type Engine, type GenerationItem, type GenerationRequest } from 'tiered-moe'
import { writeMoeModel } from '../fixtures/moe-model.js'

const folder = t.testdir()
const model = 'tiny-shakespeare'
let engine: Engine
t.before(async () => {
  engine = await createEngine({ threads: 2, maxBatchTokens: 64 })
  await engine.loadModel()
})
t.teardown(() => engine.dispose())

async function items(request: Omit<GenerationRequest, 'model'>): Promise<GenerationItem[]> {
  const all: GenerationItem[] = []
  for await (const item of engine.createGenerator({ model, ...request })) all.push(item)
  return all
}

const prompts = [
  'ROMEO:',
  'First Citizen:\nBefore we',
  'To be, or',
  'KING',
  'O',
  'Enter the two',
  'What ho!\n',
  'My lord, I '
].map((text, i) => text.repeat(1 + (i % 3) * 5))

t.test('a stream of tokens, then the last item', async (t) => {
  const all = await items({ prompt: 'ROMEO:', maxTokens: 30, temperature: 0 })
  const tokens = all.flatMap(({ token }) => token ?? [])
  t.equal(all.length, tokens.length + 1)
  t.equal(tokens.length, 30)
  const text = all.map(({ text }) => text).join('')
  t.equal(text, (await engine.detokenize({ model, tokens })).text)
  const promptTokens = (await engine.tokenize({ model, text: 'ROMEO:' })).tokens.length
  t.match(all.at(-1), {
    finishReason: 'length',
    usage: { promptTokens, completionTokens: 30, totalTokens: promptTokens + 30 },
    seed: 0
  })
  const whole = await engine.generate({ model, prompt: 'ROMEO:', maxTokens: 30, temperature: 0 })
  t.match(whole, { text, tokens, finishReason: 'length' })
})

const reference = join(process.env.TIERED_MOE_SHARED ?? resolve('../shared'), 'models', 'reference.json')
t.test("the trainer's own text", { skip: !existsSync(reference) && `${reference} is not here` }, async (t) => {
  const { prompt, text, greedy } = JSON.parse(readFileSync(reference, 'utf8'))
  const result = await engine.generate({ model, prompt, maxTokens: greedy.length, temperature: 0 })
  t.same(result.tokens, greedy)
  t.equal(prompt + result.text, text)
})

t.test('together or alone: the same text', async (t) => {
  const requests = prompts.map((prompt, i) => ({ model, prompt, maxTokens: 20 + i * 3, seed: i, temperature: i % 2 }))
  const together = await Promise.all(requests.map((request) => engine.generate(request)))
  for (const [i, request] of requests.entries()) {
    const alone = await engine.generate(request)
    t.same([alone.text, alone.tokens], [together[i]!.text, together[i]!.tokens], `prompt ${i}`)
  }
})

t.test('sampling: the seed decides, and a continuation repeats', async (t) => {
  const request = { model, prompt: 'ROMEO:\n', maxTokens: 40, temperature: 1 }
  const first = await engine.generate(request)
  t.equal((await engine.generate({ ...request, seed: first.seed })).text, first.text, 'the seed it told repeats it')
  t.not((await engine.generate({ ...request, seed: first.seed + 1 })).text, first.text)
  const { tokens } = await engine.tokenize({ model, text: request.prompt })
  const start = [...tokens, ...first.tokens.slice(0, 15)]
  const rest = await engine.generate({ model, promptTokens: start, maxTokens: 25, temperature: 1, seed: first.seed })
  t.same(rest.tokens, first.tokens.slice(15), 'continued from its middle')
})

t.test('stop strings are never emitted, and end the text', async (t) => {
  const whole = await engine.generate({ model, prompt: 'ROMEO:\n', maxTokens: 60, temperature: 0 })
  for (const [from, length] of [
    [5, 1],
    [17, 4],
    [30, 12],
    [44, 20]
  ] as const) {
    const stop = whole.text.slice(from, from + length)
    const result = await engine.generate({
      model,
      prompt: 'ROMEO:\n',
      maxTokens: 60,
      temperature: 0,
      stop: [stop, 'unused text']
    })
    t.equal(result.text, whole.text.slice(0, whole.text.indexOf(stop)))
    t.equal(result.finishReason, 'stop')
  }
})

t.test('the context ends the text', async (t) => {
  await engine.loadModel({ id: 'short', contextLength: 20 })
  const promptTokens = (await engine.tokenize({ model: 'short', text: 'To be, or not to be' })).tokens
  const result = await engine.generate({ model: 'short', promptTokens, temperature: 0, ignoreEos: true })
  t.match(result, { finishReason: 'length', usage: { totalTokens: 21 } })
  const full = await engine.generate({
    model: 'short',
    promptTokens: new Int32Array(20).fill(5),
    temperature: 0,
    ignoreEos: true
  })
  t.equal(full.tokens.length, 1)
  t.throws(() => engine.createGenerator({ model: 'short', promptTokens: new Uint32Array(21) }), {
    code: 'CONTEXT_LENGTH_EXCEEDED',
    details: { required: 21, limit: 20 }
  })
  await engine.unloadModel('short')
})

t.test('log probabilities and logits', async (t) => {
  const all = await items({ prompt: 'KING', maxTokens: 5, temperature: 0, topLogprobs: 3, logits: true })
  for (const item of all.slice(0, -1)) {
    const { token, logprob, topLogprobs, logits } = item
    t.equal(topLogprobs![0]!.token, token)
    t.equal(topLogprobs!.length, 3)
    t.equal(topLogprobs![0]!.logprob, logprob)
    t.equal(logits!.length, 1024)
    const largest = Math.max(...logits!)
    t.equal(logits!.indexOf(largest), token)
    const sum = logits!.reduce((total, value) => total + Math.exp(value - largest), 0)
    t.ok(Math.abs(logprob! + Math.log(sum)) < 1e-3, `${logprob} is the log of the softmax`)
  }
  const plain = await items({ prompt: 'KING', maxTokens: 1, temperature: 0 })
  t.notOk('logprob' in plain[0]! || 'logits' in plain[0]!)
})

t.test('forward gives the logits that generation has, in any chunks', async (t) => {
  const { tokens } = await engine.tokenize({ model, text: prompts.join(' ') })
  t.ok(tokens.length > 64, 'more than one chunk')
  const all = await engine.forward({ model, tokens, logits: 'all' })
  t.equal(all.length, tokens.length * 1024)
  const last = await engine.forward({ model, tokens })
  t.same(last, all.subarray(-1024))
  const [item] = await items({ promptTokens: tokens, maxTokens: 1, temperature: 0, logits: true })
  t.same(item!.logits, last)
  await t.rejects(engine.forward({ model, tokens, logits: 'all' }, { signal: AbortSignal.abort() }), {
    code: 'CANCELLED'
  })
  await t.rejects(engine.forward({ model, tokens: [] }), { code: 'VALIDATION_ERROR' })
  await t.rejects(engine.forward({ model, tokens: [1024] }), {
    code: 'VALIDATION_ERROR',
    details: { path: 'tokens[0]' }
  })
  await t.rejects(engine.forward({ model, tokens: new Int32Array(257) }), { code: 'CONTEXT_LENGTH_EXCEEDED' })
})

t.test('messages need a chat template', async (t) => {
  const messages = [{ role: 'user', content: 'hi' }]
  t.throws(() => engine.createGenerator({ model, messages }), { code: 'CHAT_TEMPLATE_INVALID' })
  const chatTemplate = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}assistant:"
  const { id } = await engine.loadModel({ model: writeMoeModel(join(folder, 'chat.gguf'), { chatTemplate }) })
  const request = { model: id, maxTokens: 8, temperature: 0 }
  const chat = await engine.generate({ ...request, messages })
  const plain = await engine.generate({ ...request, prompt: 'user: hi\nassistant:' })
  t.same(chat.tokens, plain.tokens)
  await engine.unloadModel(id)
})

t.test('a model without a usable tokenizer runs on token ids', async (t) => {
  const path = writeMoeModel(join(folder, 'spm.gguf'), {
    architecture: 'llama',
    metadata: { 'tokenizer.ggml.model': 'bert' }
  })
  const { id } = await engine.loadModel({ model: path })
  await t.rejects(engine.tokenize({ model: id, text: 'x' }), { code: 'TOKENIZER_UNSUPPORTED' })
  t.throws(() => engine.createGenerator({ model: id, prompt: 'x' }), { code: 'TOKENIZER_UNSUPPORTED' })
  const { tokens } = await engine.generate({ model: id, promptTokens: [1, 2, 3], maxTokens: 4, ignoreEos: true })
  t.equal(tokens.length, 4)
  await engine.unloadModel(id)
})

t.test('weights that are not finite end their sequence with a typed error', async (t) => {
  const path = writeMoeModel(join(folder, 'nan.gguf'), {
    editTensor: (tensor) => {
      if (tensor.name !== 'token_embd.weight') return tensor
      const data = new Uint8Array(tensor.data)
      // The embedding of token 9 alone.
      new DataView(data.buffer).setFloat32(9 * 64 * 4 + 8, Number.NaN, true)
      return { ...tensor, data }
    }
  })
  const { id } = await engine.loadModel({ model: path })
  const request = { model: id, maxTokens: 6, temperature: 0, ignoreEos: true }
  const alone = await engine.generate({ ...request, promptTokens: [1, 2, 3] })
  const [bad, good] = await Promise.allSettled([
    engine.generate({ ...request, promptTokens: [1, 9, 3] }),
    engine.generate({ ...request, promptTokens: [1, 2, 3] })
  ])
  t.match(bad, {
    status: 'rejected',
    reason: { code: 'RUNTIME_NAN_DETECTED', details: { text: '', usage: { promptTokens: 3 } } }
  })
  t.match(good, { status: 'fulfilled', value: { tokens: alone.tokens } })
  await engine.unloadModel(id)
})

t.test('refusals', async (t) => {
  t.throws(() => engine.createGenerator({ model: 'absent', prompt: 'x' }), {
    code: 'MODEL_NOT_LOADED',
    details: { model: 'absent', loaded: [model] }
  })
  t.throws(() => engine.createGenerator({ model, prompt: '' }), {
    code: 'VALIDATION_ERROR',
    details: { path: 'prompt' }
  })
  t.throws(() => engine.createGenerator({ model, promptTokens: [1024] }), {
    code: 'VALIDATION_ERROR',
    details: { path: 'promptTokens[0]' }
  })
  t.throws(() => engine.createGenerator({ model, promptTokens: Int32Array.of(-1) }), { code: 'VALIDATION_ERROR' })
  await t.rejects(engine.detokenize({ model, tokens: [5000] }), { code: 'VALIDATION_ERROR' })
})
