// Child process of bench/gpu-peers.mjs: the layer through the kernel-level interface, arrays staying on the device between its four calls.
import { openBackend } from '../dist/esm/kernels.js'
import { serve } from './gpu-children.mjs'
import { matrixOf, routerWeights, shape, timed } from './gpu-layer.mjs'

const { width, experts, k } = shape

const backend = await openBackend('webgpu')
const matrix = async (index) => {
  const packed = backend.pack(matrixOf(index), experts)
  return { ...packed, data: await backend.upload(packed.data) }
}
const [gate, up, down] = [await matrix(0), await matrix(1), await matrix(2)]
const packed = backend.packRouter(routerWeights())
const router = await backend.upload(packed.router)
const { routerExponent } = packed
const kept = new Map()
/** The arrays that stay on the device, for a number of tokens. */
async function arraysOf(tokens) {
  const rows = tokens * k
  return {
    positions: await backend.upload(Uint32Array.from({ length: tokens }, (_, i) => i)),
    ids: await backend.allocate('i32', rows),
    weights: await backend.allocate('f32', rows),
    offsets: await backend.allocate('u32', experts + 1),
    slots: await backend.allocate('u32', rows),
    rows: await backend.allocate('u32', rows),
    values: await backend.allocate('f32', rows * width)
  }
}
async function prepare(states, tokens) {
  if (!kept.has(tokens)) kept.set(tokens, await arraysOf(tokens))
  return { states, ...kept.get(tokens) }
}
async function run({ states, positions, ids, weights, offsets, slots, rows, values }) {
  // Calls run in order, so none waits for the one before; all are awaited together, so that any failure is seen.
  const calls = [
    backend.route({ states, router, routerExponent, experts, k, form: 'topk_softmax', positions, ids, weights }),
    backend.dispatch({ ids, k, experts, offsets, slots, rows }),
    backend.expertMatmul({ x: states, k, offsets, slots, gate, up, down, out: values }),
    backend.combine({ values, ids, weights, rows, k, experts, width })
  ]
  return (await Promise.all(calls)).at(-1)
}
serve(backend.device, (request) => timed({ prepare, run }, request))
