// Child process of bench/gpu-peers.mjs: a model in llama.cpp's Vulkan backend. Answers `{ tokens }` with the milliseconds of a token.
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { serve } from './gpu-children.mjs'
import { peerModules } from './peers.mjs'

const { getLlama } = await import(pathToFileURL(join(peerModules, 'node-llama-cpp', 'dist', 'index.js')).href)
const llama = await getLlama({ gpu: 'vulkan', build: 'never', logLevel: 'disabled' })
if (llama.gpu !== 'vulkan') throw new Error('node-llama-cpp took no Vulkan device')
const modelPath = process.argv[2]
const model = await llama.loadModel({ modelPath, gpuLayers: 'max', ignoreMemorySafetyChecks: true })
const context = await model.createContext({
  contextSize: 256,
  sequences: 1,
  // With flash attention a driver that computes on the CPU compiles for more than six minutes.
  flashAttention: false,
  ignoreMemorySafetyChecks: true
})
const sequence = context.getSequence()

serve((await llama.getGpuDeviceNames()).join(', '), async ({ tokens }) => {
  await sequence.clearHistory()
  const iterator = sequence.evaluate([1], { temperature: 0, yieldEogToken: true })
  let { value } = await iterator.next()
  const begin = performance.now()
  for (let i = 0; i < tokens; i++) value = (await iterator.next(value)).value
  const milliseconds = (performance.now() - begin) / tokens
  await iterator.return()
  return { milliseconds }
})
