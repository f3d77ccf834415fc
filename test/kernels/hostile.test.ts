/**
 * Requests that no caller means: every field replaced by what does not belong there, and arrays that lie over one another. Each ends in
 * a result or a typed error, with nothing written outside the outputs.
 */
import t from 'tap'
import { isEngineError } from 'tiered-moe'
import type { KernelName } from 'tiered-moe/kernels'
import { kvCacheBytes, openBackend } from 'tiered-moe/kernels'
import { besiege, outcome } from '../native/hostile.js'
import { Memory, type Numbers } from './memory.js'
import { floats, stream, weights } from './values.js'

const backend = openBackend('cpu', { threads: 2 })
t.teardown(() => backend.dispose())
const next = stream('hostile')
const [tokens, width, hidden, experts, k] = [4, 32, 64, 3, 2]
const router = backend.packRouter(floats(experts * width, next))
const bias = backend.packBias(floats(experts, next))
const selectionBias = backend.packSelectionBias(floats(experts, next))
const ids = Int32Array.of(0, 1, 2, 1, 1, 0, 2, 0)
const dispatched = backend.sync.dispatch({ ids, k, experts })
const file = {
  gate: weights('Q8_0', hidden, width, next, experts),
  up: weights('F16', hidden, width, next, experts),
  down: weights('Q4_0', width, hidden, next, experts)
}
const table = weights('Q8_0', 5, width, next)
const packed = {
  gate: backend.pack(file.gate, experts),
  up: backend.pack(file.up, experts),
  down: backend.pack(file.down, experts),
  table: backend.pack(table)
}

type Fields = Record<string, unknown>

/** A right request of each kernel, every field given, in guarded memory. */
const requests: Record<KernelName, (m: Memory, naive: boolean) => Fields> = {
  route: (m) => ({
    states: m.input('states', floats(tokens * width, next)),
    router: m.input('router', router.router),
    routerExponent: router.routerExponent,
    experts,
    k,
    form: 'sigmoid',
    bias: m.input('bias', bias.bias),
    biasExponent: bias.biasExponent,
    selectionBias: m.input('selectionBias', selectionBias),
    groups: { count: 3, used: 2, score: 'top2' },
    normalise: true,
    scale: 2.5,
    layer: 1,
    seed: m.input('seed', new Uint32Array(4)),
    positions: m.input('positions', new Uint32Array(tokens)),
    enabled: m.input('enabled', Uint8Array.of(1, 1, 1)),
    ids: m.ints('ids', tokens * k),
    weights: m.floats('weights', tokens * k),
    scores: m.longs('scores', tokens * experts)
  }),
  dispatch: (m) => ({
    ids: m.input('ids', ids),
    k,
    experts,
    offsets: m.words('offsets', experts + 1),
    slots: m.words('slots', tokens * k),
    rows: m.words('rows', tokens * k)
  }),
  expertMatmul: (m, naive) => ({
    x: m.input('x', floats(tokens * width, next)),
    k,
    offsets: m.input('offsets', dispatched.offsets),
    slots: m.input('slots', dispatched.slots),
    ...Object.fromEntries(
      (['gate', 'up', 'down'] as const).map((name) => {
        const matrix = naive ? file[name] : packed[name]
        return [name, { ...matrix, data: m.input(name, matrix.data) }]
      })
    ),
    out: m.floats('out', tokens * k * width)
  }),
  combine: (m) => ({
    values: m.input('values', floats(tokens * k * width, next)),
    ids: m.input('ids', ids),
    weights: m.input('weights', floats(tokens * k, next)),
    rows: m.input('rows', dispatched.rows),
    k,
    experts,
    width,
    add: true,
    out: m.inout('out', new Float32Array(tokens * width))
  }),
  allToAllPack: (m) => ({
    x: m.input('x', floats(tokens * width, next)),
    width,
    k,
    offsets: m.input('offsets', dispatched.offsets),
    slots: m.input('slots', dispatched.slots),
    ranks: 2,
    out: m.floats('out', tokens * k * width),
    rankRows: m.words('rankRows', 2)
  }),
  allToAllUnpack: (m) => ({
    packed: m.input('packed', floats(tokens * k * width, next)),
    width,
    k,
    offsets: m.input('offsets', dispatched.offsets),
    slots: m.input('slots', dispatched.slots),
    out: m.floats('out', tokens * k * width)
  }),
  rmsNorm: (m) => ({
    x: m.input('x', floats(3 * 20, next)),
    weight: m.input('weight', floats(20, next)),
    epsilon: 1e-5,
    out: m.floats('out', 60)
  }),
  rope: (m) => ({
    x: m.inout('x', floats(3 * 2 * 10, next)),
    positions: m.input('positions', Uint32Array.of(0, 1, 2)),
    heads: 2,
    headDim: 10,
    rotaryDim: 8,
    base: 10_000,
    pairs: 'neox'
  }),
  attention: (m) => ({
    q: m.input('q', floats(2 * 4 * 6, next)),
    k: m.input('k', floats(2 * 2 * 6, next)),
    v: m.input('v', floats(2 * 2 * 5, next)),
    cache: m.inout('cache', new Uint8Array(kvCacheBytes({ positions: 3, kvHeads: 2, headDim: 6, valueDim: 5 }))),
    start: 1,
    heads: 4,
    kvHeads: 2,
    headDim: 6,
    valueDim: 5,
    scale: 0.4,
    kvType: 'f16',
    out: m.floats('out', 2 * 4 * 5)
  }),
  embed: (m) => ({
    table: { ...table, data: m.input('table', table.data) },
    ids: m.input('ids', Int32Array.of(4, 0, 2)),
    out: m.floats('out', 3 * width)
  }),
  logits: (m, naive) => ({
    states: m.input('states', floats(2 * width, next)),
    weight: { ...table, data: m.input('weight', naive ? table.data : packed.table.data) },
    out: m.floats('out', 2 * 5)
  }),
  sample: (m) => ({
    logits: m.input('logits', floats(50, next)),
    position: 3,
    temperature: 0.7,
    topK: 20,
    topP: 0.9,
    minP: 0.01,
    repetitionPenalty: 1.1,
    seed: 5,
    topLogprobs: 3,
    recent: m.input('recent', Int32Array.of(1, 2, 3)),
    banned: m.input('banned', Int32Array.of(4)),
    allowed: m.input('allowed', Uint32Array.of(-1, -1))
  }),
  quantize: (m) => ({
    type: 'Q4_0',
    x: m.input('x', floats(64, next)),
    columns: 32,
    out: m.bytes('out', 36)
  }),
  dequantize: (m) => ({
    type: 'Q8_0',
    data: m.input('data', weights('Q8_0', 2, 32, next).data),
    columns: 32,
    out: m.floats('out', 64)
  })
}

