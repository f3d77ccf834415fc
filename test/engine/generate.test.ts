import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import t, { type Test } from 'tap'
import { createEngine, type Engine, type GenerationItem, type GenerationRequest } from 'tiered-moe'
import { readGgufHeader } from '../fixtures/gguf.js'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { embedded } from '../fixtures/package.js'

const folder = t.testdir()
const model = 'tiny-shakespeare'
/** test/isolation/generate.test.ts asks the same of an engine in another process. */
const isolation = process.env.TIERED_MOE_TEST_ISOLATION === 'process' ? 'process' : 'none'
let engine: Engine
t.before(async () => {
  engine = await createEngine({ threads: 2, maxBatchTokens: 64, isolation })
  await engine.loadModel()
})
t.teardown(() => engine.dispose())

type Refusal = { code: string; details?: Record<string, unknown> }

/** What is wrong with a prompt is thrown at once in this process, and with the first item by another one. */
async function refused(t: Test, request: GenerationRequest, expected: Refusal): Promise<void> {
  if (isolation === 'none') t.throws(() => engine.createGenerator(request), expected)
  else await t.rejects(engine.generate(request), expected)
}

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

t.test('a prompt as bytes', async (t) => {
  const request = { model, maxTokens: 12, temperature: 0 }
  const text = await engine.generate({ ...request, prompt: 'ROMEO: é' })
  const prompt = Buffer.from('ROMEO: é')
  const generator = engine.createGenerator({ ...request, prompt })
  prompt.fill(0)
  let same = ''
  for await (const item of generator) same += item.text
  t.equal(same, text.text, 'as they were at the call')
  const bytes = Uint8Array.of(0x4f, 0xff)
  t.same(await engine.tokenize({ model, text: bytes }), await engine.tokenize({ model, text: 'O\ufffd' }))
  await t.rejects(engine.tokenize({ model, text: [79] as never }), { code: 'VALIDATION_ERROR' })
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
  await refused(
    t,
    { model: 'short', promptTokens: new Uint32Array(21) },
    {
      code: 'CONTEXT_LENGTH_EXCEEDED',
      details: { required: 21, limit: 20 }
    }
  )
  await refused(
    t,
    { model: 'short', prompt: 'to be '.repeat(20_000) },
    {
      code: 'CONTEXT_LENGTH_EXCEEDED',
      details: { required: 10_021, limit: 20 }
    }
  )
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
  await refused(t, { model, messages }, { code: 'CHAT_TEMPLATE_INVALID' })
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
  await refused(t, { model: id, prompt: 'x' }, { code: 'TOKENIZER_UNSUPPORTED' })
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
    reason: { code: 'RUNTIME_NAN_DETECTED', details: { layer: 0, token: 1, text: '', usage: { promptTokens: 3 } } }
  })
  t.match(good, { status: 'fulfilled', value: { tokens: alone.tokens } })
  await engine.unloadModel(id)
})

t.test('a damaged weight of one expert: layer and token are told, and others of the batch go on', async (t) => {
  const request = { model, maxTokens: 12, temperature: 0, ignoreEos: true, captureRouting: true }
  const [prompt, other] = ['JULIET:', 'a']
  const [hit, spared] = [
    await engine.generate({ ...request, prompt }),
    await engine.generate({ ...request, prompt: other })
  ]
  // An expert of the last layer that only one of them uses, and where it does so first.
  const { layers, k } = hit.routing!
  const used = ({ ids }: NonNullable<typeof hit.routing>) => {
    const first = new Map<number, number>()
    const last = (layers - 1) * k
    for (let at = 0; at * layers * k < ids.length; at++) {
      for (let i = 0; i < k; i++) {
        const expert = ids[at * layers * k + last + i]!
        if (!first.has(expert)) first.set(expert, at)
      }
    }
    return first
  }
  const sparedExperts = used(spared.routing!)
  const [expert, token] = [...used(hit.routing!)].find(([id]) => !sparedExperts.has(id))!
  const { tensors, dataOffset } = readGgufHeader(embedded)
  const tensor = tensors.find(({ name }) => name === `blk.${layers - 1}.ffn_gate_exps.weight`)!
  const [columns, rows] = tensor.shape as [number, number, number]
  const bytes = Buffer.from(readFileSync(embedded))
  // The scale of the first block of that expert's matrix: a Q8_0 block is an f16 and 32 bytes.
  bytes.writeUInt16LE(0x7c00, dataOffset + tensor.offset + expert * rows * (columns / 32) * 34)
  const path = join(folder, 'damaged.gguf')
  writeFileSync(path, bytes)
  const { id } = await engine.loadModel({ model: path })
  const counters = engine.counters()
  const results = await Promise.allSettled(
    [prompt, other].map((text) => engine.generate({ ...request, model: id, prompt: text }))
  )
  const [bad, good] = results
  t.match(bad, { reason: { code: 'RUNTIME_NAN_DETECTED', details: { layer: layers - 1, token, model: id } } })
  t.match(good, { value: { tokens: spared.tokens } })
  t.same(engine.counters(), counters, 'nothing is held by the one that failed')
  await engine.unloadModel(id)
  const head = writeMoeModel(join(folder, 'nan-head.gguf'), {
    editTensor: (tensor) => {
      if (tensor.name !== 'output.weight') return tensor
      const data = new Uint8Array(tensor.data)
      new DataView(data.buffer).setFloat32(0, Number.NaN, true)
      return { ...tensor, data }
    }
  })
  await engine.loadModel({ model: head, id: 'head' })
  const { layers: depth } = engine.listModels().find((each) => each.id === 'head')!.descriptor
  await t.rejects(engine.generate({ model: 'head', promptTokens: [1, 2, 3], maxTokens: 2 }), {
    code: 'RUNTIME_NAN_DETECTED',
    details: { layer: depth, token: 2 }
  })
  await engine.unloadModel('head')
})

t.test('refusals', async (t) => {
  t.throws(() => engine.createGenerator({ model: 'absent', prompt: 'x' }), {
    code: 'MODEL_NOT_LOADED',
    details: { model: 'absent', loaded: [model] }
  })
  await refused(t, { model, prompt: '' }, { code: 'VALIDATION_ERROR', details: { path: 'prompt' } })
  const beyond = { code: 'VALIDATION_ERROR', details: { path: 'promptTokens[0]' } }
  await refused(t, { model, promptTokens: [1024] }, beyond)
  await refused(t, { model, promptTokens: Int32Array.of(-1) }, beyond)
  await t.rejects(engine.detokenize({ model, tokens: [5000] }), { code: 'VALIDATION_ERROR' })
})
