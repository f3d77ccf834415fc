import t from 'tap'
import type { AttentionRequest, KvType } from 'tiered-moe/kernels'
import { kvCacheBytes, openBackend } from 'tiered-moe/kernels'
import { firstFar } from '../kernels/close.js'
import { firstDifference } from '../kernels/memory.js'
import { attentionMisfits } from '../kernels/misfits.js'
import { attentionOracle } from '../kernels/oracle-dense.js'
import { type AttentionShape, partOf, type Sequence, sequence } from '../kernels/sequence.js'
import { tolerances } from '../kernels/tolerance.js'
import type { Flavour } from '../kernels/values.js'
import { openGpu } from './adapter.js'

const gpu = await openGpu(t)
const cpu = openBackend('cpu')
t.teardown(() => cpu.dispose())

/** A sequence of so many positions, then so many at once; between them every variant of the shader. */
const grid: { shape: AttentionShape; kvType: KvType; calls: [first: number, second: number][] }[] = [
  // odd values: single elements, words that two positions share
  {
    shape: { heads: 1, kvHeads: 1, headDim: 1 },
    kvType: 'f16',
    calls: [
      [0, 1],
      [15, 2]
    ]
  },
  {
    shape: { heads: 3, kvHeads: 1, headDim: 17, valueDim: 5 },
    kvType: 'f16',
    calls: [
      [17, 9],
      [64, 1]
    ]
  },
  {
    shape: { heads: 9, kvHeads: 1, headDim: 32, valueDim: 48 },
    kvType: 'f16',
    calls: [
      [3, 0],
      [65, 70]
    ]
  },
  {
    shape: { heads: 4, kvHeads: 4, headDim: 64 },
    kvType: 'f16',
    calls: [
      [63, 1],
      [200, 57],
      [300, 5]
    ]
  },
  {
    shape: { heads: 8, kvHeads: 2, headDim: 24, valueDim: 300 },
    kvType: 'f32',
    calls: [
      [17, 9],
      [255, 3]
    ]
  },
  {
    shape: { heads: 3, kvHeads: 1, headDim: 17, valueDim: 5 },
    kvType: 'f32',
    calls: [
      [1, 1],
      [65, 4]
    ]
  }
]

const emptyCache = (shape: AttentionShape, positions: number, kvType: KvType) =>
  new Uint8Array(kvCacheBytes({ positions, ...shape, kvType }))

/** The call for tokens `start` to `end` of a sequence. */
const call = (all: Sequence, shape: AttentionShape, kvType: KvType, cache: Uint8Array, start: number, end: number) =>
  ({ ...shape, kvType, start, ...partOf(all, shape, start, end), cache }) satisfies AttentionRequest

