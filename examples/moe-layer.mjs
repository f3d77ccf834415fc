// One Mixture-of-Experts layer on own arrays: route, dispatch, expertMatmul, combine; compared with the naive twins.
import { openBackend } from 'tiered-moe/kernels'

const [tokens, width, hidden, experts, k] = [5, 64, 96, 8, 2]
let state = 1
const random = (n, scale) =>
  Float32Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state / 2 ** 31 - 1) * scale
  })

const backend = openBackend('cpu', { threads: 2 })
const x = random(tokens * width, 1)
const { router, routerExponent } = backend.packRouter(random(experts * width, 0.2))

// expert weights as a file has them: Q8_0 blocks, one expert after another
const blocks = (rows, columns) => ({
  type: 'Q8_0',
  rows,
  columns,
  data: backend.sync.quantize({ type: 'Q8_0', x: random(experts * rows * columns, columns ** -0.5), columns })
})
const file = { gate: blocks(hidden, width), up: blocks(hidden, width), down: blocks(width, hidden) }
const packed = Object.fromEntries(Object.entries(file).map(([name, matrix]) => [name, backend.pack(matrix, experts)]))

async function layer(kernels, matrices) {
  const positions = Uint32Array.from({ length: tokens }, (_, i) => i)
  const { ids, weights } = await kernels.route({ states: x, router, routerExponent, experts, k, positions })
  const { offsets, slots, rows } = await kernels.dispatch({ ids, k, experts })
  const values = await kernels.expertMatmul({ x, k, offsets, slots, ...matrices })
  return { ids, out: await kernels.combine({ values, ids, weights, rows, k, experts, width }) }
}

const fast = await layer(backend, packed)
const naive = await layer(backend.naive, file)
const equal = Buffer.from(fast.out.buffer).equals(Buffer.from(naive.out.buffer))
for (let t = 0; t < tokens; t++) console.log(`token ${t}: experts ${fast.ids.slice(t * k, t * k + k).join(', ')}`)
console.log(
  `${backend.isa}, ${backend.threads} threads: ${equal ? 'the same bits as' : 'DIFFERENT from'} the naive reference`
)
if (!equal) process.exitCode = 1
backend.dispose()
