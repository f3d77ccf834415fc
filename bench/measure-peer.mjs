// Child process: runs node-llama-cpp through its public API and prints one JSON line.
//   node bench/measure-peer.mjs speed MODEL PROMPT DECODE THREADS KV_TYPE
//   node bench/measure-peer.mjs greedy MODEL COUNT KV_TYPE IDS     (IDS: comma-separated prompt; prints tokens and their logits)
//   node bench/measure-peer.mjs tokens MODEL TOKENS_FILE THREADS   (prints the time of each token, fed one a step)
// PEER_NODE_MODULES names the node_modules folder that holds it; without, bench/node_modules (`npm install` in bench/).
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { peakMemory, randomTokens } from './harness.mjs'
import { peerModules } from './peers.mjs'

const { getLlama } = await import(pathToFileURL(join(peerModules, 'node-llama-cpp', 'dist', 'index.js')).href)
const [mode, modelPath, ...args] = process.argv.slice(2)
const seconds = async (work) => {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

async function open(threads, contextSize, contextOptions = {}) {
  const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: threads })
  const model = await llama.loadModel({ modelPath, gpuLayers: 0 })
  const context = await model.createContext({
    contextSize,
    batchSize: Math.min(contextSize, 512),
    sequences: 1,
    threads: { ideal: threads, min: threads },
    ...contextOptions
  })
  const vocab = model.fileInfo.metadata.tokenizer.ggml.tokens.length
  return { llama, model, sequence: context.getSequence(), vocab }
}

const cacheOf = (kvType) => ({
  experimentalKvCacheKeyType: kvType.toUpperCase(),
  experimentalKvCacheValueType: kvType.toUpperCase()
})

async function speed(prompt, decode, threads, kvType) {
  let opened
  const loadSeconds = await seconds(async () => {
    opened = await open(threads, prompt + decode + 64, cacheOf(kvType))
  })
  const { sequence, vocab } = opened
  const tokens = Array.from(randomTokens(prompt + decode + 1, vocab, 1))
  const decodeAll = async () => {
    const iterator = sequence.evaluate([tokens[prompt]], { temperature: 0, yieldEogToken: true })
    const elapsed = await seconds(async () => {
      await iterator.next()
      for (let i = 1; i < decode; i++) await iterator.next(tokens[prompt + i])
    })
    await iterator.return()
    return decode / elapsed
  }
  await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(0, 8))
  await sequence.clearHistory()
  const decode0 = await decodeAll()
  await sequence.clearHistory()
  const prefill = prompt / (await seconds(() => sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(0, prompt))))
  const decodeDeep = await decodeAll()
  return { loadSeconds, prefill, decode0, decodeDeep, peakBytes: peakMemory() }
}

/** Greedy continuation, with all logits of each position that chose a token. */
async function greedy(count, kvType, ids) {
  const { sequence, vocab } = await open(1, ids.length + count + 8, { flashAttention: false, ...cacheOf(kvType) })
  const ask = { generateNext: { token: true, logits: true, options: { temperature: 0 } } }
  const tokens = []
  const logits = []
  let input = [...ids.slice(0, -1), [ids.at(-1), ask]]
  for (let i = 0; i < count; i++) {
    const { next } = (await sequence.controlledEvaluate(input)).findLast(Boolean)
    const row = new Float32Array(vocab)
    for (const [token, logit] of next.logits) row[token] = logit
    tokens.push(next.token)
    logits.push(Buffer.from(row.buffer).toString('base64'))
    input = [[next.token, ask]]
  }
  return { tokens, logits }
}

/** Seconds of each token. */
async function tokens(file, threads) {
  const ids = readFileSync(file, 'utf8').trim().split(/\s+/).map(Number)
  const { sequence } = await open(threads, ids.length + 8)
  const times = []
  for (const id of ids) times.push(await seconds(() => sequence.evaluateWithoutGeneratingNewTokens([id])))
  return { seconds: times }
}

const modes = {
  speed: () => speed(...args.slice(0, 3).map(Number), args[3]),
  greedy: () => greedy(Number(args[0]), args[1], args[2].split(',').map(Number)),
  tokens: () => tokens(args[0], Number(args[1]))
}
const figures = await modes[mode]()
// Written whole before the process ends by force: the peer's threads would keep it alive.
process.stdout.write(`${JSON.stringify(figures)}\n`, () => process.exit(0))
