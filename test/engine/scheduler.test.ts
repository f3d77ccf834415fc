import t from 'tap'
import { createError } from '../../lib/errors/index.js'
import { Generation } from '../../lib/generation/generation.js'
import type { GenerationItem } from '../../lib/generation/items.js'
import { LocalGenerator } from '../../lib/generation/local-generator.js'
import { checkRequest, type GenerationRequest } from '../../lib/generation/options.js'
import { Scheduler } from '../../lib/generation/scheduler.js'
import { FakeCancel, FakeModel, follow } from './fake-model.js'

function setUp(maxBatchTokens = 64) {
  const model = new FakeModel()
  const fatal: unknown[] = []
  const scheduler = new Scheduler({
    model,
    maxBatchTokens,
    createCancel: () => new FakeCancel(),
    onFatal: (error) => fatal.push(error)
  })
  const start = (
    prompt: number[],
    options: Partial<GenerationRequest> & { contextLength?: number; eos?: number } = {},
    call: { signal?: AbortSignal; timeoutMs?: number } = {}
  ) => {
    const { contextLength = 10_000, eos = -1, ...own } = options
    const request = checkRequest('test', { model: 'm', promptTokens: prompt, maxTokens: 10, temperature: 0, ...own })
    const generation = new Generation({
      request,
      requestId: 'r',
      prompt: Int32Array.from(prompt),
      contextLength,
      vocab: 200,
      eosIds: new Set([eos]),
      decoder: { push: (id) => `${id} `, end: () => '.' },
      createSequence: (maxTokens) => model.createSequence({ maxTokens }),
      routing: model.routing,
      tiers: ['all']
    })
    return new LocalGenerator(scheduler, generation, 'test', call, { deadlines: { cleanupMs: 60_000, onOverdue() {} } })
  }
  return { model, scheduler, start, fatal }
}

/** What the model says after a prompt. */
function expected(prompt: number[], count: number): number[] {
  const tokens = [...prompt]
  for (let i = 0; i < count; i++) tokens.push(follow(tokens))
  return tokens.slice(prompt.length)
}

async function collect(generator: LocalGenerator): Promise<{ tokens: number[]; text: string; last: GenerationItem }> {
  const items: GenerationItem[] = []
  for await (const item of generator) items.push(item)
  const tokens = items.flatMap(({ token }) => (token === undefined ? [] : [token]))
  return { tokens, text: items.map(({ text }) => text).join(''), last: items.at(-1)! }
}

const sequence = (length: number, seed = 1) => Array.from({ length }, (_, i) => (i * 7 + seed) % 200)
const settle = () => new Promise((resolve) => setTimeout(resolve, 20))

t.test('a generation: items, then the last one', async (t) => {
  const { model, start } = setUp()
  const prompt = sequence(5)
  const { tokens, text, last } = await collect(start(prompt))
  t.same(tokens, expected(prompt, 10))
  t.equal(text, `${tokens.join(' ')} .`)
  t.match(last, {
    finishReason: 'length',
    text: '.',
    usage: { promptTokens: 5, completionTokens: 10, totalTokens: 15 },
    seed: 0
  })
  t.equal(model.steps.length, 10, 'the prompt in one step, and no step past the end')
  t.equal(model.open, 0)
})

t.test('end of text, the end of the context, and stop strings', async (t) => {
  const { start, model } = setUp()
  const prompt = sequence(5)
  const all = expected(prompt, 10)
  const eos = await collect(start(prompt, { eos: all[3]! }))
  t.same(eos.tokens, all.slice(0, all.indexOf(all[3]!)))
  t.match(eos.last, { finishReason: 'stop', usage: { completionTokens: eos.tokens.length } })
  const full = await collect(start(prompt, { contextLength: 7 }))
  t.same(full.tokens, all.slice(0, 3), 'the last token needs no position')
  t.match(full.last, { finishReason: 'length' })
  const stop = await collect(start(prompt, { stop: [`${all[2]} ${all[3]}`] }))
  t.equal(stop.text, `${all[0]} ${all[1]} `)
  t.match(stop.last, { finishReason: 'stop', text: '' })
  t.equal(model.open, 0)
})

