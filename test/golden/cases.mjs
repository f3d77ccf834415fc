// The golden cases: seeded requests of every kernel, weights in the file's layout. Shared by scripts/golden.mjs, which freezes what the
// naive twins give, and by golden.test.ts; a new backend runs the same requests. Integers and powers of two only, so that every machine
// makes the same inputs.
import { kvCacheBytes } from 'tiered-moe/kernels'

function stream(text) {
  let state = 0x811c9dc5
  for (const char of text) state = Math.imul(state ^ char.charCodeAt(0), 0x01000193) >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let x = Math.imul(state ^ (state >>> 16), 0x21f0aaad)
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97)
    return (x ^ (x >>> 15)) >>> 0
  }
}

/** Multiples of 2^-20 in [-scale, scale), now and then a zero, a denormal or a value 64 times as large. */
const floats = (next, n, scale = 1) =>
  Float32Array.from({ length: n }, () => {
    const kind = next() & 63
    const x = (((next() >>> 11) - 2 ** 20) / 2 ** 20) * scale
    if (kind === 0) return 0
    if (kind === 1) return ((next() & 0x7fffff) - 0x400000) * 2 ** -149
    return kind === 2 ? x * 64 : x
  })
/** The same without outliers, so that small scales of quantised types hold them. */
const even = (next, n, scale = 1) =>
  Float32Array.from({ length: n }, () => (((next() >>> 11) - 2 ** 20) / 2 ** 20) * scale)

const blocks = {
  F32: [1, 4],
  F16: [1, 2],
  BF16: [1, 2],
  Q8_0: [32, 34],
  Q4_0: [32, 18],
  Q4_K: [256, 144],
  Q6_K: [256, 210],
  MXFP4: [32, 17]
}
/** Where a block's f16 scales lie, each with the exponent that makes weights about 2^-6; MXFP4 has a byte instead. */
const scales = {
  Q8_0: [[0, 7]],
  Q4_0: [[0, 11]],
  Q4_K: [
    [0, 5],
    [2, 5]
  ],
  Q6_K: [[208, 3]],
  MXFP4: []
}
export const types = Object.keys(blocks)

/** Blocks of random codes with scales near `2^-6`; of every eighth block all codes are -128. */
function weights(next, type, rows, columns, experts = 1) {
  const [block, bytes] = blocks[type]
  const count = (experts * rows * columns) / block
  const data = new Uint8Array(count * bytes)
  const view = new DataView(data.buffer)
  for (let i = 0; i < count; i++) {
    const at = i * bytes
    if (type === 'F32') view.setFloat32(at, even(next, 1, 0.25)[0], true)
    else if (type === 'F16') view.setUint16(at, (next() & 0x83ff) | ((9 + (next() & 3)) << 10), true)
    else if (type === 'BF16') view.setUint16(at, (next() & 0x807f) | ((121 + (next() & 3)) << 7), true)
    else {
      const special = (next() & 7) === 0
      for (let j = 0; j < bytes; j++) data[at + j] = special ? 0x80 : next() >>> 24
      for (const [place, exponent] of scales[type])
        view.setUint16(at + place, (next() & 0x83ff) | (exponent << 10), true)
      if (type === 'MXFP4') data[at] = special ? next() & 1 : 118 + (next() & 3)
    }
  }
  return { type, rows, columns, data }
}

/** [tokens][k] distinct ids; `spread` experts are used. */
function choices(next, tokens, k, spread) {
  const ids = new Int32Array(tokens * k)
  for (let t = 0; t < tokens; t++) {
    const free = Array.from({ length: spread }, (_, i) => i)
    for (let s = 0; s < k; s++) ids[t * k + s] = free.splice(next() % free.length, 1)[0]
  }
  return ids
}

/** Offsets, slots and rows of ids: a stable sort by expert. */
function dispatched(ids, experts) {
  const slots = Uint32Array.from(Array.from(ids.keys()).sort((a, b) => ids[a] - ids[b] || a - b))
  const rows = new Uint32Array(ids.length)
  for (const [row, slot] of slots.entries()) rows[slot] = row
  const offsets = Uint32Array.from({ length: experts + 1 }, (_, e) => ids.filter((id) => id < e).length)
  return { offsets, slots, rows }
}

