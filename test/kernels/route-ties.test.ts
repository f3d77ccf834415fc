/** Equal scores: decided by the hash of (seed, layer, position, expert), then by the index, on every instruction set alike. */
import t from 'tap'
import type { RouteRequest } from 'tiered-moe/kernels'
import { Forms } from './forms.js'
import { routeToken, tieHash } from './oracle-moe.js'
import { floats, stream } from './values.js'

const forms = new Forms(t)
const experts = 12
const width = 16

/** A router whose experts all have the same row, or (`pairs`) the same row two by two. */
function request(pairs: boolean, more: Partial<RouteRequest> = {}): RouteRequest {
  const row = floats(width, stream('row'))
  const weights = Float32Array.from({ length: experts * width }, (_, i) => {
    const expert = Math.floor(i / width)
    return row[i % width]! * (pairs ? 1 + (expert >> 1) : 1)
  })
  return {
    states: floats(40 * width, stream('states')),
    ...forms.backend.packRouter(weights),
    experts,
    k: 5,
    positions: Uint32Array.from({ length: 40 }, (_, i) => i * 977),
    ...more
  }
}
const run = (own: RouteRequest) =>
  forms.sameBits('route', `layer ${own.layer ?? 0}`, { request: () => own, row: own.k })

t.test('all scores equal: the order is that of the hash', async (test) => {
  const own = request(false, { layer: 3, seed: Uint32Array.of(1, 2, 3, 4) })
  const { result } = await run(own)
  for (let token = 0; token < own.positions.length; token++) {
    const order = Array.from({ length: experts }, (_, e) => e).sort(
      (a, b) => tieHash(own.seed!, 3, own.positions[token]!, a) - tieHash(own.seed!, 3, own.positions[token]!, b)
    )
    test.same([...result.ids.slice(token * 5, token * 5 + 5)], order.slice(0, 5), `token ${token}`)
  }
  const used = new Set(result.ids)
  test.equal(used.size, experts, 'ties are spread over all experts')
})

t.test('the hash decides between equals only', async (test) => {
  const own = request(true, { k: 6 })
  const { result } = await run(own)
  for (let token = 0; token < own.positions.length; token++) {
    const oracle = routeToken(own, token)
    test.same([...result.ids.slice(token * 6, token * 6 + 6)], oracle.ids, `token ${token}`)
    for (let s = 0; s < 6; s += 2)
      test.equal(oracle.ids[s]! >> 1, oracle.ids[s + 1]! >> 1, 'experts of one score stand side by side')
  }
})

t.test('seed, layer and position each change the order of equals; nothing else does', async (test) => {
  const plain = await run(request(false))
  const again = await run(request(false, { form: 'topk_softmax', normalise: true }))
  test.same(again.result.ids, plain.result.ids, 'the form of the softmax does not')
  for (let word = 0; word < 4; word++) {
    const seed = new Uint32Array(4)
    seed[word] = 1
    const other = await run(request(false, { seed }))
    test.notSame(other.result.ids, plain.result.ids, `word ${word} of the seed does`)
  }
  test.notSame((await run(request(false, { layer: 1 }))).result.ids, plain.result.ids, 'the layer does')
  const positions = Uint32Array.from({ length: 40 }, (_, i) => i)
  test.notSame((await run(request(false, { positions }))).result.ids, plain.result.ids, 'the position does')
})

t.test('equal scores of enabled experts only', async (test) => {
  const enabled = Uint8Array.from({ length: experts }, (_, e) => (e < 6 ? 0 : 1))
  const own = request(false, { enabled, k: 6 })
  const { result } = await run(own)
  for (let token = 0; token < 40; token++)
    test.same([...result.ids.slice(token * 6, token * 6 + 6)], routeToken(own, token).ids, `token ${token}`)
})

t.test('a state of zeros ties every expert', async (test) => {
  const own = request(true, { states: new Float32Array(40 * width).fill(-0) })
  const { result } = await run(own)
  test.same([...result.ids.slice(0, 5)], routeToken(own, 0).ids)
  for (const weight of result.weights) test.equal(weight, Math.fround(1 / experts))
})