const kernels = Object.keys(requests) as KernelName[]
const tables = {
  sync: (name: KernelName, request: Fields) => backend.sync[name](request as never),
  naive: (name: KernelName, request: Fields) => backend.naive[name](request as never),
  async: (name: KernelName, request: Fields) => backend[name](request as never)
}
const tableNames = Object.keys(tables) as (keyof typeof tables)[]

for (const name of kernels) {
  t.test(`${name}: every field in turn`, async (test) => {
    for (const table of tableNames) {
      const memory = new Memory()
      const request = requests[name](memory, table === 'naive')
      await tables[table](name, request)
      test.equal(memory.damage(), undefined, `${table}: the right request`)
      const { failures } = await besiege([request], async ([changed]) => {
        let error: unknown
        try {
          await tables[table](name, changed as Fields)
        } catch (thrown) {
          error = thrown
        }
        const damage = memory.damage()
        if (damage) throw new Error(damage)
        if (error) throw error
      })
      test.same(failures, [], `${table}: a result or a typed error, and nothing else touched`)
    }
  })

  t.test(`${name}: arrays over one another`, async (test) => {
    for (const table of tableNames) {
      const fields = Object.entries(requests[name](new Memory(), table === 'naive')).filter(([, v]) =>
        ArrayBuffer.isView(v)
      )
      for (const [over] of fields) {
        for (const [under] of fields) {
          if (over === under) continue
          for (const shift of [0, 4]) {
            const memory = new Memory()
            const request = requests[name](memory, table === 'naive')
            const [a, b] = [request[over] as Numbers, request[under] as Numbers]
            // one zone that holds both, with the numbers of `over` on top
            const bytes = memory.bytes('both', Math.max(a.byteLength, b.byteLength) + 16)
            const start = bytes.byteOffset + (8 - (bytes.byteOffset % 8))
            const view = (like: Numbers, at: number) =>
              new (like.constructor as Float32ArrayConstructor)(bytes.buffer as ArrayBuffer, at, like.length)
            const raw = (x: ArrayBufferView) => new Uint8Array(x.buffer, x.byteOffset, x.byteLength)
            const lower = view(b as Float32Array, start)
            raw(lower).set(raw(b))
            const upper = view(a as Float32Array, start + (a.BYTES_PER_ELEMENT === 8 ? 0 : Math.min(shift, 8)))
            raw(upper).set(raw(a))
            const changed = { ...request, [over]: upper, [under]: lower }
            let failure: string | undefined
            try {
              await tables[table](name, changed)
            } catch (error) {
              if (!isEngineError(error)) failure = String(error)
            }
            failure ??= memory.damage()
            if (failure) test.fail(`${table}: ${over} over ${under}, ${shift} bytes on: ${failure}`)
          }
        }
      }
      test.pass(`${table}: ${fields.length} arrays`)
    }
  })
}

t.test('an output over an input is refused', async (test) => {
  const shared = new ArrayBuffer(1024)
  const overlapping = {
    dispatch: { ids: new Int32Array(shared, 0, 4), k: 1, experts: 3, rows: new Uint32Array(shared, 12, 4) }
  }
  for (const table of tableNames)
    test.equal(await outcome(() => tables[table]('dispatch', overlapping.dispatch)), 'VALIDATION_ERROR', table)
  const apart = { ...overlapping.dispatch, rows: new Uint32Array(shared, 16, 4) }
  for (const table of tableNames) test.equal(await outcome(() => tables[table]('dispatch', apart)), 'fine', table)
})

t.test('a call on a disposed backend', async (test) => {
  const gone = openBackend('cpu')
  gone.dispose()
  const memory = new Memory()
  for (const name of kernels) {
    const request = requests[name](memory, false)
    for (const table of [gone, gone.sync, gone.naive]) {
      const code = await outcome(() => table[name](request as never))
      test.ok(code !== 'fine', `${name}: ${code}`)
    }
  }
  test.equal(memory.damage(), undefined)
})
