/** An engine on the GPU: what it generates, alone and in batches, masked and replayed, is what the CPU does within what roundings allow. */
import { join } from 'node:path'
import t from 'tap'
import { convertModel } from 'tiered-moe'
import { command } from '../cli/command.js'
import { items } from '../engine/items.js'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { tolerances } from '../kernels/tolerance.js'
import { agreement, apart, openEngines } from './engines.js'

const model = 'tiny-shakespeare'
const tokens = Int32Array.from({ length: 75 }, (_, i) => (i * 37 + 11) % 200)
const bytes = (array: Float32Array | Int32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)
const [near, nearQuantised] = [tolerances.modelFloat, tolerances.modelQuantised].map(
  ({ fixed }) => fixed * 2 ** -24
) as [number, number]

t.test('the embedded model', async (t) => {
  const engines = await openEngines(t)
  if (!engines) return
  const { gpu, cpu } = engines
  t.match(gpu.backend, { name: 'webgpu', threads: 2 })
  await t.rejects(gpu.loadModel({ prefixCache: '1MiB' }), {
    code: 'VALIDATION_ERROR',
    details: { path: 'prefixCache' }
  })
  await Promise.all([gpu.loadModel({ prefixCache: false }), cpu.loadModel()])
  const greedy = { model, prompt: 'ROMEO:\nBut soft', maxTokens: 32, temperature: 0, ignoreEos: true }
  const expected = await cpu.generate(greedy)

  await t.test('from the command line', async (t) => {
    const { prompt } = greedy
    const args = [
      'run',
      '--backend',
      'webgpu',
      '--prompt',
      prompt,
      '--max-tokens',
      '8',
      '--temperature',
      '0',
      '--ignore-eos'
    ]
    const { code, stdout, stderr } = await command(args)
    t.equal(code, 0, stderr)
    const { text } = await cpu.generate({ ...greedy, maxTokens: 8 })
    t.ok(stdout.includes(text), stdout)
  })

  await t.test('generates the tokens of the CPU', async (t) => {
    const { tokens: got } = await gpu.generate(greedy)
    t.same(got, expected.tokens)
    const [first] = await items(gpu.createGenerator({ ...greedy, logprobs: true, topLogprobs: 2 }), 1)
    t.equal(first?.topLogprobs?.[0]?.token, expected.tokens[0])
  })

  await t.test('logits and routes', async (t) => {
    const request = { model, tokens, logits: 'all', captureRouting: true } as const
    const [a, b] = await Promise.all([gpu.forward(request), cpu.forward(request)])
    t.comment(`routes agree in ${agreement(a.routing, b.routing)}`)
    const same = await gpu.forward({ ...request, replayRouting: b.routing })
    const most = apart(same.logits, b.logits)
    t.ok(most <= nearQuantised, `with the CPU's routes logits are ${most.toExponential(2)} of the largest apart`)
    t.ok(agreement(a.routing, b.routing) >= 0.98)
    const last = await gpu.forward({ model, tokens })
    t.ok(
      bytes(last).equals(bytes(a.logits.subarray(a.logits.length - last.length))),
      'the last of all are the last alone'
    )
    const again = await gpu.forward({ ...request, replayRouting: a.routing })
    t.ok(bytes(again.logits).equals(bytes(a.logits)), 'a replay changes no bit')
    t.ok(bytes(again.routing.ids).equals(bytes(a.routing.ids)))
    const { k, layers } = a.routing
    const turned = a.routing.ids.map((_, at) => a.routing.ids[at - (at % k) + (k - 1 - (at % k))] as number)
    const forced = await gpu.forward({ ...request, replayRouting: { ...a.routing, ids: turned } })
    t.ok(bytes(forced.routing.ids).equals(bytes(turned)), 'and forces what it holds')
    t.equal(forced.routing.layers, layers)
    t.notOk(bytes(forced.logits).equals(bytes(a.logits)))
  })

  await t.test('sequences of a batch do not touch one another', async (t) => {
    const prompts = ['ROMEO:\nBut soft', 'JULIET:', 'First Citizen:\nBefore we proceed any further, hear me']
    const request = (prompt: string) => ({ ...greedy, prompt, maxTokens: 12 })
    const alone = []
    for (const prompt of prompts) alone.push((await gpu.generate(request(prompt))).tokens)
    const together = await Promise.all(prompts.map((prompt) => gpu.generate(request(prompt))))
    t.same(
      together.map(({ tokens }) => tokens),
      alone
    )
  })

  await t.test('counts what was used, and measures a text', async (t) => {
    const { use } = gpu.modelStats(model)
    t.ok(use.steps > 0)
    t.ok(use.rows.some((rows) => rows > 0))
    const text = 'But soft, what light through yonder window breaks?'
    const [a, b] = await Promise.all([gpu.perplexity({ model, text }), cpu.perplexity({ model, text })])
    t.ok(Math.abs(a.meanLoss - b.meanLoss) < 0.02, `${a.meanLoss} and ${b.meanLoss}`)
  })

  await t.test('an abort in a prefill leaves the engine as it was', async (t) => {
    const controller = new AbortController()
    const long = Int32Array.from({ length: 250 }, (_, i) => (i * 13 + 5) % 200)
    const running = gpu.forward({ model, tokens: long, logits: 'all' }, { signal: controller.signal })
    setImmediate(() => controller.abort())
    await t.rejects(running, { code: 'CANCELLED' })
    t.same((await gpu.generate({ ...greedy, maxTokens: 8 })).tokens, expected.tokens.slice(0, 8))
  })

  await t.test('memory comes back', async (t) => {
    await gpu.unloadModel(model)
    const empty = { memoryBytes: 0, buffers: 0 }
    t.match(gpu.backend.gpu, empty)
    for (const part of [0, 0.3, 0.9]) {
      const controller = new AbortController()
      const onProgress = ({ bytesDone, bytesTotal }: { bytesDone: number; bytesTotal: number }) => {
        if (bytesDone >= part * bytesTotal) controller.abort()
      }
      await t.rejects(gpu.loadModel({}, { signal: controller.signal, onProgress }), { code: 'CANCELLED' })
      t.match(gpu.backend.gpu, empty, `aborted after ${100 * part} % of a load`)
    }
    await gpu.loadModel()
    t.ok((gpu.backend.gpu?.memoryBytes as number) >= gpu.listModels()[0]!.weightBytes)
    await gpu.unloadModel(model)
    t.match(gpu.backend.gpu, empty)
  })

  await t.rejects(gpu.generate(greedy), { code: 'MODEL_NOT_LOADED' })
})

