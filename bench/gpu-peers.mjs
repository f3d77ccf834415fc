// First what the layer's shaders load (bench/gpu-loads.mjs). Then, on one GPU in one run: a MoE layer of OLMoE's shape through the kernel-level interface beside onnxruntime's QMoE on its WebGPU provider, and
// one layer of a whole model beside llama.cpp's Vulkan backend. Both sides find the same numbers, run in turn, and only ratios are given.
//   npm run bench:gpu                       1 and 16 tokens, 3 runs
//   npm run bench:gpu -- --full             1, 16 and 128 tokens, 7 runs, and the whole model; loads at the real shape
//   npm run bench:gpu -- --tokens 1,128 --runs 5 --model
// Peers: `npm install` in bench/ (PEER_NODE_MODULES names another folder). The layer: 64 experts of 2048 × 1024, 8 used, Q4_0 weights; the
// router's product, the choice, the three matrices and the weighted sum, from states in host memory to results there.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { start } from './gpu-children.mjs'
import { shape } from './gpu-layer.mjs'
import { measureLoads } from './gpu-loads.mjs'
import { measureModel } from './gpu-model.mjs'
import { environment, printEnvironment, printTable, show, showSpread, summarise, writeReport } from './harness.mjs'
import { peerModules } from './peers.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    tokens: { type: 'string' },
    runs: { type: 'string' },
    model: { type: 'boolean', default: false }
  }
})
const counts = (options.tokens ?? (options.full ? '1,16,128' : '1,16')).split(',').map(Number)
const runs = Number(options.runs ?? (options.full ? 7 : 3))
/** What the layer shall be faster by. */
const goal = 1.5
/** Largest difference of two tokens' results, as a share of their size: both round activations to int8, the one of f16 results too. */
const tolerance = 0.05
/** One token in so many may be routed otherwise by the peer's float scores, where two experts' are nearly equal. */
const nearTies = 16

/** Tokens whose results agree, and the largest difference among them, as a share of the results' size. */
function compare(own, peer) {
  const { width } = shape
  let agreeing = 0
  let largest = 0
  for (let at = 0; at < own.length; at += width) {
    let [off, size] = [0, 0]
    for (let i = at; i < at + width; i++) {
      off += (own[i] - peer[i]) ** 2
      size += peer[i] ** 2
    }
    const share = Math.sqrt(off / size)
    if (!(share <= tolerance)) continue
    agreeing++
    largest = Math.max(largest, share)
  }
  return { tokens: own.length / width, agreeing, largest }
}

/** Both sides in turn: milliseconds of each, and the peer's time as a multiple of ours in the same round. */
async function measure(own, peer, tokens) {
  const first = await own.ask({ tokens, output: true })
  const theirs = await peer.ask({ tokens, output: true })
  const agreement = compare(first.results, theirs.results)
  const times = { own: [], peer: [] }
  for (let i = 0; i < runs; i++) {
    times.own.push((await own.ask({ tokens })).milliseconds)
    times.peer.push((await peer.ask({ tokens })).milliseconds)
  }
  const ratio = summarise(times.peer.map((time, i) => time / times.own[i]))
  return { peer: peer.name, tokens, ratio, own: summarise(times.own), theirs: summarise(times.peer), agreement }
}

const stamp = environment()
printEnvironment(stamp)
const failures = []
const loads = await measureLoads({ full: options.full, failures })
if (!existsSync(join(peerModules, 'onnxruntime-node'))) {
  console.log(`skipped: onnxruntime-node is not in ${peerModules} (npm install in bench/, or PEER_NODE_MODULES)`)
  for (const failure of failures) console.error(failure)
  process.exit(process.env.CI || failures.length > 0 ? 1 : 0)
}
const own = await start('tiered-moe', 'gpu-own.mjs')
console.log(`adapter: ${own.device}`)
const results = []
for (const type of ['float32', 'float16']) {
  const peer = await start(`QMoE ${type}`, 'gpu-onnx.mjs', [type])
  for (const tokens of counts) results.push(await measure(own, peer, tokens))
  peer.stop()
}
own.stop()

printTable(
  ['peer', 'tokens', 'peer / own', 'own ms', 'peer ms', 'tokens that agree', 'largest difference'],
  results.map(({ peer, tokens, ratio, own, theirs, agreement }) => [
    peer,
    tokens,
    showSpread(ratio),
    showSpread(own),
    showSpread(theirs),
    `${agreement.agreeing} of ${agreement.tokens}`,
    show(agreement.largest)
  ])
)
for (const tokens of counts) {
  const ofCount = results.filter((result) => result.tokens === tokens)
  // The peer's better float type counts.
  const ratio = Math.min(...ofCount.map((result) => result.ratio.median))
  console.log(`tokens ${tokens}: ${show(ratio)} times as fast as the peer's better type (expected: at least ${goal})`)
  if (ratio < goal) failures.push(`tokens ${tokens}: ${show(ratio)} is below ${goal}`)
  for (const { peer, agreement } of ofCount) {
    const away = agreement.tokens - agreement.agreeing
    if (away > agreement.tokens / nearTies) failures.push(`${peer}, tokens ${tokens}: ${away} differ`)
  }
}
const model = options.full || options.model ? await measureModel({ runs, failures }) : undefined
writeReport('gpu-peers.json', { environment: stamp, device: own.device, loads, results, model })
for (const failure of failures) console.error(failure)
process.exitCode = failures.length === 0 ? 0 : 1
