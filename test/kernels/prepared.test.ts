// Prepared calls give what plain calls give, from what the arrays hold when they run; arrays that are gone and wrong arguments are typed errors.
import t from 'tap'
import { openBackend } from '../../lib/kernels.js'
import { native } from '../../lib/native.js'
import { floats, stream } from './values.js'

const backend = openBackend('cpu', { threads: 1 })
const [width, hidden, experts, k, tokens] = [64, 32, 8, 2, 3]
const seeded = (seed: number, length: number) => floats(length, stream('prepared', seed))
t.teardown(() => backend.dispose())

/** One layer: route → dispatch → expertMatmul → combine, each with arrays of its own. */
function layer() {
  const states = seeded(1, tokens * width)
  const router = backend.packRouter(seeded(2, experts * width))
  const positions = Uint32Array.from({ length: tokens }, (_, i) => i)
  const route = {
    states,
    ...router,
    experts,
    k,
    positions,
    ids: new Int32Array(tokens * k),
    weights: new Float32Array(tokens * k)
  }
  const matrix = (seed: number, rows: number, columns: number) => {
    const x = seeded(seed, experts * rows * columns)
    return backend.pack(
      { type: 'Q8_0', rows, columns, data: backend.sync.quantize({ type: 'Q8_0', x, columns }) },
      experts
    )
  }
  const dispatch = {
    ids: route.ids,
    k,
    experts,
    offsets: new Uint32Array(experts + 1),
    slots: new Uint32Array(tokens * k),
    rows: new Uint32Array(tokens * k)
  }
  const matmul = {
    x: states,
    k,
    offsets: dispatch.offsets,
    slots: dispatch.slots,
    gate: matrix(3, hidden, width),
    up: matrix(4, hidden, width),
    down: matrix(5, width, hidden),
    out: new Float32Array(tokens * k * width)
  }
  const combine = {
    values: matmul.out,
    ids: route.ids,
    weights: route.weights,
    rows: dispatch.rows,
    k,
    experts,
    width,
    out: new Float32Array(tokens * width)
  }
  return { route, dispatch, matmul, combine }
}

t.test('a layer in a loop: the same bits as plain calls, whatever the arrays hold by then', (t) => {
  const [own, other] = [layer(), layer()]
  // Offsets and slots of a first dispatch make the preparation possible; the loop writes others.
  backend.sync.route(own.route)
  backend.sync.dispatch(own.dispatch)
  const steps = [
    backend.prepare.route(own.route),
    backend.prepare.dispatch(own.dispatch),
    backend.prepare.expertMatmul(own.matmul),
    backend.prepare.combine(own.combine)
  ]
  const seen = new Set<string>()
  for (let round = 0; round < 5; round++) {
    for (const { route } of [own, other]) {
      route.states.set(seeded(10 + round, tokens * width))
      route.positions.fill(round)
    }
    for (const step of steps) step()
    backend.sync.route(other.route)
    backend.sync.dispatch(other.dispatch)
    backend.sync.expertMatmul(other.matmul)
    backend.sync.combine(other.combine)
    t.same(own.route.ids, other.route.ids)
    t.same(own.route.weights, other.route.weights)
    t.same(own.dispatch.offsets, other.dispatch.offsets)
    t.same(own.combine.out, other.combine.out)
    seen.add(own.route.ids.join())
  }
  t.ok(seen.size > 1, 'the rounds choose different experts')
  t.end()
})

t.test('the result is the plain call’s', (t) => {
  const { route } = layer()
  const run = backend.prepare.route(route)
  t.same(run(), { ids: route.ids, weights: route.weights })
  t.equal(run().ids, route.ids, 'outputs are the caller’s own')
  const { ids, weights, ...without } = route
  const allocated = backend.prepare.route(without)
  t.equal(allocated().ids, allocated().ids, 'or allocated once')
  t.same(allocated().ids, ids)
  t.same(allocated().weights, weights)
  t.end()
})

t.test('what a kernel finds wrong, it finds in each run', (t) => {
  const { route, dispatch } = layer()
  const run = backend.prepare.route(route)
  route.states[1] = Number.NaN
  t.throws(run, { code: 'RUNTIME_NAN_DETECTED', details: { token: 0 } })
  route.states[1] = 0
  t.doesNotThrow(run)
  const place = backend.prepare.dispatch(dispatch)
  route.ids[0] = experts
  t.throws(place, { code: 'ROUTING_INVALID_EXPERT', details: { token: 0, slot: 0, expertId: experts } })
  t.end()
})

t.test('wrong arguments are refused when they are prepared', (t) => {
  const { route } = layer()
  t.throws(() => backend.prepare.route({ ...route, k: 0 }), { code: 'VALIDATION_ERROR', details: { argument: 'k' } })
  t.throws(() => backend.prepare.route(null as never), { code: 'VALIDATION_ERROR' })
  const growing = new Float32Array(Reflect.construct(ArrayBuffer, [route.states.byteLength, { maxByteLength: 4096 }]))
  t.throws(() => backend.prepare.route({ ...route, states: growing }), {
    code: 'VALIDATION_ERROR',
    details: { argument: 'states' }
  })
  t.end()
})

t.test('memory that was transferred is noticed, whichever array had it', (t) => {
  for (const name of ['states', 'positions', 'ids', 'router'] as const) {
    const { route } = layer()
    const run = backend.prepare.route(route)
    run()
    structuredClone(route[name].buffer, { transfer: [route[name].buffer as ArrayBuffer] })
    t.throws(run, { code: 'VALIDATION_ERROR', details: { argument: 'prepared' } }, name)
  }
  t.end()
})

t.test('after dispose every run is refused', (t) => {
  const short = openBackend('cpu')
  const { route } = layer()
  const run = short.prepare.route(route)
  run()
  short.dispose()
  t.throws(run, { code: 'VALIDATION_ERROR', message: /disposed/ })
  t.end()
})

t.test('packed weights begin at a cache line, whatever was allocated before them', async (test) => {
  for (let i = 0; i < 20; i++) {
    const { route, matmul } = layer()
    const places = [route.router, matmul.gate.data, matmul.down.data].map(({ buffer, byteOffset, byteLength }) =>
      native().bytesToLine(new Uint8Array(buffer, byteOffset, byteLength))
    )
    test.same(places, [0, 0, 0])
  }
  const bytes = new Uint8Array(128)
  const next = native().bytesToLine(bytes)
  test.equal(native().bytesToLine(bytes.subarray(next + 1)), 63)
  // @ts-expect-error: the addon checks what it is given
  test.throws(() => native().bytesToLine('bytes'), { code: 'VALIDATION_ERROR' })
})