t.test('other models', async (t) => {
  const engines = await openEngines(t, { maxBatchTokens: 320 })
  if (!engines) return
  const { gpu, cpu } = engines
  const folder = t.testdir()

  await t.test('float weights, grouped heads, f32 in the KV cache, a tied output matrix', async (t) => {
    const path = writeMoeModel(join(folder, 'plain.gguf'), {
      architecture: 'qwen3moe',
      type: 'F32',
      tied: true,
      contextLength: 512
    })
    for (const engine of [gpu, cpu]) await engine.loadModel({ model: path, id: 'plain', kvType: 'f32' })
    const request = { model: 'plain', tokens, logits: 'all', captureRouting: true } as const
    const [a, b] = [await gpu.forward(request), await cpu.forward(request)]
    t.ok(agreement(a.routing, b.routing) >= 0.99)
    t.ok(apart(a.logits, b.logits) <= near, `${apart(a.logits, b.logits)}`)
    const drawn = {
      model: 'plain',
      promptTokens: [1, 2, 3],
      maxTokens: 16,
      temperature: 0.7,
      topK: 20,
      seed: 5,
      ignoreEos: true
    }
    t.same((await gpu.generate(drawn)).tokens, (await cpu.generate(drawn)).tokens, 'draws with a seed')
  })

  await t.test('logits of all positions of a long step', async (t) => {
    const long = Int32Array.from({ length: 300 }, (_, i) => (i * 37 + 11) % 200)
    const request = { model: 'plain', tokens: long, logits: 'all' } as const
    await gpu.forward({ ...request, logits: 'last' })
    const held = gpu.backend.gpu!.memoryBytes
    const [a, b] = [await gpu.forward(request), await cpu.forward(request)]
    t.ok(apart(a, b) <= near, `${apart(a, b)}`)
    const more = gpu.backend.gpu!.memoryBytes - held
    t.ok(more < a.byteLength / 4, `${more} bytes more are held: what they were read through is not`)
  })

  await t.test('a second text takes no memory that the first has not', async (t) => {
    const path = writeMoeModel(join(folder, 'long.gguf'), { layers: 1, contextLength: 1024 })
    await gpu.loadModel({ model: path, id: 'long' })
    const held = async () => {
      const request = { model: 'long', promptTokens: [1, 2, 3], maxTokens: 560, temperature: 0, ignoreEos: true }
      await gpu.generate(request)
      const { memoryBytes, buffers } = gpu.backend.gpu as { memoryBytes: number; buffers: number }
      return { memoryBytes, buffers }
    }
    const first = await held()
    t.same(await held(), first, 'past a growth of the KV cache, and every number of chunks of attention')
    await gpu.unloadModel('long')
  })

  await t.test('a tiered checkpoint', async (t) => {
    const from = join(folder, 'plain.gguf')
    const to = join(folder, 'checkpoint')
    await convertModel({
      from,
      to,
      tiers: [
        { name: 'core', placement: 'hot', experts: ['0-3'] },
        { name: 'rest', placement: 'cold', experts: 'rest' }
      ]
    })
    await gpu.loadModel({ model: to, id: 'checkpoint', kvType: 'f32' })
    const request = { tokens, logits: 'all' } as const
    const [a, b] = [
      await gpu.forward({ ...request, model: 'plain' }),
      await gpu.forward({ ...request, model: 'checkpoint' })
    ]
    t.ok(bytes(b).equals(bytes(a)), 'the bits of the file')
    const core = await gpu.forward({ ...request, model: 'checkpoint', tierSet: 'core', captureRouting: true })
    t.ok(core.routing.ids.every((id) => id < 4))
  })

  await t.test('hierarchical, with TierSets', async (t) => {
    const path = writeMoeModel(join(folder, 'hser.gguf'), {
      hser: { tiers: { hot: [2, 2], warm: [3, 2], cold: [2] }, k: [1, 1, 2] },
      type: 'F32'
    })
    for (const engine of [gpu, cpu]) await engine.loadModel({ model: path, id: 'hser' })
    for (const tierSet of ['max', 'hot', ['hot', 'warm']]) {
      const request = { model: 'hser', tokens, captureRouting: true, tierSet } as const
      const [a, b] = [await gpu.forward(request), await cpu.forward(request)]
      t.ok(agreement(a.routing, b.routing) >= 0.99, `routes of ${tierSet}`)
      t.ok(apart(a.logits, b.logits) <= near, `logits of ${tierSet}`)
      if (tierSet === 'hot') t.ok(a.routing.ids.every((id) => id < 4))
    }
    // Two TierSets in one step.
    const request = {
      model: 'hser',
      promptTokens: tokens.subarray(0, 9),
      maxTokens: 6,
      temperature: 0,
      ignoreEos: true
    }
    const sets = ['hot', 'warm', 'max']
    const alone = []
    for (const tierSet of sets) alone.push((await gpu.generate({ ...request, tierSet })).tokens)
    const together = await Promise.all(sets.map((tierSet) => gpu.generate({ ...request, tierSet })))
    t.same(
      together.map(({ tokens }) => tokens),
      alone
    )
  })

  await t.test('a value that is not finite ends its sequence alone', async (t) => {
    const path = writeMoeModel(join(folder, 'nan.gguf'), {
      type: 'F32',
      editTensor: (tensor) => {
        if (tensor.name !== 'token_embd.weight') return tensor
        const data = Buffer.from(tensor.data)
        data.writeFloatLE(Number.POSITIVE_INFINITY, 7 * 64 * 4)
        return { ...tensor, data }
      }
    })
    await gpu.loadModel({ model: path, id: 'nan' })
    const request = (promptTokens: number[]) =>
      gpu.generate({ model: 'nan', promptTokens, maxTokens: 4, temperature: 0, ignoreEos: true })
    const sound = await request([1, 2, 3])
    const [bad, good, other] = await Promise.allSettled([request([5, 7, 3]), request([1, 2, 3]), request([7, 1])])
    t.match(bad, { status: 'rejected', reason: { code: 'RUNTIME_NAN_DETECTED', details: { layer: 0 } } })
    t.match(other, { status: 'rejected', reason: { code: 'RUNTIME_NAN_DETECTED', details: { layer: 0, token: 0 } } })
    t.match(good, { status: 'fulfilled', value: { tokens: sound.tokens } })
  })
})
