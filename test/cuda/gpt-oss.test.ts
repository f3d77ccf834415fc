/** gpt-oss and granitemoe on CUDA: the CPU's bits, with all experts there and with slots for some. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { gptOss } from '../fixtures/gpt-oss-model.js'
import { granite } from '../fixtures/granite-model.js'
import { openCudaEngines } from './engines.js'

const engines = await openCudaEngines(t, { maxBatchTokens: 24 })
const folder = t.testdir({})
const tokens = Int32Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 200)

if (engines) {
  const files = {
    'gpt-oss': gptOss({ vocab: 260 }),
    mxfp4: gptOss({ type: 'MXFP4', embedding: 96, feedForward: 64, vocab: 260 }),
    granitemoe: granite({ shared: 40, vocab: 260 })
  }
  for (const [id, { bytes }] of Object.entries(files)) {
    t.test(id, async (t) => {
      const model = join(folder, `${id}.gguf`)
      writeFileSync(model, bytes)
      const bits = async (engine: typeof engines.cpu, options = {}) => {
        await engine.loadModel({ id, model, contextLength: 64, ...options })
        const { buffer, byteOffset, length } = await engine.forward({ model: id, tokens, logits: 'all' })
        await engine.unloadModel(id)
        return new Uint32Array(buffer, byteOffset, length)
      }
      const expected = await bits(engines.cpu)
      t.same(await bits(engines.cuda), expected)
      const refused = await engines.cuda
        .loadModel({ id, model, contextLength: 64, gpuMemory: 1 })
        .catch((error) => error)
      const gpuMemory = refused.details.alternatives[0].value
      t.same(await bits(engines.cuda, { gpuMemory }), expected, 'with slots for some experts')
    })
  }
}
