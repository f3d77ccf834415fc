// One MoE layer with seeded weights, as both sides of bench/gpu-peers.mjs and bench/gpu-loads.mjs read it.
// Weights are 4-bit numbers with an offset of 8 and one f16 scale per 32: Q4_0, and with other places the same numbers for QMoE.

/** OLMoE's: width, experts, experts used, hidden width. */
export const shape = { width: 2048, experts: 64, k: 8, hidden: 1024 }
const block = 32

/** A stream of 32-bit words (xorshift). */
function words(seed) {
  let x = seed
  return () => {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    return x >>> 0
  }
}

/** About normal: mean 0, deviation 1. */
const normal = (next) => ((next() + next() + next() + next()) / 2 ** 32 - 2) * Math.sqrt(3)

/** States of `tokens` tokens, as an RMS norm leaves them. */
export function statesOf(tokens, { width } = shape) {
  const next = words(77)
  return Float32Array.from({ length: tokens * width }, () => normal(next))
}

/** The router, [experts][width]. */
export function routerWeights({ width, experts } = shape) {
  const next = words(78)
  return Float32Array.from({ length: experts * width }, () => normal(next) * width ** -0.5)
}

/** Matrix `index` (0 gate, 1 up, 2 down) of all experts: f16 scales and 16 bytes of codes per block, rows one after another. */
export function weightsOf(index, { width, experts, hidden } = shape) {
  const [rows, columns] = index === 2 ? [width, hidden] : [hidden, width]
  const next = words(80 + index)
  const blocks = (experts * rows * columns) / block
  const codes = new Uint32Array(blocks * 4)
  for (let i = 0; i < codes.length; i++) codes[i] = next()
  // f16 of 2^-8 to 2^-7: weights of the deviation that keeps a state's size
  const scales = new Uint16Array(blocks)
  for (let i = 0; i < blocks; i++) scales[i] = (7 << 10) | (next() & 1023)
  return { rows, columns, scales, codes: new Uint8Array(codes.buffer) }
}

/** Matrix `index` of all experts as a Q4_0 file has it: a scale and 16 bytes of codes per block. */
export function matrixOf(index, sizes = shape) {
  const { rows, columns, scales, codes } = weightsOf(index, sizes)
  const data = new Uint8Array(scales.length * 18)
  const view = new DataView(data.buffer)
  for (let i = 0; i < scales.length; i++) {
    view.setUint16(i * 18, scales[i], true)
    data.set(codes.subarray(i * 16, i * 16 + 16), i * 18 + 2)
  }
  return { type: 'Q4_0', rows, columns, data }
}

/** A number as the nearest f16 of its size or less: the seeded numbers here need no more. */
export function toHalf(x) {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0]
  const exponent = ((bits >>> 23) & 255) - 112
  return exponent <= 0 ? (bits >>> 16) & 0x8000 : ((bits >>> 16) & 0x8000) | (exponent << 10) | ((bits >>> 13) & 1023)
}
/** The value of f16 bits, which are finite. */
export function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >>> 10) & 31
  return sign * (exponent ? 2 ** (exponent - 25) * (1024 + (bits & 1023)) : 2 ** -24 * (bits & 1023))
}

/**
 * What a child answers `{ tokens, output }` with: the milliseconds of one run, and its results where they are asked for. `prepare(states,
 * tokens)` makes what `run` takes, and `widen` floats of what it gives: neither is timed.
 */
export async function timed({ prepare, run, widen = (output) => output }, { tokens, output }) {
  const input = await prepare(statesOf(tokens), tokens)
  const begin = performance.now()
  const results = await run(input)
  return { milliseconds: performance.now() - begin, results: output ? widen(results) : undefined }
}
