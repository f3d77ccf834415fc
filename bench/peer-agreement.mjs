// llama.cpp agrees: greedy tokens of both on the same file with the same KV type, and how far their logits are apart.
//   node bench/peer-agreement.mjs            (PEER_NODE_MODULES or `npm install` in bench/; ../shared/peer makes the random files)
// F32 files must give equal tokens and, with an F32 cache, logits within 1e-3 of the largest.
//
// Quantised files: both engines read the same numbers (bench/peer-types.mjs: bit for bit), and each rounds activations to 8 bits in its own way,
// here per block of 32, in llama.cpp per 32 or (K-quants, IQ4_XS) per 256, so that their logits differ by the noise of two roundings. Bound, for
// random files of which every token uses all experts (a near-tie of the router would be another model, not noise):
//   - A rounding to steps of amax / 127 has an rms error of amax / (127 · √12). With κ = amax / rms that is κ / 440 of the row's size, and a
//     product with a matrix keeps the ratio. κ is 2.1 on average for 32 normal numbers, 2.8 for 256, more for the product silu(g) · u: at most 4.
//   - On a token's way there are R = 4 · layers + 1 roundings: before q, k, v; before the attention's output matrix; before gate and up; before
//     down; before the output matrix. Their errors are independent and what a layer adds is no larger than the stream: their squares add up.
//   - The two engines' errors are independent too: √2. The largest of n differences relates to their size as the largest of n logits to theirs.
//   So max |Δ| ≤ √(2 · R) · 4 / 440 · max |logit|: 3.9 % with two layers. A code, scale or minimum that is read wrongly gives tens of percent.
// BF16 and F16 files: llama.cpp rounds activations to the weights' type, 2^-9 and 2^-12 of each number at most: less than the bound.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { dtypes } from '../dist/esm/kernels.js'
import { printTable, randomTokens, show } from './harness.mjs'
import { sharedFolder, syntheticModel, trainedModel } from './models.mjs'
import { hasNodePeer, peerModules, runPeerGreedy } from './peers.mjs'
import { randomOfType } from './random-types.mjs'
import { greedy, openModel } from './runtime.mjs'
import { tinyArchitectures } from './tiny-architectures.mjs'

const sizes = (layers, embedding, heads, kvHeads, headDim, width, experts, used, vocab) => ({
  'n-layer': layers,
  'n-embd': embedding,
  'n-head': heads,
  'n-kv-head': kvHeads,
  'head-dim': headDim,
  'n-ff-exp': width,
  'n-expert': experts,
  'n-expert-used': used,
  'n-vocab': vocab,
  'n-ctx': 512
})
const random = [
  ['olmoe', sizes(3, 90, 5, 5, 18, 55, 7, 3, 301)],
  ['olmoe', sizes(2, 130, 5, 5, 26, 33, 11, 1, 271)],
  ['qwen3moe', sizes(3, 72, 6, 2, 20, 41, 9, 4, 333)],
  ['qwen3moe', sizes(2, 46, 9, 3, 10, 77, 5, 5, 289)],
  ['llama', sizes(3, 60, 3, 1, 20, 37, 5, 2, 277)],
  ['llama', sizes(2, 98, 7, 7, 14, 51, 8, 2, 311)]
]

const rows = []
let failures = 0

/** Greedy tokens and the logits that chose them, by this package. */
async function runGreedy(path, count, kvType, ids) {
  const opened = await openModel(path, { threads: 1, maxBatchTokens: 64 })
  const { model, plan, cancel } = opened
  const sequence = model.createSequence({ kvType, maxTokens: ids.length + count })
  const result = { tokens: [], rows: [] }
  let tokens = Int32Array.from(ids)
  for (let i = 0; i < count; i++) {
    const logitsOut = new Float32Array(plan.vocab)
    const { items } = await model.step([{ sequence, tokens, logits: 'last', logitsOut, sampling: greedy }], cancel)
    if (items[0].error) throw items[0].error
    result.tokens.push(items[0].token)
    result.rows.push(logitsOut)
    tokens = Int32Array.of(items[0].token)
  }
  sequence.dispose()
  opened.dispose()
  return result
}

