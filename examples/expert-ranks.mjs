// One Mixture-of-Experts layer whose experts are split between three ranks, each with tokens of its own; compared with one rank that has all.
import { expertShares, openBackend, RankGroup } from 'tiered-moe/kernels'

const [width, hidden, experts, k] = [64, 96, 8, 2]
let state = 1
const random = (n, scale) =>
  Float32Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state / 2 ** 31 - 1) * scale
  })

// A backend for each rank; on a machine with GPUs these may be `await openBackend('cuda', { device: 1 })`, or 'webgpu'.
const backends = Array.from({ length: 3 }, () => openBackend('cpu'))
const [cpu] = backends
const bytesOf = ({ buffer }) => new Uint8Array(buffer)
const pack = (rows, columns) =>
  cpu.pack({ type: 'F32', rows, columns, data: bytesOf(random(experts * rows * columns, columns ** -0.5)) }, experts)
const whole = { gate: pack(hidden, width), up: pack(hidden, width), down: pack(width, hidden) }

// Each rank has the packed matrices of its share alone: experts [first, first + count).
const share = (matrix, { first, count }) => {
  const bytes = matrix.data.length / experts
  return { ...matrix, data: matrix.data.subarray(first * bytes, (first + count) * bytes) }
}
const shares = expertShares(experts, backends.length)
const ranks = shares.map((own, rank) => ({
  backend: backends[rank],
  matrices: { gate: share(whole.gate, own), up: share(whole.up, own), down: share(whole.down, own) }
}))

// Tokens of each rank, routed where they are.
const { router, routerExponent } = cpu.packRouter(random(experts * width, 0.2))
const tokens = []
for (const [rank, count] of [4, 1, 6].entries()) {
  const x = random(count * width, 1)
  const positions = Uint32Array.from({ length: count }, (_, i) => i)
  tokens.push({ x, ...(await backends[rank].route({ states: x, router, routerExponent, experts, k, positions })) })
}

// What changes hands is seen by `carry`: another transport would take it from here.
const carried = { segments: 0, rows: 0 }
const carry = (segment) => {
  if (segment.source !== segment.destination) {
    carried.segments++
    carried.rows += segment.slots.length
  }
  return segment
}
const group = new RankGroup({ experts, k, ranks, carry })
const results = await group.exchange(tokens.map(({ x, ids, weights }) => ({ x, ids, weights })))

let equal = true
for (const [rank, { x, ids, weights }] of tokens.entries()) {
  const { offsets, slots, rows } = await cpu.dispatch({ ids, k, experts })
  const values = await cpu.expertMatmul({ x, k, offsets, slots, ...whole })
  const alone = await cpu.combine({ values, ids, weights, rows, k, experts, width })
  equal &&= Buffer.from(results[rank].buffer).equals(Buffer.from(alone.buffer))
}
for (const [rank, { first, count }] of shares.entries())
  console.log(
    `rank ${rank}: experts ${first} to ${first + count - 1}, ${tokens[rank].x.length / width} tokens of its own`
  )
console.log(`${carried.rows} rows in ${carried.segments} segments between ${ranks.length} ranks`)
console.log(`the layer has ${equal ? 'the same bits as' : 'DIFFERENT bits from'} one rank with all experts`)
if (!equal) process.exitCode = 1
for (const backend of backends) backend.dispose()
