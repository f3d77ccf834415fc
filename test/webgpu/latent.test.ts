/** Latent attention, dense layers and shared experts on the GPU: near the CPU's logits, with its routes and by itself. */
import { join } from 'node:path'
import t from 'tap'
import { type MoeModelOptions, writeMoeModel } from '../fixtures/moe-model.js'
import { tolerances } from '../kernels/tolerance.js'
import { agreement, apart, openEngines } from './engines.js'

const tokens = Int32Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 200)
const [near, nearQuantised] = [tolerances.modelFloat, tolerances.modelQuantised].map(
  ({ fixed }) => fixed * 2 ** -24
) as [number, number]

const latent = { queryRank: 32, rank: 64, plain: 32, rotated: 6, value: 32 }
const models: Record<string, MoeModelOptions> = {
  'two matrices': { architecture: 'deepseek2', layers: 3, latent: { ...latent, plain: 13, value: 10 } },
  'one matrix, quantised': {
    architecture: 'deepseek2',
    type: 'Q8_0',
    feedForward: 32,
    latent: { ...latent, queryRank: 0, joined: true }
  },
  'quantised heads': { architecture: 'deepseek2', type: 'Q8_0', feedForward: 32, latent },
  'a shared expert that is scaled': { architecture: 'qwen2moe', shared: 41 }
}

t.test('models beside the CPU', async (t) => {
  const engines = await openEngines(t)
  if (!engines) return
  const { gpu, cpu } = engines
  t.testdir({})
  for (const [name, options] of Object.entries(models)) {
    const model = writeMoeModel(join(t.testdirName, `${name.replaceAll(/\W+/g, '-')}.gguf`), options)
    const request = { model: name, tokens, logits: 'all', captureRouting: true } as const
    for (const engine of [gpu, cpu]) await engine.loadModel({ id: name, model })
    const [own, wanted] = [await gpu.forward(request), await cpu.forward(request)]
    t.ok(agreement(own.routing, wanted.routing) >= 0.98, `${name}: routes`)
    const same = await gpu.forward({ ...request, replayRouting: wanted.routing })
    const most = apart(same.logits, wanted.logits)
    const bound = options.type ? nearQuantised : near
    t.ok(most > 0 && most <= bound, `${name}: logits are ${most.toExponential(2)} of the largest apart`)
    // token by token: attention of one row, and other tiles of the products
    const promptTokens = [...tokens.subarray(0, 9)]
    const greedy = { model: name, promptTokens, maxTokens: 6, temperature: 0, ignoreEos: true }
    t.same((await gpu.generate(greedy)).tokens, (await cpu.generate(greedy)).tokens, `${name}: greedy tokens`)
    for (const engine of [gpu, cpu]) await engine.unloadModel(name)
  }
})
