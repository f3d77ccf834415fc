// Child process of bench/gpu-peers.mjs: a model in an engine on WebGPU. Answers `{ tokens }` with the milliseconds of a token.
import { createEngine } from '../dist/esm/index.js'
import { serve } from './gpu-children.mjs'

const engine = await createEngine({ backend: 'webgpu' })
const { id: model } = await engine.loadModel({ model: process.argv[2], contextLength: 256 })

serve('webgpu', async ({ tokens }) => {
  const request = { model, promptTokens: [1], maxTokens: tokens + 1, temperature: 0, ignoreEos: true }
  let [begin, count] = [0, 0]
  for await (const item of engine.createGenerator(request)) {
    if (item.finishReason) break
    if (count++ === 0) begin = performance.now()
  }
  return { milliseconds: (performance.now() - begin) / (count - 1) }
})
