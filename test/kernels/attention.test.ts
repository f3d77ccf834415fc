import t from 'tap'
import type { AttentionRequest, KvType } from 'tiered-moe/kernels'
import { kvCacheBytes } from 'tiered-moe/kernels'
import { firstFar } from './close.js'
import { Forms } from './forms.js'
import type { Memory } from './memory.js'
import { attentionMisfits } from './misfits.js'
import { attentionOracle } from './oracle-dense.js'
import { type AttentionShape, partOf, type Sequence, sequence } from './sequence.js'
import { tolerances } from './tolerance.js'
import type { Flavour } from './values.js'

const forms = new Forms(t)

const shapes: AttentionShape[] = [
  { heads: 1, kvHeads: 1, headDim: 1 },
  { heads: 2, kvHeads: 2, headDim: 6 },
  { heads: 6, kvHeads: 2, headDim: 16 },
  { heads: 3, kvHeads: 1, headDim: 17, valueDim: 5 },
  { heads: 9, kvHeads: 1, headDim: 32, valueDim: 48 },
  { heads: 4, kvHeads: 4, headDim: 64 },
  { heads: 8, kvHeads: 2, headDim: 96 }
]

/** Bytes of a cache; those of positions that were never written are a pattern that would show. */
const emptyCache = (shape: AttentionShape, positions: number, kvType: KvType) =>
  new Uint8Array(kvCacheBytes({ positions, ...shape, kvType })).fill(0x7b)

/** The call for tokens `start` to `end` of a sequence. */
function call(
  memory: Memory,
  all: Sequence,
  shape: AttentionShape,
  kvType: KvType,
  cache: Uint8Array,
  start: number,
  end: number,
  options: Pick<AttentionRequest, 'window' | 'sinks'> = {}
) {
  const { q, k, v } = partOf(all, shape, start, end)
  const { heads, headDim, valueDim = headDim } = shape
  return {
    ...shape,
    kvType,
    start,
    q: memory.input('q', q),
    k: memory.input('k', k),
    v: memory.input('v', v),
    cache: memory.inout('cache', cache),
    ...options,
    out: memory.floats('out', (end - start) * heads * valueDim)
  } satisfies AttentionRequest
}

t.test('grid: one call, then another on what it left in the cache', async (test) => {
  for (const shape of shapes) {
    for (const kvType of ['f16', 'f32'] as const) {
      for (const [first, second] of [
        [0, 1],
        [1, 1],
        [3, 0],
        [15, 2],
        [17, 9],
        [63, 1],
        [64, 1],
        [65, 70]
      ] as const) {
        const label = `${JSON.stringify(shape)}, ${kvType}, ${first} + ${second}`
        const flavour: Flavour = first === 3 ? 'zero' : first === 15 ? 'tiny' : first === 17 ? 'heavy' : 'normal'
        const all = sequence(shape, first + second, flavour, label)
        let cache = emptyCache(shape, first + second, kvType)
        for (const [start, end] of [
          [0, first],
          [first, first + second]
        ] as const) {
          const one = await forms.sameBits('attention', `${label}, from ${start}`, {
            request: (memory) => call(memory, all, shape, kvType, cache, start, end),
            also: (request) => ({ cache: request.cache }),
            row: shape.valueDim ?? shape.headDim
          })
          const oracle = attentionOracle(one.request, all.k, all.v)
          test.equal(firstFar(one.result, oracle, tolerances.attention), undefined, `${label}, from ${start}: oracle`)
          cache = one.request.cache.slice()
        }
      }
    }
  }
})

t.test('a prompt whole, in chunks or token by token: the same bits', async (test) => {
  for (const kvType of ['f16', 'f32'] as const) {
    const shape = { heads: 6, kvHeads: 2, headDim: 24 }
    const positions = 67
    const all = sequence(shape, positions, 'normal', `chunks ${kvType}`)
    const run = async (chunk: number) => {
      let cache = emptyCache(shape, positions, kvType)
      const out: number[] = []
      for (let start = 0; start < positions; start += chunk) {
        const end = Math.min(positions, start + chunk)
        const one = await forms.sameBits('attention', `chunk ${chunk} at ${start}`, {
          request: (memory) => call(memory, all, shape, kvType, cache, start, end),
          also: (request) => ({ cache: request.cache })
        })
        cache = one.request.cache.slice()
        out.push(...one.result)
      }
      return { out, cache }
    }
    const whole = await run(positions)
    for (const chunk of [7, 64]) test.same(await run(chunk), whole, `${kvType}, chunks of ${chunk}`)
    test.same(await run(1), whole, `${kvType}, token by token`)
  }
})

