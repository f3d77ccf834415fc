// Every kernel of tiered-moe/kernels: the cost of a call on a few numbers, beside the goal of 3 µs, and its rate per instruction set.
//   npm run bench:kernels               small shapes (--threads N for the asynchronous form, default 1; --only NAME; --type Q4_0)
//   npm run bench:kernels -- --full     OLMoE's shapes, 32 tokens at depth 512
// A call is the synchronous form on arrays that are there already; the median of seven rounds is shown. Inputs are seeded.
import { parseArgs } from 'node:util'
import { kvCacheBytes, openBackend } from '../dist/esm/kernels.js'
import { native } from '../dist/esm/native.js'
import { environment, printEnvironment, printTable, seededRandom, show, summarise, writeReport } from './harness.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    only: { type: 'string' },
    threads: { type: 'string', default: '1' },
    type: { type: 'string', default: 'Q4_0' }
  }
})
/** A call on the CPU shall cost no more. */
const goalMicroseconds = 3
const random = seededRandom(3)
const floats = (count, scale = 1) => Float32Array.from({ length: count }, () => (2 * random() - 1) * scale)
const positionsOf = (tokens) => Uint32Array.from({ length: tokens }, (_, i) => i)

/** A matrix of one or several experts, in the kernels' layout. */
function matrix(backend, rows, columns, experts = 1) {
  const pool = floats(rows * columns, columns ** -0.5)
  const one = backend.sync.quantize({ type: options.type, x: pool, columns })
  const data = new Uint8Array(one.length * experts)
  for (let e = 0; e < experts; e++) data.set(one, e * one.length)
  return backend.pack({ type: options.type, rows, columns, data }, experts)
}

/** Requests of each kernel at a size. `work`: what the rate counts, with its unit. */
function cases(backend, { tokens, width, hidden, experts, k, heads, headDim, depth, vocab }) {
  const x = floats(tokens * width)
  const positions = positionsOf(tokens)
  const router = backend.packRouter(floats(experts * width, 0.2))
  const { ids, weights } = backend.sync.route({ states: x, ...router, experts, k, positions })
  const { offsets, slots, rows } = backend.sync.dispatch({ ids, k, experts })
  const values = floats(tokens * k * width)
  const gate = matrix(backend, hidden, width, experts)
  const down = matrix(backend, width, hidden, experts)
  const q = floats(tokens * heads * headDim)
  const cache = new Uint8Array(kvCacheBytes({ positions: depth + tokens, kvHeads: heads, headDim }))
  const head = matrix(backend, vocab, width)
  const logits = floats(vocab, 4)
  const out = new Float32Array(tokens * k * width)
  const blocks = backend.sync.quantize({ type: 'Q8_0', x, columns: width })
  const gop = (n) => ({ amount: (2 * n) / 1e9, unit: 'Gop/s' })
  const gb = (n) => ({ amount: n / 1e9, unit: 'GB/s' })
  const bytes = x.byteLength
  return {
    route: [{ states: x, ...router, experts, k, positions, ids, weights }, gop(tokens * experts * width)],
    dispatch: [{ ids, k, experts, offsets, slots, rows }, gb(ids.byteLength)],
    expertMatmul: [{ x, k, offsets, slots, gate, up: gate, down, out }, gop(3 * tokens * k * width * hidden)],
    combine: [
      { values, ids, weights, rows, k, experts, width, out: new Float32Array(tokens * width) },
      gb(values.byteLength)
    ],
    allToAllPack: [{ x, width, k, offsets, slots, ranks: 2, out }, gb(out.byteLength)],
    allToAllUnpack: [{ packed: values, width, k, offsets, slots, out }, gb(out.byteLength)],
    rmsNorm: [{ x, weight: floats(width), epsilon: 1e-5, out: new Float32Array(tokens * width) }, gb(bytes)],
    rope: [{ x: q, positions, heads, headDim, base: 10000 }, gb(q.byteLength)],
    attention: [
      { q, k: q, v: q, cache, start: depth, heads, kvHeads: heads, headDim, out: new Float32Array(q.length) },
      gop(2 * tokens * heads * headDim * (depth + tokens / 2))
    ],
    embed: [
      { table: { type: 'Q8_0', rows: tokens, columns: width, data: blocks }, ids: Int32Array.from(positions), out: x },
      gb(bytes)
    ],
    logits: [{ states: x, weight: head, out: new Float32Array(tokens * vocab) }, gop(tokens * vocab * width)],
    sample: [{ logits, position: 1, temperature: 0.8, topK: 40, seed: 1 }, gb(logits.byteLength)],
    quantize: [{ type: 'Q8_0', x, columns: width, out: blocks }, gb(bytes)],
    dequantize: [{ type: 'Q8_0', data: blocks, columns: width, out: new Float32Array(x.length) }, gb(bytes)]
  }
}