const integers = (next, n) => Int32Array.from({ length: n }, () => (next() % 2 ** 24) - 2 ** 23)

/** Integers of 2^-30, up to ± 0.5. */
const fixed = (next, n) => BigInt64Array.from({ length: n }, () => BigInt((next() >>> 2) - 2 ** 29))

function route(next, more) {
  const [tokens, width, experts] = [3, 20, 10]
  return {
    states: floats(next, tokens * width),
    router: integers(next, experts * width),
    routerExponent: -1,
    experts,
    k: 3,
    layer: 5,
    seed: Uint32Array.of(1, 2, 3, 4),
    positions: Uint32Array.of(0, 1, 4_000_000_000),
    scores: new BigInt64Array(tokens * experts),
    ...more
  }
}

/** Three tiers: one group of 2, two of 3 and 4, one of 5. */
function hser(next, more) {
  const [tokens, width] = [4, 20]
  return {
    states: floats(next, tokens * width),
    router: integers(next, 14 * width),
    routerExponent: -1,
    experts: 14,
    k: 4,
    form: 'hser',
    hser: {
      tierGroups: Uint32Array.of(0, 1, 3, 4),
      groupExperts: Uint32Array.of(0, 2, 5, 9, 14),
      tierRouter: integers(next, 3 * width),
      tierRouterExponent: -2,
      groupRouter: integers(next, 4 * width),
      groupRouterExponent: -3,
      kTier: 2,
      kGroup: 1,
      kExpert: 2
    },
    layer: 2,
    seed: Uint32Array.of(5, 6, 7, 8),
    positions: Uint32Array.of(0, 1, 70, 4_000_000_000),
    scores: new BigInt64Array(tokens * 21),
    ...more
  }
}

function experts(next, type, tokens, width, hidden) {
  const [count, k] = [4, 2]
  const { offsets, slots } = dispatched(choices(next, tokens, k, 3), count)
  const [gate, up] = [weights(next, type, hidden, width, count), weights(next, type, hidden, width, count)]
  return {
    x: floats(next, tokens * width),
    k,
    offsets,
    slots,
    gate,
    up,
    down: weights(next, type, width, hidden, count)
  }
}

/** Some beyond the limits of the clamped activation. */
const biases = (next, width, hidden) => ({
  gate: even(next, 4 * hidden, 16),
  up: even(next, 4 * hidden, 16),
  down: even(next, 4 * width)
})

function attention(next, kvType, tokens, start) {
  const [heads, kvHeads, headDim, valueDim] = [4, 2, 10, 6]
  const cache = new Uint8Array(kvCacheBytes({ positions: start + tokens, kvHeads, headDim, valueDim, kvType }))
  // a cache that holds numbers already: of each the two low bytes of an f32, or an f16, with a small exponent
  const view = new DataView(cache.buffer)
  for (let at = 0; at < cache.length; at += kvType === 'f16' ? 2 : 4) {
    if (kvType === 'f16') view.setUint16(at, (next() & 0x83ff) | (14 << 10), true)
    else view.setFloat32(at, even(next, 1)[0], true)
  }
  const [q, k, v] = [heads * headDim, kvHeads * headDim, kvHeads * valueDim].map((n) => even(next, tokens * n, 2))
  return { q, k, v, cache, start, heads, kvHeads, headDim, valueDim, kvType }
}

const rope = (next, more) => ({
  x: even(next, 3 * 2 * 14),
  positions: Uint32Array.of(1, 600, 131_071),
  heads: 2,
  headDim: 14,
  rotaryDim: 12,
  base: 10_000,
  ...more
})
const ropeScalings = {
  linear: { factor: 4, magnitude: 1 },
  'by pairs, as YaRN': { factor: 8, magnitude: 1.25, keep: { by: 'pair', none: 4, all: 1, most: 1 } },
  'by turns, as llama3': {
    factor: 8,
    magnitude: 1,
    keep: { by: 'turns', none: 1, all: 4, most: 1, originalContext: 1024 }
  }
}

const blockColumns = (type) => (blocks[type][0] === 1 ? 19 : Math.max(64, blocks[type][0]))