t.test('windows and sinks: each call on what the one before left, whole or in chunks', async (test) => {
  const positions = 150
  for (const [shape, kvType] of [
    [{ heads: 6, kvHeads: 2, headDim: 24 }, 'f32'],
    [{ heads: 9, kvHeads: 1, headDim: 17, valueDim: 20 }, 'f16']
  ] as const) {
    for (const window of [1, 7, 16, 65, 150, 0]) {
      for (const sunk of [true, false]) {
        if (window === 0 && !sunk) continue
        const label = `${JSON.stringify(shape)}, window ${window}${sunk ? ', sinks' : ''}`
        const all = sequence(shape, positions, 'normal', label)
        // One beside the scores, one far above, one far below.
        const sinks = Float32Array.from({ length: shape.heads }, (_, h) => [0.3, 40, -40][h % 3]!)
        const options = { window, ...(sunk && { sinks }) }
        const run = async (chunk: number) => {
          let cache = emptyCache(shape, positions, kvType)
          const out: number[] = []
          for (let start = 0; start < positions; start += chunk) {
            const end = Math.min(positions, start + chunk)
            const one = await forms.sameBits('attention', `${label}, ${start} to ${end}`, {
              request: (memory) => call(memory, all, shape, kvType, cache, start, end, options),
              also: (request) => ({ cache: request.cache })
            })
            if (chunk === positions) {
              const oracle = attentionOracle(one.request, all.k, all.v)
              test.equal(firstFar(one.result, oracle, tolerances.attention), undefined, `${label}: the oracle`)
            }
            cache = one.request.cache.slice()
            out.push(...one.result)
          }
          return out
        }
        const whole = await run(positions)
        test.same(await run(70), whole, `${label}: in chunks`)
        if (window < 150) continue
        const wide = { ...options, window: window === 0 ? 1000 : 0 }
        const { result } = await forms.sameBits('attention', `${label}: a window as wide as what there is`, {
          request: (memory) =>
            call(memory, all, shape, kvType, emptyCache(shape, positions, kvType), 0, positions, wide)
        })
        test.same(result, whole, `${label}: a window that hides nothing changes nothing`)
      }
    }
  }
})

t.test('nothing before the window is looked at', async (test) => {
  const shape = { heads: 2, kvHeads: 1, headDim: 8 }
  const all = sequence(shape, 90, 'normal', 'before')
  const first = emptyCache(shape, 90, 'f32')
  const clean = await forms.sameBits('attention', 'before', {
    request: (memory) => call(memory, all, shape, 'f32', first, 0, 89),
    also: (request) => ({ cache: request.cache })
  })
  const held = clean.request.cache.slice()
  const spoilt = held.slice()
  // Every key and value of the first page, positions 0 to 63, is NaN.
  new Float32Array(spoilt.buffer, 0, 64 * 16).fill(Number.NaN)
  const run = (cache: Uint8Array) =>
    forms.sameBits('attention', 'after', {
      request: (memory) => call(memory, all, shape, 'f32', cache, 89, 90, { window: 20 })
    })
  test.same((await run(spoilt)).result, (await run(held)).result)
})

t.test('a cache may be larger than needed; what a call has no business with stays', async (test) => {
  const shape = { heads: 2, kvHeads: 1, headDim: 8 }
  const all = sequence(shape, 3, 'normal', 'room')
  const small = emptyCache(shape, 3, 'f16')
  const large = new Uint8Array(small.length * 2 + 8).fill(0x7b)
  const run = (cache: Uint8Array) =>
    forms.sameBits('attention', `${cache.length} bytes`, {
      request: (memory) => call(memory, all, shape, 'f16', cache, 0, 3),
      also: (request) => ({ cache: request.cache })
    })
  const [a, b] = [await run(small), await run(large)]
  test.same(a.result, b.result)
  test.ok(b.request.cache.subarray(small.length).every((byte) => byte === 0x7b))
})

t.test('scores far apart: exact max first, so nothing overflows', async (test) => {
  const shape = { heads: 1, kvHeads: 1, headDim: 4 }
  const all = sequence(shape, 40, 'normal', 'far')
  for (let i = 0; i < all.q.length; i++) {
    all.q[i]! *= 1e15
    all.k[i]! *= 1e15
  }
  for (const scale of [1, -1, 1e-30, 0]) {
    const { result } = await forms.sameBits('attention', `scale ${scale}`, {
      request: (memory) => ({ ...call(memory, all, shape, 'f32', emptyCache(shape, 40, 'f32'), 0, 40), scale })
    })
    test.ok(
      result.every((x) => Number.isFinite(x)),
      `scale ${scale}: finite`
    )
  }
})

t.test('numbers that do not fit', async () => {
  const { good, bad } = attentionMisfits()
  bad['a cache at an odd address'] = { cache: new Uint8Array(good.cache.length + 1).subarray(1) }
  for (const [name, part] of Object.entries(bad))
    await forms.sameError('attention', name, { request: () => ({ ...good, ...part }) }, 'VALIDATION_ERROR')
})
