// Child process of bench/memory-cap.mjs: generates with a memory budget and prints one JSON line of figures.
//   node bench/measure-capped.mjs MODEL MEMORY|all THREADS PROMPT DECODE PREFETCH
// Sampled so hot that tokens are as good as random (greedy text of random weights runs in circles, and a cache would look better than it
// is); the tokens are part of the result, so that a peer can be fed the same ones.
import { readFileSync } from 'node:fs'
import { createEngine } from '../dist/esm/index.js'
import { peakMemory, randomTokens } from './harness.mjs'

const [model, memory, threadsText, promptText, decodeText, prefetch] = process.argv.slice(2)
const [threads, prompt, decode] = [threadsText, promptText, decodeText].map(Number)
/** Bytes that this process has had read from disks. */
const diskBytes = () => Number(/^read_bytes: (\d+)/m.exec(readFileSync('/proc/self/io', 'utf8'))[1])

const start = performance.now()
const engine = await createEngine({ threads, maxBatchTokens: 32 })
const { id, descriptor } = await engine.loadModel({
  model,
  contextLength: prompt + decode + 8,
  ...(memory === 'all' ? {} : { memory: Number(memory) }),
  prefetch
})
const loadSeconds = (performance.now() - start) / 1000
const promptTokens = randomTokens(prompt, descriptor.vocab, 1)
const tokens = []
const seconds = []
let [before, bytesBefore] = [undefined, 0]
let last = performance.now()
for await (const item of engine.createGenerator({
  model: id,
  promptTokens,
  maxTokens: decode,
  temperature: 8,
  seed: 1,
  ignoreEos: true
})) {
  if (item.token === undefined) break
  const now = performance.now()
  tokens.push(item.token)
  // The first token's time is the prompt's.
  if (tokens.length > 1) seconds.push((now - last) / 1000)
  else {
    before = engine.modelStats(id)
    bytesBefore = diskBytes()
  }
  last = now
}
const result = {
  loadSeconds,
  promptTokens: Array.from(promptTokens),
  tokens,
  seconds,
  before,
  after: engine.modelStats(id),
  slot: engine.listModels()[0].memory.experts.slot,
  diskBytes: diskBytes() - bytesBefore,
  peakBytes: peakMemory()
}
await engine.dispose()
console.log(JSON.stringify(result))
