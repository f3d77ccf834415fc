// The states that a model's routers see, from its own forward pass: a flat model's plan over tiered-moe/kernels, operation by operation.
import { openModel } from '../dist/esm/engine/open-model.js'
import { kvCacheBytes, openBackend, packedBytes } from '../dist/esm/kernels.js'
import { native } from '../dist/esm/native.js'

const floatsOf = ({ data }) => new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4)

/** Reads tensors in the layout of a role: the kernels' for matrices and experts, else what the role is kept as. */
function reader(host, file, plan, cancel) {
  const types = new Map(file.tensors.map(({ name, type }) => [name, type]))
  const infos = new Map(host.describeWeights(file, plan).map((info) => [info.name, info]))
  return async (name, role) => {
    const wanted = plan.tensors.find((tensor) => tensor.name === name)
    const tensor = { ...wanted, role: role ?? wanted.role }
    const [columns, rows = 1, experts = 1] = tensor.shape
    const type = types.get(tensor.source ?? name)
    const packed = ['matrix', 'experts'].includes(tensor.role)
    const bytes = packed ? packedBytes(type, rows, columns) : infos.get(name).bytes
    const data = new Uint8Array(bytes * experts)
    for (let expert = 0; expert < experts; expert++) {
      const out = data.subarray(expert * bytes, (expert + 1) * bytes)
      await host.readWeight(file, tensor, { expert, firstRow: 0, rows, out }, cancel)
    }
    return { type, rows, columns, data }
  }
}

/** The model's weights by name, and its plan. `routers`: of each routed layer, the float weights [experts][width]. */
export async function openStates(path, { threads = 2 } = {}) {
  const addon = native()
  const cancel = addon.createCancel()
  const { file, description } = await openModel(addon, path, cancel)
  const { plan } = description
  const host = addon.createBackend({ threads, isa: 'auto' })
  const kernels = openBackend('cpu', { threads })
  const read = reader(host, file, plan, cancel)
  const weights = new Map()
  const routers = []
  for (const { name, role } of plan.tensors) {
    if (role !== 'router') weights.set(name, await read(name))
    else routers.push(floatsOf(await read(name, 'embedding'))) // as the file has it: f32
  }
  file.close()
  host.dispose()
  return { plan, kernels, weights, routers, metadata: file.metadata, dispose: () => kernels.dispose() }
}

/** One operation on the buffers of a sequence that begins at position 0; `seen` gets a copy of each routed state. */
async function run({ plan, kernels, weights, routers }, op, { buffers, tokens, positions, seen, routed }) {
  const count = tokens.length
  const of = (name) => weights.get(name)
  if (op.op === 'embed') buffers[op.out] = await kernels.embed({ table: of(op.table), ids: tokens })
  else if (op.op === 'rmsNorm')
    buffers[op.out] = await kernels.rmsNorm({
      x: buffers[op.in],
      weight: floatsOf(of(op.weight)),
      epsilon: op.epsilon
    })
  else if (op.op === 'matmul') {
    for (const { weight, out } of op.parts) {
      const product = await kernels.logits({ states: buffers[op.in], weight: of(weight) })
      const before = buffers[out]
      buffers[out] = op.add ? product.map((value, i) => value + before[i]) : product
    }
  } else if (op.op === 'rope') {
    const { heads, headDim, rotaryDim, base, pairs } = op
    buffers[op.buffer] = await kernels.rope({
      x: buffers[op.buffer],
      positions,
      heads,
      headDim,
      rotaryDim,
      base,
      pairs
    })
  } else if (op.op === 'attention') {
    const { heads, kvHeads, headDim, valueDim, scale } = op
    const cache = new Uint8Array(kvCacheBytes({ positions: count, kvHeads, headDim, valueDim, kvType: 'f32' }))
    const { [op.q]: q, [op.k]: k, [op.v]: v } = buffers
    const shape = { heads, kvHeads, headDim, valueDim, scale, kvType: 'f32', cache, start: 0 }
    buffers[op.out] = await kernels.attention({ q, k, v, ...shape })
  } else if (op.op === 'route') {
    const states = buffers[op.in]
    const weightsOf = routers[seen.length]
    seen.push(states.slice())
    const experts = weightsOf.length / plan.buffers[op.in]
    const { k, form, normalise, layer } = op
    const request = { states, ...kernels.packRouter(weightsOf), experts, k, form, normalise, layer, positions }
    Object.assign(routed, await kernels.route(request), { k, experts })
  } else if (op.op === 'experts') {
    const { ids, weights: shares, k, experts } = routed
    const { offsets, slots, rows } = await kernels.dispatch({ ids, k, experts })
    const [gate, up, down] = [op.gate, op.up, op.down].map(of)
    const values = await kernels.expertMatmul({ x: buffers[op.in], k, offsets, slots, gate, up, down })
    const width = plan.buffers[op.out]
    await kernels.combine({ values, ids, weights: shares, rows, k, experts, width, add: true, out: buffers[op.out] })
  }
}

/** States [tokens][width] of each routed layer, for a sequence from position 0. */
export async function routerStates(opened, tokens) {
  const positions = Uint32Array.from(tokens, (_, i) => i)
  const sequence = { buffers: {}, tokens, positions, seen: [], routed: {} }
  for (const op of opened.plan.ops) if (op.op !== 'logits') await run(opened, op, sequence)
  return sequence.seen
}