/** Seconds per call: the median of seven rounds of at least 20 ms. */
async function time(call) {
  await call()
  const once = performance.now()
  await call()
  const repeats = Math.max(1, Math.ceil(20 / Math.max(performance.now() - once, 1e-3)))
  const rounds = []
  for (let i = 0; i < 7; i++) {
    const start = performance.now()
    for (let j = 0; j < repeats; j++) await call()
    rounds.push((performance.now() - start) / repeats / 1000)
  }
  return summarise(rounds).median
}

/** As `time`, for a call that returns at once: awaiting would cost more than the call. */
function timeSync(call) {
  const rounds = []
  for (let i = 0; i < 7; i++) {
    let calls = 0
    const start = performance.now()
    do {
      for (let j = 0; j < 64; j++) call()
      calls += 64
    } while (performance.now() - start < 20)
    rounds.push((performance.now() - start) / calls / 1000)
  }
  return summarise(rounds).median
}

const stamp = environment()
printEnvironment(stamp)
const tiny = { tokens: 1, width: 32, hidden: 32, experts: 4, k: 2, heads: 1, headDim: 32, depth: 0, vocab: 32 }
const small = {
  tokens: 8,
  width: 256,
  hidden: 128,
  experts: 16,
  k: 4,
  heads: 4,
  headDim: 64,
  depth: 128,
  vocab: 4096
}
const olmoe = {
  tokens: 32,
  width: 2048,
  hidden: 1024,
  experts: 64,
  k: 8,
  heads: 16,
  headDim: 128,
  depth: 512,
  vocab: 50304
}
const shape = options.full ? olmoe : small
const isas = native().cpuInfo().isas
const report = {}
for (const isa of isas) {
  const backend = openBackend('cpu', { isa, threads: Number(options.threads) })
  const [least, real] = [cases(backend, tiny), cases(backend, shape)]
  for (const name of Object.keys(least)) {
    if (options.only && options.only !== name) continue
    const call = timeSync(() => backend.sync[name](least[name][0]))
    const [request, { amount, unit }] = real[name]
    const seconds = await time(() => backend[name](request))
    report[name] ??= { unit }
    report[name][isa] = { callMicroseconds: call * 1e6, milliseconds: seconds * 1e3, rate: amount / seconds }
  }
  backend.dispose()
}
const rows = Object.entries(report)
printTable(
  ['kernel', ...isas.map((isa) => `call, µs: ${isa}`), ...isas.map((isa) => `rate: ${isa}`), 'unit'],
  rows.map(([name, { unit, ...byIsa }]) => [
    name,
    ...isas.map((isa) => show(byIsa[isa].callMicroseconds)),
    ...isas.map((isa) => show(byIsa[isa].rate)),
    unit
  ])
)
const slow = rows.filter(([, byIsa]) => byIsa[isas.at(-1)].callMicroseconds > goalMicroseconds).map(([name]) => name)
console.log(
  `calls above ${goalMicroseconds} µs with ${isas.at(-1)}: ${slow.length > 0 ? slow.join(', ') : 'none'}; rates: ${shape.tokens} tokens, width ` +
    `${shape.width}, ${options.type} weights, ${options.threads} threads`
)
console.log(`written: ${writeReport('kernels.json', { environment: stamp, options, shape, goalMicroseconds, report })}`)
