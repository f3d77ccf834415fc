// What a kernel call from JavaScript costs over the same call from C++: one token, one thread, on prepared calls and on plain ones.
//   node bench/calls.mjs             64 experts of width 2048 for `route`; for `expertMatmul` 2 of 8 experts, 256 × 128
//   node bench/calls.mjs --full      eleven rounds instead of three, and the goal is judged
import { execFileSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { openBackend } from '../dist/esm/kernels.js'
import { environment, printEnvironment, printTable, showSpread, summarise, writeReport } from './harness.mjs'
import { kernelProgram } from './programs.mjs'

const { values: options } = parseArgs({ options: { full: { type: 'boolean', default: false } } })
const goalMicroseconds = 3
const sizes = {
  route: { width: 2048, hidden: 32, experts: 64, k: 8 },
  expertMatmul: { width: 256, hidden: 128, experts: 8, k: 2 }
}
const wave = (length, step, from) =>
  Float32Array.from({ length }, (_, i) => (((i * step + from) * 7919) % 1024) / 1024 - 0.5)

/** Requests as bench/call_costs.cpp makes them, with every output there already. */
function requests(backend, { width, hidden, experts, k }) {
  const route = {
    states: wave(width, 1, 0),
    ...backend.packRouter(wave(experts * width, 3, 1)),
    experts,
    k,
    positions: new Uint32Array(1),
    ids: new Int32Array(k),
    weights: new Float32Array(k),
    scores: new BigInt64Array(experts)
  }
  const { ids } = backend.sync.route(route)
  const { offsets, slots } = backend.sync.dispatch({ ids, k, experts })
  const matrix = (rows, columns) => {
    const data = backend.sync.quantize({ type: 'Q8_0', x: new Float32Array(experts * rows * columns), columns })
    return backend.pack({ type: 'Q8_0', rows, columns, data }, experts)
  }
  const gate = matrix(hidden, width)
  const out = new Float32Array(k * width)
  return {
    route,
    expertMatmul: { x: route.states, k, offsets, slots, gate, up: gate, down: matrix(width, hidden), out }
  }
}

/** Microseconds of a call, the median of seven rounds after one that warms up. */
function microseconds(call) {
  const rounds = []
  for (let round = 0; round < 8; round++) {
    let calls = 0
    const begin = performance.now()
    let now = begin
    while (now - begin < 30) {
      for (let i = 0; i < 64; i++) call()
      calls += 64
      now = performance.now()
    }
    if (round > 0) rounds.push(((now - begin) / calls) * 1000)
  }
  return summarise(rounds).median
}

const stamp = environment()
printEnvironment(stamp)
const program = await kernelProgram('call_costs')
const backend = openBackend('cpu')
const samples = Object.fromEntries(Object.keys(sizes).map((name) => [name, []]))
for (let round = 0; round < (options.full ? 11 : 3); round++) {
  for (const [name, { width, hidden, experts, k }] of Object.entries(sizes)) {
    const request = requests(backend, sizes[name])[name]
    const run = backend.prepare[name](request)
    const native = JSON.parse(
      execFileSync(program, ['auto', ...[width, hidden, experts, k].map(String)], { encoding: 'utf8' })
    )[name]
    samples[name].push({ native, prepared: microseconds(run), plain: microseconds(() => backend.sync[name](request)) })
  }
}
const of = (name, value) => summarise(samples[name].map(value))
printTable(
  ['kernel', 'native µs', 'prepared µs', 'plain µs', 'prepared - native', 'plain - native'],
  Object.keys(sizes).map((name) => [
    name,
    ...[
      (s) => s.native,
      (s) => s.prepared,
      (s) => s.plain,
      (s) => s.prepared - s.native,
      (s) => s.plain - s.native
    ].map((value) => showSpread(of(name, value)))
  ])
)
const slow = Object.keys(sizes).filter((name) => of(name, (s) => s.prepared - s.native).median > goalMicroseconds)
console.log(
  `expected: prepared calls at most ${goalMicroseconds} µs over native ones: ${slow.length ? `missed by ${slow.join()}` : 'both'}`
)
console.log(`written: ${writeReport('calls.json', { environment: stamp, sizes, samples })}`)
if (options.full && slow.length) process.exitCode = 1
backend.dispose()
