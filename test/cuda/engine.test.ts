/** An engine on CUDA beside the CPU's: TierSets, replays, other plans, faults and aborts give the same bits, and the same errors. */
import { join } from 'node:path'
import t from 'tap'
import { createEngine, type Engine, type GenerationRequest } from 'tiered-moe'
import { type MoeModelOptions, writeMoeModel } from '../fixtures/moe-model.js'
import { openCudaEngines } from './engines.js'

const engines = await openCudaEngines(t, { maxBatchTokens: 24 })
const folder = t.testdir({})
const tokens = Int32Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 200)
const bits = ({ buffer, byteOffset, length }: Float32Array | Int32Array) => new Uint32Array(buffer, byteOffset, length)

if (engines) {
  const { cuda, cpu } = engines

  async function load(id: string, options: MoeModelOptions, request = {}) {
    const model = writeMoeModel(join(folder, `${id}.gguf`), options)
    for (const engine of [cuda, cpu]) await engine.loadModel({ id, model, ...request })
  }

  /** All that a forward pass gives, as bits. */
  async function forward(engine: Engine, model: string, options = {}) {
    const { logits, routing } = await engine.forward({ model, tokens, logits: 'all', captureRouting: true, ...options })
    return { routing, bits: [logits, routing.ids, routing.weights].map(bits) }
  }

  t.test('a hierarchical model under TierSets, one after another and in one step', async (t) => {
    const hser = { tiers: { hot: [2, 2], warm: [3, 2], cold: [2] }, k: [1, 1, 2] as [number, number, number] }
    await load('hser', { hser, type: 'Q8_0' })
    const sets = ['max', 'hot', ['hot', 'warm']]
    for (const tierSet of sets) {
      const own = await forward(cuda, 'hser', { tierSet })
      t.same(own.bits, (await forward(cpu, 'hser', { tierSet })).bits, `${tierSet}`)
      if (tierSet === 'hot') t.ok(own.routing.ids.every((id) => id < 4))
    }
    const promptTokens = Array.from(tokens.subarray(0, 9))
    const texts = (engine: Engine) =>
      Promise.all(
        sets.map(async (tierSet) => {
          const request = { model: 'hser', promptTokens, maxTokens: 4, temperature: 0, ignoreEos: true, tierSet }
          return (await engine.generate(request)).tokens
        })
      )
    t.same(await texts(cuda), await texts(cpu))
  })

  t.test('grouped heads, float weights, f32 in the KV cache', async (t) => {
    const options = { architecture: 'qwen3moe', type: 'F32', tied: true } as const
    await load('plain', options, { kvType: 'f32' })
    t.same((await forward(cuda, 'plain')).bits, (await forward(cpu, 'plain')).bits)
  })

  t.test('latent attention, dense layers, shared experts', async (t) => {
    const latent = { queryRank: 32, rank: 64, plain: 32, rotated: 6, value: 32 }
    const models: Record<string, MoeModelOptions> = {
      'two-matrices': { architecture: 'deepseek2', type: 'Q8_0', feedForward: 32, latent },
      'one-matrix': { architecture: 'deepseek2', latent: { ...latent, queryRank: 0, plain: 13, joined: true } },
      'shared-and-scaled': { architecture: 'qwen2moe', shared: 41 }
    }
    for (const [id, options] of Object.entries(models)) {
      await load(id, options)
      t.same((await forward(cuda, id)).bits, (await forward(cpu, id)).bits, id)
    }
  })

  t.test('routes that are replayed', async (t) => {
    const { routing, bits: wanted } = await forward(cpu, 'plain')
    t.same((await forward(cuda, 'plain', { replayRouting: routing })).bits, wanted, 'as they were captured')
    const { experts } = cuda.listModels().find(({ id }) => id === 'plain')!.descriptor
    // The first tokens bring theirs, of the rest those that are routed.
    const held = 25
    const { layers, k } = routing
    const changed = {
      ...routing,
      tokens: held,
      ids: routing.ids.slice(0, held * layers * k).map((id) => (id + 1) % experts),
      weights: routing.weights.slice(0, held * layers * k)
    }
    const forced = await forward(cuda, 'plain', { replayRouting: changed })
    t.same(forced.bits, (await forward(cpu, 'plain', { replayRouting: changed })).bits)
    t.same(forced.routing.ids.slice(0, changed.ids.length), changed.ids)
  })

  t.test('a value that is not finite ends its sequence alone', async (t) => {
    await load('nan', {
      type: 'F32',
      editTensor: (tensor) => {
        if (tensor.name !== 'token_embd.weight') return tensor
        const data = Buffer.from(tensor.data)
        data.writeFloatLE(Number.POSITIVE_INFINITY, 7 * 64 * 4)
        return { ...tensor, data }
      }
    })
    const ended = async (engine: Engine, promptTokens: number[]) => {
      const request: GenerationRequest = { model: 'nan', promptTokens, maxTokens: 3, temperature: 0, ignoreEos: true }
      const { tokens } = await engine
        .generate(request)
        .catch(({ code, details }) => ({ tokens: [code, details.layer, details.token] }))
      return tokens
    }
    const prompts = [
      [5, 7, 3],
      [1, 2, 3],
      [7, 1]
    ]
    const together = (engine: Engine) => Promise.all(prompts.map((prompt) => ended(engine, prompt)))
    const own = await together(cuda)
    t.same(own, await together(cpu))
    t.same(
      own.map(([code]) => code === 'RUNTIME_NAN_DETECTED'),
      [true, false, true]
    )
  })

  t.test('an abort in a prefill leaves the engine as it was', async (t) => {
    const controller = new AbortController()
    const running = cuda.forward({ model: 'plain', tokens, logits: 'all' }, { signal: controller.signal })
    setImmediate(() => controller.abort())
    await t.rejects(running, { code: 'CANCELLED' })
    t.same((await forward(cuda, 'plain')).bits, (await forward(cpu, 'plain')).bits)
    for (const { id } of cuda.listModels()) await cuda.unloadModel(id)
    t.match(cuda.backend.gpu, { memoryBytes: 0, buffers: 0 })
  })

  t.test('a device that failed', async (t) => {
    if (cuda.backend.device !== 'host emulation') return
    const engine = await createEngine({ backend: 'cuda', threads: 2 })
    t.teardown(() => engine.dispose())
    await engine.loadModel({ id: 'tiny', contextLength: 64 })
    const request = { model: 'tiny', prompt: 'O', maxTokens: 2, temperature: 0 }
    const { text } = await engine.generate(request)
    await engine.recover()
    t.equal((await engine.generate(request)).text, text, 'one that has not is as it was')

    process.env.TIERED_MOE_EMULATED_FAULT = '1'
    t.teardown(() => delete process.env.TIERED_MOE_EMULATED_FAULT)
    await t.rejects(engine.generate(request), { code: 'CUDA_DEVICE_FAILED' })
    t.match(engine.backend, { device: 'host emulation', gpu: { memoryBytes: Number } }, 'it can be looked at')
    await t.rejects(engine.recover(), { code: 'CUDA_DEVICE_FAILED' })
    t.equal(engine.state, 'closed')
  })
}
