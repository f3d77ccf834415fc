// Child process of bench/gpu-peers.mjs: the layer as onnxruntime's QMoE on its WebGPU provider, in the float type of the first argument.
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { serve } from './gpu-children.mjs'
import { fromHalf, routerWeights, shape, timed, toHalf, weightsOf } from './gpu-layer.mjs'
import { model, node, tensor, value } from './onnx.mjs'
import { peerModules } from './peers.mjs'

const ort = createRequire(join(peerModules, 'onnxruntime-node', 'package.json'))('onnxruntime-node')
const type = process.argv[2]
const half = type === 'float16'
const { width, experts, k, hidden } = shape
const floats = (numbers) => (half ? Uint16Array.from(numbers, toHalf) : numbers)
const widened = (scales) => (half ? scales : Float32Array.from(scales, fromHalf))

/** The codes of a block of 32 in pairs of neighbours, where Q4_0 pairs the halves. */
function regroup(codes, out, from, to) {
  for (let j = 0; j < 8; j++) {
    const [a, b] = [codes[from + 2 * j], codes[from + 2 * j + 1]]
    out[to + j] = (a & 15) | (b << 4)
    out[to + 8 + j] = (a >> 4) | (b & 0xf0)
  }
}

/** Rows of several matrices, taken in turn: the first row of each, then the second, as the fused gate and up are stored. */
function interleaved(matrices) {
  const { rows, columns } = matrices[0]
  const blocks = columns / 32
  const all = experts * rows * matrices.length
  const codes = new Uint8Array((all * columns) / 2)
  const scales = new Uint16Array(all * blocks)
  for (let row = 0; row < all; row++) {
    const { codes: own, scales: ownScales } = matrices[row % matrices.length]
    const from = Math.floor(row / matrices.length) * blocks
    for (let b = 0; b < blocks; b++) regroup(own, codes, (from + b) * 16, (row * blocks + b) * 16)
    scales.set(ownScales.subarray(from, from + blocks), row * blocks)
  }
  return { codes, scales: widened(scales) }
}

/** [width][experts] of [experts][width]. */
function transposed(router) {
  const out = new Float32Array(router.length)
  for (let e = 0; e < experts; e++) for (let i = 0; i < width; i++) out[i * experts + e] = router[e * width + i]
  return out
}

const fused = interleaved([weightsOf(0), weightsOf(1)])
const down = interleaved([weightsOf(2)])
const bytes = model({
  nodes: [
    node('MatMul', '', ['x', 'router'], ['logits']),
    node('QMoE', 'com.microsoft', ['x', 'logits', 'fc1', 'fc1_scales', '', 'fc2', 'fc2_scales'], ['y'], {
      k,
      activation_type: 'swiglu',
      activation_alpha: { float: 1 },
      activation_beta: { float: 0 },
      swiglu_fusion: 1,
      swiglu_limit: { float: 1e30 },
      normalize_routing_weights: 1,
      expert_weight_bits: 4,
      block_size: 32
    })
  ],
  initializers: [
    tensor('router', type, [width, experts], floats(transposed(routerWeights()))),
    tensor('fc1', 'uint8', [experts, 2 * hidden, width / 2], fused.codes),
    tensor('fc1_scales', type, [experts, 2 * hidden, width / 32], fused.scales),
    tensor('fc2', 'uint8', [experts, width, hidden / 2], down.codes),
    tensor('fc2_scales', type, [experts, width, hidden / 32], down.scales)
  ],
  inputs: [value('x', type, ['tokens', width])],
  outputs: [value('y', type, ['tokens', width])]
})
const session = await ort.InferenceSession.create(bytes, { executionProviders: [{ name: 'webgpu' }] })
const layer = {
  prepare: (states, tokens) => new ort.Tensor(type, floats(states), [tokens, width]),
  run: (x) => session.run({ x }),
  widen: ({ y: { data } }) =>
    half ? Float32Array.from(new Uint16Array(data.buffer, data.byteOffset, data.length), fromHalf) : data
}
serve('webgpu', (request) => timed(layer, request))