const difference = (a, b) => a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0)
const margin = (row) => {
  const [first, second] = [...row].sort((a, b) => b - a)
  return first - second
}

/** `most`: how far the logits may be apart, of the largest. Where neither that nor equal tokens (`mustAgree`) are asked for, they are shown only. */
async function compare(
  name,
  path,
  kvType,
  ids,
  count,
  { mustAgree = false, most = mustAgree && kvType === 'f32' ? 1e-3 : undefined } = {}
) {
  const [own, peer] = [await runGreedy(path, count, kvType, ids), await runPeerGreedy(path, count, kvType, ids)]
  const firstDifferent = own.tokens.findIndex((token, i) => token !== peer.tokens[i])
  const same = firstDifferent < 0 ? count : firstDifferent
  // Logits are comparable as long as both were fed the same tokens.
  const compared = own.rows.slice(0, Math.min(count, same + 1))
  const apart = compared.map((row, i) => difference(row, peer.rows[i]))
  const largest = compared.reduce((most, row) => row.reduce((a, x) => Math.max(a, Math.abs(x)), most), 0)
  const verdict =
    firstDifferent < 0
      ? 'equal'
      : `differs at ${firstDifferent}, where the peer's margin is ${show(margin(peer.rows[firstDifferent]))}`
  const share = Math.max(...apart) / largest
  if ((mustAgree && firstDifferent >= 0) || share > most) failures++
  const bounded = most && `${share > most ? 'BEYOND' : 'within'} the bound of ${show(100 * most)} %`
  rows.push([
    name,
    kvType,
    `${same}/${count}`,
    show(apart[0]),
    show(Math.max(...apart)),
    `${show(100 * share)} %`,
    mustAgree ? `${verdict}${share > most ? ', logits too far apart' : ''}` : (bounded ?? `${verdict} (shown only)`)
  ])
}

const reference = join(sharedFolder, 'models', 'reference.json')
for (const [needed, there] of [
  [`node-llama-cpp in ${peerModules}`, hasNodePeer],
  [reference, existsSync(reference)]
]) {
  if (there) continue
  console.log(`skipped: ${needed} is not there`)
  process.exit(0)
}
const { ids } = JSON.parse(readFileSync(reference, 'utf8'))
for (const type of ['f32', 'f16', 'q8_0', 'q4_0']) {
  const { name, path } = await trainedModel(type)
  for (const kvType of ['f16', 'f32'])
    await compare(`trained ${name}`, path, kvType, ids, 96, { mustAgree: type === 'f32' })
}
for (const [i, [arch, options]] of random.entries()) {
  const path = await syntheticModel(`agree-${arch}-${i}.gguf`, { arch, type: 'F32', seed: i + 1, ...options })
  if (!path) continue
  const prompt = [...randomTokens(37, options['n-vocab'], i + 1)]
  const name = `${arch} ${options['n-embd']}x${options['n-ff-exp']}, ${options['n-expert-used']} of ${options['n-expert']}`
  for (const kvType of ['f16', 'f32']) await compare(name, path, kvType, prompt, 48, { mustAgree: true })
}
const roundings = 4 * 2 + 1
for (const type of [...dtypes, 'Q4_K_M', 'Q5_K_M']) {
  const most = type === 'F32' ? 1e-3 : (Math.sqrt(2 * roundings) * 4) / (127 * Math.sqrt(12))
  await compare(`random olmoe, ${type}`, await randomOfType(type), 'f32', [...randomTokens(37, 301, 9)], 24, { most })
}
// With an F16 cache near-ties of random weights fall either way: each engine's keys and values are rounded after sums in an order of its own.
for (const { name, path, vocab, type } of await tinyArchitectures()) {
  await compare(name, path, 'f32', [...randomTokens(37, vocab, 7)], 48, { mustAgree: type === 'F32' })
}
printTable(['file', 'KV', 'tokens equal', 'logits apart, first', 'greatest', 'of the largest', 'verdict'], rows)
console.log(
  failures ? `${failures} files disagree` : 'every file of type F32 agrees, and every other is within its bound'
)
process.exitCode = failures || !rows.length ? 1 : 0
