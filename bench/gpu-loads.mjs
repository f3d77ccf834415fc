// Words that the experts' matrices of one MoE layer load from storage buffers, counted by the shaders themselves (COUNT_LOADS: a variant that adds
// up each load of each invocation), beside what the layer must read: the packed weights of every expert that a token is routed to once, and
// the quantised activations of every dispatched row once per product (gate and up together, then down). Exit 1 above 1.1 times that.
//   node bench/gpu-loads.mjs            a layer of 512 × 512, 32 experts, 4 used, Q4_0; 1, 16 and 128 tokens
//   node bench/gpu-loads.mjs --full     OLMoE's layer: 2048 × 1024, 64 experts, 8 used
// Part of `npm run bench:gpu` too. What is judged are the shaders for GPUs, which any adapter takes without subgroups. A GPU in software with
// subgroups of 8 takes others, which leave sharing to the CPU's caches: these are counted and shown. What an instrumented layer computes must be
// what the plain one does, bit for bit, and both kinds the same.
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { GpuCalls } from '../dist/esm/backends/webgpu/backend.js'
import { GpuDevice } from '../dist/esm/backends/webgpu/device.js'
import { KernelCall } from '../dist/esm/backends/webgpu/kernels/call.js'
import { expertMatmul } from '../dist/esm/backends/webgpu/kernels/expert-matmul.js'
import { onNode } from '../dist/esm/backends/webgpu/node-provider.js'
import { openBackend } from '../dist/esm/kernels.js'
import { matrixOf, shape as olmoe, routerWeights, statesOf } from './gpu-layer.mjs'
import { environment, printEnvironment, printTable, show, writeReport } from './harness.mjs'

const small = { width: 512, experts: 32, k: 4, hidden: 512 }
const tokenCounts = [1, 16, 128]
const limit = 1.1

/** A call whose matrices count their loads. */
class CountingCall extends KernelCall {
  constructor(device, counter) {
    super('expertMatmul', device)
    this.counter = counter
  }

  run(launch, buffers) {
    if (!('COUNT_LOADS' in launch.defines)) return super.run(launch, buffers)
    const counting = { ...launch, defines: { ...launch.defines, COUNT_LOADS: true } }
    return super.run(counting, [...buffers, { buffer: this.counter }])
  }
}

/** Words that were loaded, and the layer's result. */
async function counted(device, request) {
  const counter = await device.memory.allocate(16, 'counted loads')
  const call = new CountingCall(device, counter)
  try {
    device.write(counter, 0, new Uint32Array(4))
    const values = await expertMatmul(call, request)
    await call.submit()
    const [weights, activations] = new Uint32Array(await device.read({ buffer: counter, size: 8 }))
    return { values, weights, activations }
  } finally {
    call.dispose()
    device.memory.free(counter)
  }
}

const sameBits = (a, b) => Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0

async function measureVariant(cpu, shape, without) {
  const { width, experts, k, hidden } = shape
  const device = await GpuDevice.open({ ...onNode, without, timeoutMs: 300_000 })
  const calls = new GpuCalls(device)
  const kernels = calls.table()
  const matrices = {}
  let expertBytes = 0
  for (const [index, name] of ['gate', 'up', 'down'].entries()) {
    const packed = cpu.pack(matrixOf(index, shape), experts)
    expertBytes += packed.data.byteLength / experts
    matrices[name] = { ...packed, data: await calls.upload(packed.data) }
  }
  const router = cpu.packRouter(routerWeights(shape))
  const results = []
  for (const tokens of tokenCounts) {
    const states = statesOf(tokens, shape)
    const positions = Uint32Array.from({ length: tokens }, (_, i) => i)
    const { ids } = await kernels.route({ ...router, states, experts, k, form: 'topk_softmax', positions })
    const { offsets, slots } = await kernels.dispatch({ ids, k, experts })
    const request = { x: states, k, offsets, slots, ...matrices }
    const { values, ...loaded } = await counted(device, request)
    const plain = await kernels.expertMatmul(request)
    const rows = Array.from({ length: experts }, (_, expert) => offsets[expert + 1] - offsets[expert])
    const used = rows.filter((count) => count > 0).length
    // A block of 32 activations is 12 words: 8 of int8, a scale, two sums, one that fills up.
    const must = { weights: (used * expertBytes) / 4, activations: (tokens * k * (width + hidden) * 12) / 32 }
    const ratio = (loaded.weights + loaded.activations) / (must.weights + must.activations)
    results.push({ tokens, used, most: Math.max(...rows), must, loaded, ratio, values, same: sameBits(values, plain) })
  }
  const { subgroupMin, subgroupMax } = device.facts
  device.dispose()
  return { narrow: subgroupMin === 8 && subgroupMax === 8, results }
}

/** Prints the counts; what is wrong is added to `failures`. */
export async function measureLoads({ full, failures }) {
  const shape = full ? olmoe : small
  const cpu = openBackend('cpu')
  const judged = await measureVariant(cpu, shape, ['subgroups'])
  const own = await measureVariant(cpu, shape, [])
  cpu.dispose()
  const name = (variant) => (variant.narrow ? "for a CPU's vectors" : 'for GPUs')
  const all = [judged, own].flatMap((variant) => variant.results.map((one) => ({ name: name(variant), ...one })))
  const { width, hidden, experts, k } = shape
  console.log(`loads of a layer of ${width} × ${hidden}, ${experts} experts, ${k} used, Q4_0, in words:`)
  printTable(
    ['shaders', 'tokens', 'experts', 'most rows', 'weights', 'must', 'activations', 'must', 'times what it must read'],
    all.map(({ name, tokens, used, most, must, loaded, ratio }) => [
      name,
      tokens,
      used,
      most,
      loaded.weights,
      must.weights,
      loaded.activations,
      must.activations,
      show(ratio)
    ])
  )
  console.log(`expected of the shaders for GPUs: at most ${limit}`)
  for (const { name, tokens, same } of all)
    if (!same) failures.push(`loads, ${name}, ${tokens} tokens: counting changes the result`)
  for (const [i, { tokens, ratio, values }] of judged.results.entries()) {
    if (!(ratio >= 1 && ratio <= limit))
      failures.push(`loads, ${tokens} tokens: ${ratio} times what the layer must read`)
    if (!sameBits(values, own.results[i].values)) failures.push(`loads, ${tokens} tokens: the kinds of shaders differ`)
  }
  return all.map(({ values, ...counts }) => counts)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values: options } = parseArgs({ options: { full: { type: 'boolean', default: false } } })
  const stamp = environment()
  printEnvironment(stamp)
  const failures = []
  const results = await measureLoads({ full: options.full, failures })
  writeReport('gpu-loads.json', { environment: stamp, results })
  for (const failure of failures) console.error(failure)
  process.exitCode = failures.length === 0 ? 0 : 1
}