/** Every kernel's cases: name → a function that makes the request anew. */
const makers = {
  route: {
    softmax_topk: (next) => route(next, {}),
    'softmax_topk, normalised': (next) => route(next, { normalise: true }),
    topk_softmax: (next) => route(next, { form: 'topk_softmax' }),
    'a mask': (next) => route(next, { enabled: Uint8Array.of(0, 1, 1, 0, 1, 1, 0, 0, 1, 1) }),
    'all scores equal': (next) => route(next, { router: new Int32Array(200).fill(12345) }),
    hser: (next) => hser(next, {}),
    'hser, normalised': (next) => hser(next, { normalise: true }),
    'a router bias': (next) => route(next, { form: 'topk_softmax', bias: integers(next, 10), biasExponent: 1 }),
    'a router bias far coarser than the scores': (next) =>
      route(next, { bias: integers(next, 10), biasExponent: 2, states: floats(next, 60, 2 ** -40), normalise: true }),
    sigmoid: (next) => route(next, { form: 'sigmoid' }),
    'sigmoid, both biases, normalised and scaled': (next) =>
      route(next, {
        form: 'sigmoid',
        bias: integers(next, 10),
        biasExponent: 0,
        selectionBias: fixed(next, 10),
        normalise: true,
        scale: 2.5
      }),
    'sigmoid, groups by their two best': (next) =>
      route(next, {
        form: 'sigmoid',
        selectionBias: fixed(next, 10),
        groups: { count: 5, used: 2, score: 'top2' },
        normalise: true
      }),
    'softmax_topk, groups by their best, a mask': (next) =>
      route(next, {
        groups: { count: 2, used: 1, score: 'max' },
        enabled: Uint8Array.of(0, 1, 1, 0, 1, 1, 0, 0, 1, 1),
        scale: 16
      }),
    'groups, all scores equal': (next) =>
      route(next, { states: new Float32Array(60), groups: { count: 5, used: 2, score: 'max' } }),
    'hser, two tiers enabled': (next) =>
      hser(next, { enabled: Uint8Array.of(1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0) }),
    'hser, all scores equal': (next) => hser(next, { states: new Float32Array(80) })
  },
  dispatch: {
    'four experts of which one idles': (next) => ({ ids: choices(next, 7, 2, 3), k: 2, experts: 4 }),
    'no tokens': () => ({ ids: new Int32Array(0), k: 2, experts: 4 })
  },
  expertMatmul: {
    ...Object.fromEntries(
      types.map((type) => {
        const width = blockColumns(type)
        return [type, (next) => experts(next, type, 2, width, width === 19 ? 23 : width === 64 ? 32 : width)]
      })
    ),
    'Q4_0, larger': (next) => experts(next, 'Q4_0', 17, 256, 160),
    ...Object.fromEntries(
      ['F32', 'MXFP4'].flatMap((type) => [
        [`${type}, biases`, (next) => ({ ...experts(next, type, 3, 64, 32), biases: biases(next, 64, 32) })],
        [
          `${type}, clamped, biases`,
          (next) => ({
            ...experts(next, type, 3, 64, 32),
            activation: 'clamped_swiglu',
            biases: biases(next, 64, 32)
          })
        ]
      ])
    ),
    'Q8_0, clamped': (next) => ({ ...experts(next, 'Q8_0', 3, 64, 32), activation: 'clamped_swiglu' })
  },
  combine: {
    replacing: (next) => combine(next, false),
    adding: (next) => combine(next, true)
  },
  allToAllPack: { 'three ranks': (next) => ({ ...exchange(next), ranks: 3 }) },
  allToAllUnpack: {
    'back into slots': (next) => {
      const { x: _, ...rest } = exchange(next)
      return { ...rest, packed: floats(next, 5 * 2 * 9) }
    }
  },
  rmsNorm: { '37 wide': (next) => ({ x: floats(next, 3 * 37), weight: even(next, 37), epsilon: 2 ** -17 }) },
  rope: {
    ...Object.fromEntries(['neox', 'interleaved'].map((pairs) => [pairs, (next) => rope(next, { pairs })])),
    ...Object.fromEntries(
      Object.entries(ropeScalings).map(([name, scaling]) => [name, (next) => rope(next, { pairs: 'neox', scaling })])
    ),
    divisors: (next) => rope(next, { pairs: 'neox', divisors: Float32Array.of(1, 1.5, 2, 4, 8, 32) })
  },
  attention: {
    ...Object.fromEntries(
      ['f16', 'f32'].flatMap((kvType) => [
        [`${kvType}, one token at 70`, (next) => attention(next, kvType, 1, 70)],
        [`${kvType}, 5 tokens from 0`, (next) => attention(next, kvType, 5, 0)]
      ])
    ),
    ...Object.fromEntries(
      ['f16', 'f32'].flatMap((kvType) => [
        [`${kvType}, a window of 21`, (next) => ({ ...attention(next, kvType, 3, 70), window: 21 })],
        [`${kvType}, sinks`, (next) => ({ ...attention(next, kvType, 3, 70), sinks: even(next, 4, 4) })],
        [
          `${kvType}, both, from 0`,
          (next) => ({ ...attention(next, kvType, 20, 0), window: 5, sinks: Float32Array.of(-2, 0, 1.5, 90) })
        ]
      ])
    )
  },
  embed: Object.fromEntries(
    types.map((type) => [
      type,
      (next) => ({ table: weights(next, type, 4, blockColumns(type)), ids: Int32Array.of(3, 0) })
    ])
  ),
  logits: Object.fromEntries(
    types.map((type) => {
      const columns = blockColumns(type)
      return [type, (next) => ({ states: floats(next, 3 * columns), weight: weights(next, type, 18, columns) })]
    })
  ),
  sample: {
    greedy: (next) => ({ logits: even(next, 40, 8), position: 0, topLogprobs: 3 }),
    temperature: (next) => ({ logits: even(next, 40, 8), position: 7, seed: 42, temperature: 1, topLogprobs: 0 }),
    'every filter': (next) => ({
      logits: even(next, 40, 8),
      position: 8,
      seed: 43,
      temperature: 1.5,
      topK: 20,
      topP: 0.9,
      minP: 0.02,
      repetitionPenalty: 1.25,
      recent: Int32Array.of(1, 2, 3),
      banned: Int32Array.of(4, 5)
    }),
    'a mask': (next) => ({
      logits: even(next, 40, 8),
      position: 9,
      seed: 44,
      temperature: 0.8,
      banned: Int32Array.of(33),
      allowed: Uint32Array.of(0x10f0_0300, 0x0e)
    })
  },
  quantize: Object.fromEntries(
    types
      .filter((type) => !['Q4_K', 'Q6_K', 'MXFP4'].includes(type))
      .map((type) => [type, (next) => ({ type, x: floats(next, 2 * blockColumns(type)), columns: blockColumns(type) })])
  ),
  dequantize: Object.fromEntries(
    types.map((type) => [
      type,
      (next) => ({ type, data: weights(next, type, 1, blockColumns(type)).data, columns: blockColumns(type) })
    ])
  )
}

function combine(next, add) {
  const [tokens, k, count, width] = [4, 3, 5, 9]
  const ids = choices(next, tokens, k, count)
  return {
    values: floats(next, tokens * k * width),
    ids,
    weights: even(next, tokens * k),
    rows: dispatched(ids, count).rows,
    k,
    experts: count,
    width,
    add,
    out: floats(next, tokens * width)
  }
}

function exchange(next) {
  const [tokens, k, count, width] = [5, 2, 7, 9]
  const { offsets, slots } = dispatched(choices(next, tokens, k, count), count)
  return { x: floats(next, tokens * width), width, k, offsets, slots }
}

/** Names of a kernel's cases. */
export const caseNames = (kernel) => Object.keys(makers[kernel])
export const kernels = Object.keys(makers)
/** A request, made anew. */
export const request = (kernel, name) => makers[kernel][name](stream(`${kernel}: ${name}`))
/** Arrays that a kernel changes besides its result. */
export const changed = { attention: (own) => ({ cache: own.cache }) }
/** Experts in the matrices of a request; undefined where it has none in the kernels' layout. */
export const packedFields = { expertMatmul: { gate: 4, up: 4, down: 4 }, logits: { weight: 1 } }
