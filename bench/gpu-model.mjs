// The second part of bench/gpu-peers.mjs: one layer of a whole model, as (time of a token with 9 layers − with 1) ÷ 8, beside llama.cpp's
// Vulkan backend on the same files and the same driver. Tokens are decoded one a step, from an empty context, the best taken each time.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { start } from './gpu-children.mjs'
import { printTable, show, showSpread, summarise } from './harness.mjs'
import { syntheticModel } from './models.mjs'
import { peerModules } from './peers.mjs'

const layers = [1, 9]
/** Tokens of one measurement. */
const decoded = 16
/** llama.cpp leaves a driver that computes on the CPU alone unless it is told which device to take. */
const vulkanDevice = { GGML_VK_VISIBLE_DEVICES: process.env.GGML_VK_VISIBLE_DEVICES ?? '0' }

/** The ratio of both, or undefined with the reason printed. */
export async function measureModel({ runs, failures }) {
  if (!existsSync(join(peerModules, '@node-llama-cpp', 'linux-x64-vulkan'))) {
    console.log(`skipped the whole model: @node-llama-cpp/linux-x64-vulkan is not in ${peerModules}`)
    return undefined
  }
  const shape = { preset: 'olmoe-1b-7b', 'n-vocab': 4096, type: 'Q4_0' }
  const paths = []
  for (const count of layers) {
    const path = await syntheticModel(`olmoe-${count}-layers-4096-tokens-q4_0.gguf`, { ...shape, 'n-layer': count })
    if (!path) return undefined
    paths.push(path)
  }
  const own = []
  const peer = []
  for (const path of paths) {
    own.push(await start('tiered-moe', 'gpu-engine.mjs', [path]))
    peer.push(await start('llama.cpp', 'gpu-llama.mjs', [path], vulkanDevice))
  }
  console.log(`whole model: tiered-moe on ${own[0].device}, llama.cpp on ${peer[0].device}`)
  const perToken = async (child) => (await child.ask({ tokens: decoded })).milliseconds
  const perLayer = async (children) => {
    const [few, many] = [await perToken(children[0]), await perToken(children[1])]
    return (many - few) / (layers[1] - layers[0])
  }
  // Shaders are compiled by the first run, which takes llama.cpp minutes on a driver that computes on the CPU.
  await perLayer(own)
  await perLayer(peer)
  const times = { own: [], peer: [] }
  for (let i = 0; i < runs; i++) {
    times.own.push(await perLayer(own))
    times.peer.push(await perLayer(peer))
  }
  for (const child of [...own, ...peer]) child.stop()
  const result = {
    ratio: summarise(times.peer.map((time, i) => time / times.own[i])),
    own: summarise(times.own),
    peer: summarise(times.peer)
  }
  printTable(
    ['one layer, one token', 'peer / own', 'own ms', 'peer ms'],
    [['llama.cpp, Vulkan', showSpread(result.ratio), showSpread(result.own), showSpread(result.peer)]]
  )
  console.log(
    `one layer of a whole model: ${show(result.ratio.median)} times as fast as llama.cpp (expected: at least 1)`
  )
  if (!(result.ratio.median >= 1)) failures.push(`a layer of a whole model: ${show(result.ratio.median)} is below 1`)
  return result
}
