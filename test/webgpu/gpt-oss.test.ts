/** gpt-oss and granitemoe on the GPU: logits near the CPU's, with all experts there and with slots for some. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { gptOss } from '../fixtures/gpt-oss-model.js'
import { granite } from '../fixtures/granite-model.js'
import { tolerances } from '../kernels/tolerance.js'
import { apart, openEngines } from './engines.js'

const tokens = Int32Array.from({ length: 60 }, (_, i) => (i * 37 + 11) % 200)
const { modelFloat, modelQuantised } = tolerances

t.test('biases, windows, sinks and multipliers', async (t) => {
  const engines = await openEngines(t)
  if (!engines) return
  const { gpu, cpu } = engines
  const dir = t.testdir()
  const files = {
    'gpt-oss f32': { bytes: gptOss({ vocab: 260 }).bytes, near: modelFloat },
    'gpt-oss mxfp4': {
      bytes: gptOss({ type: 'MXFP4', embedding: 96, feedForward: 64, vocab: 260 }).bytes,
      near: modelQuantised
    },
    granitemoe: { bytes: granite({ shared: 40, vocab: 260 }).bytes, near: modelFloat }
  }
  for (const [id, { bytes, near }] of Object.entries(files)) {
    const model = join(dir, `${id}.gguf`)
    writeFileSync(model, bytes)
    await Promise.all([gpu, cpu].map((engine) => engine.loadModel({ id, model, contextLength: 64 })))
    const request = { model: id, tokens, logits: 'all', captureRouting: true } as const
    const expected = await cpu.forward(request)
    const { logits } = await gpu.forward({ ...request, replayRouting: expected.routing })
    const most = apart(logits, expected.logits)
    t.ok(most <= near.fixed * 2 ** -24, `${id}: ${most.toExponential(2)} of the largest apart`)
    const own = await gpu.forward(request)
    await gpu.unloadModel(id)
    const tiered = await gpu.loadModel({ id, model, contextLength: 64, gpuMemory: 1 }).catch((error) => error)
    const gpuMemory = tiered.details.alternatives[0].value as number
    await gpu.loadModel({ id, model, contextLength: 64, gpuMemory })
    const few = await gpu.forward(request)
    t.same(few.logits, own.logits, `${id}: the same bits with slots for some experts`)
  }
})
