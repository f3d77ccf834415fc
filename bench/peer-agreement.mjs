// llama.cpp agrees: greedy tokens of both on the same file with the same KV type, and how far their logits are apart.
//   node bench/peer-agreement.mjs            (PEER_NODE_MODULES or `npm install` in bench/; ../shared/peer makes the random files)
// F32 files must give equal tokens, and with an F32 cache logits within 1e-3 of the largest. Quantised files are shown beside them: each engine rounds activations in its own way.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { printTable, randomTokens, show } from './harness.mjs'
import { sharedFolder, syntheticModel, trainedModel } from './models.mjs'
import { hasNodePeer, peerModules, runPeerGreedy } from './peers.mjs'
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

async function compare(name, path, kvType, ids, count, mustAgree) {
  const [own, peer] = [await runGreedy(path, count, kvType, ids), await runPeerGreedy(path, count, kvType, ids)]
  const firstDifferent = own.tokens.findIndex((token, i) => token !== peer.tokens[i])
  const same = firstDifferent < 0 ? count : firstDifferent
  // Logits are comparable as long as both were fed the same tokens.
  const compared = own.rows.slice(0, Math.min(count, same + 1))
  const apart = compared.map((row, i) => difference(row, peer.rows[i]))
  const largest = compared.reduce((most, row) => row.reduce((a, x) => Math.max(a, Math.abs(x)), most), 0)
  const near = kvType !== 'f32' || Math.max(...apart) <= 1e-3 * largest
  const verdict =
    firstDifferent < 0
      ? 'equal'
      : `differs at ${firstDifferent}, where the peer's margin is ${show(margin(peer.rows[firstDifferent]))}`
  if (mustAgree && (firstDifferent >= 0 || !near)) failures++
  rows.push([
    name,
    kvType,
    `${same}/${count}`,
    show(apart[0]),
    show(Math.max(...apart)),
    mustAgree ? `${verdict}${near ? '' : ', logits too far apart'}` : `${verdict} (shown only)`
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
  for (const kvType of ['f16', 'f32']) await compare(`trained ${name}`, path, kvType, ids, 96, type === 'f32')
}
for (const [i, [arch, options]] of random.entries()) {
  const path = await syntheticModel(`agree-${arch}-${i}.gguf`, { arch, type: 'F32', seed: i + 1, ...options })
  if (!path) continue
  const prompt = [...randomTokens(37, options['n-vocab'], i + 1)]
  const name = `${arch} ${options['n-embd']}x${options['n-ff-exp']}, ${options['n-expert-used']} of ${options['n-expert']}`
  for (const kvType of ['f16', 'f32']) await compare(name, path, kvType, prompt, 48, true)
}
for (const type of ['Q4_K', 'MXFP4']) {
  const options = sizes(2, 256, 8, 8, 32, 256, 8, 2, 301)
  const path = await syntheticModel(`agree-olmoe-${type.toLowerCase()}.gguf`, { arch: 'olmoe', type, ...options })
  if (!path) continue
  const prompt = [...randomTokens(37, options['n-vocab'], 9)]
  for (const kvType of ['f16', 'f32']) await compare(`random olmoe, ${type}`, path, kvType, prompt, 48, false)
}
for (const { name, path, vocab, type } of await tinyArchitectures()) {
  const prompt = [...randomTokens(37, vocab, 7)]
  for (const kvType of ['f16', 'f32']) await compare(name, path, kvType, prompt, 48, type === 'F32')
}
printTable(['file', 'KV', 'tokens equal', 'logits apart, first', 'greatest', 'verdict'], rows)
console.log(failures ? `${failures} files of type F32 disagree` : 'every file of type F32 agrees')
process.exit(failures || !rows.length ? 1 : 0)