if (gpu) {
  t.test('grid: one call, then another on what it left in the cache', async (test) => {
    for (const { shape, kvType, calls } of grid) {
      for (const [first, second] of calls) {
        const label = `${JSON.stringify(shape)}, ${kvType}, ${first} + ${second}`
        const flavour: Flavour = first === 3 ? 'zero' : first === 15 ? 'tiny' : first === 17 ? 'heavy' : 'normal'
        const all = sequence(shape, first + second, flavour, label)
        const cache = emptyCache(shape, first + second, kvType)
        const cpuCache = cache.slice()
        for (const [start, end] of [
          [0, first],
          [first, first + second]
        ] as const) {
          const request = call(all, shape, kvType, cache, start, end)
          const result = await gpu.attention(request)
          const oracle = attentionOracle(request, all.k, all.v)
          test.equal(firstFar(result, oracle, tolerances.attentionGpu), undefined, `${label}, from ${start}`)
          cpu.sync.attention(call(all, shape, kvType, cpuCache, start, end))
          test.equal(firstDifference('cache', cache, cpuCache), undefined, `${label}, from ${start}: the CPU's cache`)
        }
      }
    }
  })

  t.test('windows and sinks', async (test) => {
    const shapes = [
      [{ heads: 4, kvHeads: 4, headDim: 24 }, 'f16', 12],
      [{ heads: 8, kvHeads: 2, headDim: 16, valueDim: 5 }, 'f32', 270]
    ] as const
    for (const [shape, kvType, narrow] of shapes) {
      for (const window of [narrow, 1, 0]) {
        const positions = 530
        const label = `${JSON.stringify(shape)}, window ${window}`
        const all = sequence(shape, positions, 'normal', label)
        const sinks = Float32Array.from({ length: shape.heads }, (_, h) => [0.3, 40, -40][h % 3]!)
        // One chunk of positions, then several: sinks come into both.
        for (const [start, end] of [
          [0, 40],
          [520, 530]
        ] as const) {
          for (const options of [{ window, sinks }, { window }]) {
            const cache = emptyCache(shape, positions, kvType)
            cpu.sync.attention(call(all, shape, kvType, cache, 0, start))
            const request = { ...call(all, shape, kvType, cache, start, end), ...options }
            const oracle = attentionOracle(request, all.k, all.v)
            const result = await gpu.attention(request)
            const name = `${label}${'sinks' in options ? ', sinks' : ''}, from ${start}`
            test.equal(firstFar(result, oracle, tolerances.attentionGpu), undefined, name)
            const alone = await gpu.attention({
              ...call(all, shape, kvType, cache, end - 1, end),
              ...options
            })
            test.same(alone, result.slice(result.length - alone.length), `${name}: the last row alone`)
          }
        }
      }
    }
  })

  t.test('a prompt whole, in chunks or token by token: the same bits', async (test) => {
    const shape = { heads: 4, kvHeads: 4, headDim: 64 }
    const positions = 261
    const all = sequence(shape, positions, 'normal', 'chunks')
    const tail = 258 * 4 * 64
    const whole = await gpu.attention(call(all, shape, 'f16', emptyCache(shape, positions, 'f16'), 0, positions))
    const cache = emptyCache(shape, positions, 'f16')
    await gpu.attention(call(all, shape, 'f16', cache, 0, 200))
    const middle = await gpu.attention(call(all, shape, 'f16', cache, 200, 258))
    test.same(middle, whole.slice(200 * 4 * 64, tail), '58 after 200')
    const last: number[] = []
    for (let at = 258; at < positions; at++)
      last.push(...(await gpu.attention(call(all, shape, 'f16', cache, at, at + 1))))
    test.same(Float32Array.from(last), whole.slice(tail), 'one by one')
  })

  t.test('a cache that stays on the device; what a call has no business with stays', async (test) => {
    const shape = { heads: 4, kvHeads: 4, headDim: 64 }
    const all = sequence(shape, 3, 'normal', 'room')
    const small = emptyCache(shape, 3, 'f16')
    const result = await gpu.attention(call(all, shape, 'f16', small, 0, 3))
    const large = new Uint8Array(small.length * 2 + 8).fill(0x7b)
    large.fill(0, 0, small.length)
    const cache = await gpu.upload(large)
    const kept = await gpu.attention({ ...call(all, shape, 'f16', small, 0, 3), cache })
    test.same(kept, result)
    const bytes = await cache.read()
    test.same(bytes.slice(0, small.length), small)
    test.ok(bytes.subarray(small.length).every((byte) => byte === 0x7b))
    cache.dispose()
  })

  t.test('scores far apart: exact max first, so nothing overflows', async (test) => {
    const shape = { heads: 3, kvHeads: 1, headDim: 17, valueDim: 5 }
    const all = sequence(shape, 40, 'normal', 'far')
    for (const x of [all.q, all.k]) for (let i = 0; i < x.length; i++) x[i]! *= 1e15
    for (const scale of [1, -1, 1e-30, 0]) {
      const result = await gpu.attention({ ...call(all, shape, 'f32', emptyCache(shape, 40, 'f32'), 0, 40), scale })
      test.ok(
        result.every((x) => Number.isFinite(x)),
        `scale ${scale}: finite`
      )
    }
  })

  t.test('what is not finite', async (test) => {
    const shape = { heads: 3, kvHeads: 1, headDim: 17, valueDim: 5 }
    const cases = [
      { array: 'q', kvType: 'f32', value: Number.NaN },
      { array: 'k', kvType: 'f32', value: Number.POSITIVE_INFINITY },
      { array: 'v', kvType: 'f16', value: 70_000 }
    ] as const
    for (const { array, kvType, value } of cases) {
      const all = sequence(shape, 4, 'normal', 'bad')
      all[array].fill(value, all[array].length / 2, all[array].length / 2 + 1)
      const refused = gpu.attention(call(all, shape, kvType, emptyCache(shape, 4, kvType), 0, 4))
      await test.rejects(refused, { code: 'RUNTIME_NAN_DETECTED', details: { token: 2 } }, `${array}: ${value}`)
    }
  })

  t.test('numbers that do not fit', async (test) => {
    const { good, bad } = attentionMisfits()
    for (const [name, part] of Object.entries(bad))
      await test.rejects(gpu.attention({ ...good, ...part }), { code: 'VALIDATION_ERROR' }, name)
  })
}