t.test('sequences share steps, prompts are cut into chunks, and no bit depends on it', async (t) => {
  for (const budget of [1, 2, 7, 64, 1000]) {
    const { model, start } = setUp(budget)
    const prompts = [5, 1, 90, 33, 64, 2, 17, 100].map((length, i) => sequence(length, i + 1))
    const results = await Promise.all(prompts.map((prompt) => collect(start(prompt, { maxTokens: 12 }))))
    for (const [i, { tokens }] of results.entries()) t.same(tokens, expected(prompts[i]!, 12), `budget ${budget}, ${i}`)
    t.ok(
      model.steps.every((step) => step.reduce((a, b) => a + b, 0) <= budget),
      'no step exceeds the budget'
    )
    if (budget >= 64)
      t.ok(
        model.steps.some((step) => step.length === 8),
        'all eight in one step'
      )
    t.equal(model.open, 0)
  }
})

t.test('nothing is computed without demand, and one token ahead at most', async (t) => {
  const { model, start } = setUp()
  const generator = start(sequence(4), { maxTokens: 100 })
  await settle()
  t.equal(model.steps.length, 0, 'nothing before the first next()')
  await generator.next()
  await settle()
  t.equal(model.steps.length, 2, 'one token ahead')
  await generator.next()
  await settle()
  t.equal(model.steps.length, 3)
  await generator.return()
  await settle()
  t.equal(model.steps.length, 3)
  t.equal(model.open, 0)
  t.same(await generator.next(), { done: true, value: undefined })
})

t.test('overlapping calls of next() are served in order', async (t) => {
  const { start } = setUp()
  const prompt = sequence(3)
  const generator = start(prompt, { maxTokens: 3 })
  const results = await Promise.all(Array.from({ length: 6 }, () => generator.next()))
  t.same(
    results.slice(0, 3).map(({ value }) => value?.token),
    expected(prompt, 3)
  )
  t.equal(results[3]!.value?.finishReason, 'length')
  t.same(results.slice(4), [
    { done: true, value: undefined },
    { done: true, value: undefined }
  ])
})

t.test('leaving the loop frees the sequence, others go on', async (t) => {
  const { model, start } = setUp()
  const other = collect(start(sequence(6), { maxTokens: 30 }))
  for await (const { token } of start(sequence(5))) if (token !== undefined) break
  t.equal(model.open, 1)
  t.same((await other).tokens, expected(sequence(6), 30))
  t.equal(model.open, 0)
})

t.test('an abort interrupts the step; the others run it again and notice nothing', async (t) => {
  const { model, start } = setUp(256)
  const controller = new AbortController()
  const reason = new Error('enough')
  model.onStep = (_, step) => {
    if (step === 4) controller.abort(reason)
  }
  const aborted = start(sequence(5), { maxTokens: 50 }, { signal: controller.signal })
  const others = [6, 7].map((length) => collect(start(sequence(length), { maxTokens: 20 })))
  const error = await collect(aborted).catch((error: unknown) => error)
  const tokens = expected(sequence(5), 4)
  t.match(error, {
    name: 'AbortError',
    code: 'CANCELLED',
    cause: reason,
    details: { text: `${tokens.join(' ')} `, tokens, usage: { promptTokens: 5, completionTokens: 4 }, requestId: 'r' }
  })
  t.same(await aborted.next(), { done: true, value: undefined }, 'an error is thrown once')
  for (const [i, result] of others.entries()) t.same((await result).tokens, expected(sequence(6 + i), 20))
  t.equal(model.steps.length, 21, 'one step was run twice')
  t.equal(model.open, 0)
})

t.test('aborted before it began', async (t) => {
  const { model, start } = setUp()
  const generator = start([1], {}, { signal: AbortSignal.abort() })
  await t.rejects(generator.next(), { code: 'CANCELLED', details: { text: '', tokens: [] } })
  t.equal(model.sequences.length, 0)
})

