/** Seeded inputs of the kernel tests: floats of several flavours and weight matrices with the blocks that go wrong first. */
import type { DType, Matrix } from 'tiered-moe/kernels'
import { random, seedOf, toF16 } from '../fixtures/weights.js'

export type Random = () => number

/** A stream of its own for every case, so that adding one case does not change the others. */
export const stream = (label: string, seed = 1): Random => random(seedOf(label, seed))

/** Whole number from `least` to `most`. */
export const whole = (next: Random, least: number, most: number): number =>
  least + Math.floor(next() * (most - least + 1))

/** About normal: mean 0, deviation 1. */
export const normal = (next: Random): number => (next() + next() + next() + next() - 2) * Math.sqrt(3)

/** `heavy`: tails up to 1e6, as hidden states have; `tiny`: zeros of both signs and denormals among ordinary numbers. */
export type Flavour = 'normal' | 'heavy' | 'tiny' | 'zero'
export const flavours: Flavour[] = ['normal', 'heavy', 'tiny', 'zero']

const clamp = (x: number, most: number) => Math.max(-most, Math.min(most, x))

function one(next: Random, flavour: Flavour): number {
  if (flavour === 'zero') return next() < 0.5 ? 0 : -0
  if (flavour === 'heavy') return clamp(normal(next) * 2 ** (6 * normal(next)), 1e6)
  if (flavour === 'normal') return normal(next)
  const kind = next()
  if (kind < 0.2) return 0
  if (kind < 0.4) return -0
  if (kind < 0.7) return (next() - 0.5) * 2 ** -126
  return kind < 0.75 ? normal(next) : normal(next) * 2 ** -60
}

export const floats = (n: number, next: Random, flavour: Flavour = 'normal', deviation = 1): Float32Array =>
  Float32Array.from({ length: n }, () => one(next, flavour) * deviation)

/** Weights in a block, and a block's bytes in the file. */
export const blockShape: Record<DType, readonly [weights: number, bytes: number]> = {
  F32: [1, 4],
  F16: [1, 2],
  BF16: [1, 2],
  Q8_0: [32, 34],
  Q4_0: [32, 18],
  Q4_1: [32, 20],
  Q5_0: [32, 22],
  Q5_1: [32, 24],
  Q4_K: [256, 144],
  Q5_K: [256, 176],
  Q6_K: [256, 210],
  MXFP4: [32, 17],
  IQ4_NL: [32, 18],
  IQ4_XS: [256, 136]
}
export const isQuantised = (type: DType): boolean => blockShape[type][0] > 1

/** Scales that a block may have, as f16: ordinary ones mostly, then zeros, denormals, negatives and the largest that stay harmless. */
function scaleBits(next: Random, size: number): number {
  const kind = next()
  if (kind < 0.04) return 0
  if (kind < 0.08) return 0x8000
  if (kind < 0.14) return whole(next, 1, 0x3ff)
  if (kind < 0.2) return toF16(-size * (0.5 + next()))
  return toF16(size * (0.5 + next()))
}

/** Codes of a block: of every sixth block all −128, all 127, ±127 or 0; random otherwise. */
function fillCodes(out: Uint8Array, next: Random): void {
  const kind = whole(next, 0, 17)
  for (let i = 0; i < out.length; i++) {
    if (kind === 0) out[i] = 0x80
    else if (kind === 1) out[i] = 0x7f
    else if (kind === 2) out[i] = i % 2 ? 0x81 : 0x7f
    else if (kind === 3) out[i] = 0
    else out[i] = whole(next, 0, 255)
  }
}

function fillBlock(type: DType, block: Uint8Array, next: Random, deviation: number): void {
  const view = new DataView(block.buffer, block.byteOffset, block.length)
  if (type === 'Q8_0') {
    fillCodes(block.subarray(2), next)
    view.setUint16(0, scaleBits(next, deviation / 74), true)
  } else if (type === 'Q4_0') {
    fillCodes(block.subarray(2), next)
    view.setUint16(0, scaleBits(next, deviation / 4.6), true)
  } else if (type === 'MXFP4') {
    fillCodes(block.subarray(1), next)
    view.setUint8(0, next() < 0.1 ? whole(next, 0, 2) : Math.round(Math.log2(deviation / 6)) + 128 + whole(next, -1, 1))
  } else if (type === 'Q4_K' || type === 'Q5_K') {
    fillCodes(block.subarray(4, 16), next)
    fillCodes(block.subarray(16), next)
    view.setUint16(0, scaleBits(next, deviation / ((type === 'Q4_K' ? 4.6 : 9.2) * 37)), true)
    view.setUint16(2, scaleBits(next, deviation / 37), true)
  } else if (type === 'Q5_0' || type === 'IQ4_NL' || type === 'IQ4_XS') {
    fillCodes(block.subarray(2), next)
    view.setUint16(0, scaleBits(next, deviation / { Q5_0: 9.2, IQ4_NL: 67, IQ4_XS: 67 * 18 }[type]), true)
  } else if (type === 'Q4_1' || type === 'Q5_1') {
    fillCodes(block.subarray(4), next)
    view.setUint16(0, scaleBits(next, deviation / (type === 'Q4_1' ? 4.6 : 9.2)), true)
    view.setUint16(2, scaleBits(next, deviation), true)
  } else {
    fillCodes(block.subarray(0, 192), next)
    fillCodes(block.subarray(192, 208), next)
    view.setUint16(208, scaleBits(next, deviation / (18.5 * 74)), true)
  }
}

const scratch = new DataView(new ArrayBuffer(4))

/** A matrix in the file's layout, `experts` of them one after another. Quantised types take any code that a file may hold. */
export function weights(type: DType, rows: number, columns: number, next: Random, experts = 1): Matrix {
  const [block, bytes] = blockShape[type]
  const count = (experts * rows * columns) / block
  const data = new Uint8Array(count * bytes)
  const deviation = columns ** -0.5
  if (isQuantised(type)) {
    for (let i = 0; i < count; i++) fillBlock(type, data.subarray(i * bytes, (i + 1) * bytes), next, deviation)
    return { type, rows, columns, data }
  }
  const view = new DataView(data.buffer)
  for (let i = 0; i < count; i++) {
    const x = one(next, next() < 0.9 ? 'normal' : 'tiny') * deviation
    if (type === 'F32') view.setFloat32(4 * i, x, true)
    else if (type === 'F16') view.setUint16(2 * i, toF16(x), true)
    else {
      scratch.setFloat32(0, x)
      view.setUint16(2 * i, scratch.getUint16(0), true)
    }
  }
  return { type, rows, columns, data }
}

/** How tokens choose experts. `one`: all the same k; `idle`: only a few experts are ever used. */
export type Skew = 'even' | 'one' | 'idle'
export const skews: Skew[] = ['even', 'one', 'idle']

/** [tokens][k] distinct expert ids. */
export function choices(tokens: number, k: number, experts: number, skew: Skew, next: Random): Int32Array {
  const ids = new Int32Array(tokens * k)
  const used = skew === 'even' ? experts : skew === 'one' ? k : Math.min(experts, k + 1)
  const first = Math.floor(next() * experts)
  for (let t = 0; t < tokens; t++) {
    const free = Array.from({ length: used }, (_, i) => (first + i) % experts)
    for (let s = 0; s < k; s++) ids[t * k + s] = free.splice(Math.floor(next() * free.length), 1)[0]!
  }
  return ids
}