t.test('many aborts cannot starve the others', async (t) => {
  const { model, start } = setUp(1000)
  const aborts: AbortController[] = []
  model.onStep = () => aborts.shift()?.abort()
  const other = collect(start(sequence(8), { maxTokens: 10 }))
  const aborted = Array.from({ length: 60 }, () => {
    const controller = new AbortController()
    aborts.push(controller)
    return collect(start(sequence(20), { maxTokens: 1000 }, { signal: controller.signal })).catch((error) => error.code)
  })
  const { tokens } = await other
  t.same(tokens, expected(sequence(8), 10))
  t.ok(aborts.length > 0, 'it ended while aborts still came')
  const forced = model.steps.length
  t.ok(forced <= 45, `${forced} steps`)
  for (const controller of aborts) controller.abort()
  t.same(new Set(await Promise.all(aborted)), new Set(['CANCELLED']))
  t.equal(model.open, 0)
})

t.test('a deadline', async (t) => {
  const { model, start } = setUp()
  model.onStep = () => new Promise((resolve) => setTimeout(resolve, 10))
  const error = await collect(start(sequence(5), { maxTokens: 1000 }, { timeoutMs: 50 })).catch((error) => error)
  t.match(error, { name: 'TimeoutError', code: 'INFERENCE_TIMEOUT', method: 'test', timeout: 50, requestId: 'r' })
  t.ok(error.duration >= 45 && error.details.tokens.length > 0)
  t.same(error.details.tokens, expected(sequence(5), error.details.tokens.length))
  t.equal(model.open, 0)
})

t.test('a sequence with values that are not finite ends alone', async (t) => {
  const { model, start } = setUp()
  model.itemError = ({ sequence }) =>
    sequence.length === 7 && sequence === model.sequences[0]
      ? createError('RUNTIME_NAN_DETECTED', 'layer 1', { layer: 1, token: 7 })
      : undefined
  const bad = collect(start(sequence(5))).catch((error) => error)
  const good = collect(start(sequence(6)))
  t.match(await bad, { code: 'RUNTIME_NAN_DETECTED', details: { layer: 1, tokens: expected(sequence(5), 3) } })
  t.same((await good).tokens, expected(sequence(6), 10))
  t.equal(model.open, 0)
})

t.test('a step that fails as a whole is tried one by one', async (t) => {
  const { model, start, fatal } = setUp()
  model.onStep = (items) => {
    if (items.some(({ sequence }) => sequence === model.sequences[1] && sequence.length > 8)) {
      throw createError('RESOURCE_MEMORY_EXHAUSTED', 'no page')
    }
  }
  const results = [5, 6, 7].map((length) => collect(start(sequence(length), { maxTokens: 15 })).catch((error) => error))
  t.same((await results[0]).tokens, expected(sequence(5), 15))
  t.match(await results[1], { code: 'RESOURCE_MEMORY_EXHAUSTED', details: { usage: { promptTokens: 6 } } })
  t.same((await results[2]).tokens, expected(sequence(7), 15))
  t.equal(model.open, 0)
  t.equal(fatal.length, 0)
})

t.test('a broken invariant ends all of the step and is reported', async (t) => {
  const { model, start, fatal } = setUp()
  model.onStep = (_, step) => {
    if (step === 2) throw createError('RUNTIME_INVARIANT_VIOLATED', 'no')
  }
  const codes = await Promise.all([5, 6].map((length) => collect(start(sequence(length))).catch((error) => error.code)))
  t.same(codes, ['RUNTIME_INVARIANT_VIOLATED', 'RUNTIME_INVARIANT_VIOLATED'])
  t.equal(fatal.length, 1)
  t.same((await collect(start(sequence(5)))).tokens, expected(sequence(5), 10), 'it goes on afterwards')
  t.equal(model.open, 0)
})

t.test('closing ends what runs and refuses what comes', async (t) => {
  const { model, start, scheduler } = setUp()
  const running = collect(start(sequence(5), { maxTokens: 1000 })).catch((error) => error)
  const idle = start(sequence(5))
  await idle.next()
  const late = start(sequence(5))
  await scheduler.close(() => createError('MODEL_NOT_LOADED', 'unloaded'))
  t.match(await running, { code: 'MODEL_NOT_LOADED', details: { usage: { promptTokens: 5 } } })
  await t.rejects(idle.next(), { code: 'MODEL_NOT_LOADED' })
  await t.rejects(late.next(), { code: 'MODEL_NOT_LOADED' })
  t.equal(model.open, 0)
})
