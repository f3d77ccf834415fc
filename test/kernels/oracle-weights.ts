/** Block formats and int8 activations, written from their definitions and apart from csrc: what the oracles in doubles stand on. */
import type { DType, Matrix } from 'tiered-moe/kernels'
import { fromF16, toF16 } from '../fixtures/weights.js'
import { blockShape } from './values.js'

/** Nearest whole number, halves to even. */
export function nearestEven(x: number): number {
  const low = Math.floor(x)
  const rest = x - low
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1
  return low % 2 === 0 ? low : low + 1
}

const awayFromZero = (x: number) => Math.sign(x) * Math.floor(Math.abs(x) + 0.5)

/** What one block of codes means: `scale` applies to all, `sub` (types of 256) to 16 weights each; types with minimums take `dmin · minimum` off 32 weights each. */
interface Block {
  scale: number
  sub: number[]
  codes: number[]
  dmin?: number
  minimums?: number[]
}

/** The 6-bit numbers of a Q4_K or Q5_K block: of scale j (0 to 7), then of minimum j; the last four of each have their two high bits elsewhere. */
function sixBits(view: DataView, minimum: boolean, j: number): number {
  const byte = (i: number) => view.getUint8(4 + i)
  if (j < 4) return byte(minimum ? 4 + j : j) % 64
  const nibble = minimum ? Math.floor(byte(4 + j) / 16) : byte(4 + j) % 16
  return nibble + 16 * Math.floor(byte(minimum ? j : j - 4) / 64)
}

/** Sign, two bits of exponent, one of mantissa; the code of −0 counts as 0, as an integer does. */
function e2m1(code: number): number {
  const [exponent, mantissa] = [(code >> 1) & 3, code & 1]
  const magnitude = exponent === 0 ? mantissa / 2 : (1 + mantissa / 2) * 2 ** (exponent - 1)
  return code > 8 ? -magnitude : magnitude
}

/** What the four bits of IQ4_NL and IQ4_XS stand for. */
const iq4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]

/** Blocks of 32 codes of four or five bits: scale, with `minimum` that, with `bits` 5 a 32-bit number of the fifth ones, nibbles. */
function smallBlock(view: DataView, minimum: boolean, bits: 4 | 5, value: (code: number) => number): Block {
  const head = minimum ? 4 : 2
  const fifth = bits === 5 ? view.getUint32(head, true) : 0
  const nibble = (i: number) => Math.floor(view.getUint8(view.byteLength - 16 + (i % 16)) / (i < 16 ? 1 : 16)) % 16
  return {
    scale: fromF16(view.getUint16(0, true)),
    sub: [1, 1],
    codes: Array.from({ length: 32 }, (_, i) => value(nibble(i) + 16 * (Math.floor(fifth / 2 ** i) % 2))),
    ...(minimum && { dmin: -fromF16(view.getUint16(2, true)), minimums: [1] })
  }
}

function blockAt(type: DType, data: Uint8Array, at: number): Block {
  const view = new DataView(data.buffer, data.byteOffset + at, blockShape[type][1])
  if (type === 'Q8_0') {
    const codes = Array.from({ length: 32 }, (_, i) => view.getInt8(2 + i))
    return { scale: fromF16(view.getUint16(0, true)), sub: [1, 1], codes }
  }
  if (type === 'Q4_0') {
    const nibble = (i: number) => (i < 16 ? view.getUint8(2 + i) & 15 : view.getUint8(2 + i - 16) >> 4)
    return {
      scale: fromF16(view.getUint16(0, true)),
      sub: [1, 1],
      codes: Array.from({ length: 32 }, (_, i) => nibble(i) - 8)
    }
  }
  if (type === 'MXFP4') {
    const nibble = (i: number) => (i < 16 ? view.getUint8(1 + i) & 15 : view.getUint8(1 + i - 16) >> 4)
    return {
      scale: 2 ** (view.getUint8(0) - 127),
      sub: [1, 1],
      codes: Array.from({ length: 32 }, (_, i) => e2m1(nibble(i)))
    }
  }
  if (type === 'Q4_1') return smallBlock(view, true, 4, (code) => code)
  if (type === 'Q5_0') return smallBlock(view, false, 5, (code) => code - 16)
  if (type === 'Q5_1') return smallBlock(view, true, 5, (code) => code)
  if (type === 'IQ4_NL') return smallBlock(view, false, 4, (code) => iq4[code]!)
  if (type === 'IQ4_XS') {
    const high = view.getUint16(2, true)
    const scale = (b: number) =>
      (Math.floor(view.getUint8(4 + (b >> 1)) / (b % 2 ? 16 : 1)) % 16) + 16 * (Math.floor(high / 4 ** b) % 4) - 32
    const code = (i: number) => Math.floor(view.getUint8(8 + 16 * (i >> 5) + (i % 16)) / (i & 16 ? 16 : 1)) % 16
    return {
      scale: fromF16(view.getUint16(0, true)),
      sub: Array.from({ length: 16 }, (_, i) => scale(i >> 1)),
      codes: Array.from({ length: 256 }, (_, i) => iq4[code(i)]!)
    }
  }
  if (type === 'Q4_K' || type === 'Q5_K') {
    const codesAt = type === 'Q4_K' ? 16 : 48
    const fifth = (i: number) => (type === 'Q4_K' ? 0 : Math.floor(view.getUint8(16 + (i & 31)) / 2 ** (i >> 5)) % 2)
    const eight = (minimum: boolean) => Array.from({ length: 8 }, (_, j) => sixBits(view, minimum, j))
    return {
      scale: fromF16(view.getUint16(0, true)),
      sub: eight(false).flatMap((scale) => [scale, scale]),
      codes: Array.from(
        { length: 256 },
        (_, i) => ((view.getUint8(codesAt + 32 * (i >> 6) + (i & 31)) >> (i & 32 ? 4 : 0)) & 15) + 16 * fifth(i)
      ),
      dmin: fromF16(view.getUint16(2, true)),
      minimums: eight(true)
    }
  }
  const codes = Array.from({ length: 256 }, (_, i) => {
    const half = i >> 7
    const quarter = (i >> 5) & 3
    const l = i & 31
    const byte = view.getUint8(64 * half + l + (quarter & 1) * 32)
    const low = quarter < 2 ? byte & 15 : byte >> 4
    const high = (view.getUint8(128 + 32 * half + l) >> (2 * quarter)) & 3
    return low + 16 * high - 32
  })
  return {
    scale: fromF16(view.getUint16(208, true)),
    sub: Array.from({ length: 16 }, (_, i) => view.getInt8(192 + i)),
    codes
  }
}

/** The weights of one row as floats; exact but for one rounding of Q6_K and of types with minimums. */
export function decodeRow({ type, columns, data }: Matrix, row: number): Float32Array {
  const [block, bytes] = blockShape[type]
  const out = new Float32Array(columns)
  const start = (row * columns * bytes) / block
  const view = new DataView(data.buffer, data.byteOffset, data.length)
  for (let c = 0; c < columns; c += block) {
    const at = start + (c / block) * bytes
    if (type === 'F32') out[c] = view.getFloat32(at, true)
    else if (type === 'F16') out[c] = fromF16(view.getUint16(at, true))
    else if (type === 'BF16') out[c] = new Float32Array(Uint32Array.of(view.getUint16(at, true) << 16).buffer)[0]!
    else {
      const { scale, sub, codes, dmin = 0, minimums = [] } = blockAt(type, data, at)
      for (let i = 0; i < block; i++) {
        const product = scale * sub[i >> 4]! * codes[i]!
        out[c + i] = minimums.length > 0 ? product - dmin * minimums[i >> 5]! : product
      }
    }
  }
  return out
}

/** The encoding of one row, bit for bit. */
export function encodeRow(type: DType, x: Float32Array): Uint8Array {
  const [block, bytes] = blockShape[type]
  const out = new Uint8Array((x.length / block) * bytes)
  const view = new DataView(out.buffer)
  const f = Math.fround
  for (let i = 0, at = 0; i < x.length; i += block, at += bytes) {
    const part = Array.from(x.subarray(i, i + block))
    if (type === 'F32') view.setFloat32(at, part[0]!, true)
    else if (type === 'F16') view.setUint16(at, toF16(part[0]!), true)
    else if (type === 'BF16') {
      const bits = new Uint32Array(Float32Array.of(part[0]!).buffer)[0]!
      view.setUint16(at, (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16, true)
    } else {
      const largest = part.reduce((m, v) => (Math.abs(v) > Math.abs(m) ? v : m), 0)
      const d = type === 'Q8_0' ? f(Math.abs(largest) / 127) : f(largest / -8)
      const inverse = Number.isFinite(f(1 / d)) ? f(1 / d) : 0
      view.setUint16(at, toF16(d), true)
      if (type === 'Q8_0') for (let j = 0; j < 32; j++) view.setInt8(at + 2 + j, awayFromZero(f(part[j]! * inverse)))
      const nibble = (v: number) => Math.min(15, Math.trunc(f(f(v * inverse) + 8.5)))
      if (type === 'Q4_0')
        for (let j = 0; j < 16; j++) view.setUint8(at + 2 + j, nibble(part[j]!) | (nibble(part[j + 16]!) << 4))
    }
  }
  return out
}

interface Activation {
  codes: number[]
  scale: number
}

/** A row of activations per block of 32, as the arithmetic contract says. */
export function quantiseActivations(x: ArrayLike<number>): Activation[] {
  const out: Activation[] = []
  for (let i = 0; i < x.length; i += 32) {
    const part = Array.from({ length: 32 }, (_, j) => x[i + j]!)
    const most = Math.max(...part.map(Math.abs))
    const zero = most < 2 ** -119
    const inverse = zero ? 0 : Math.fround(127 / most)
    out.push({
      codes: part.map((v) => nearestEven(Math.fround(v * inverse))),
      scale: zero ? 0 : Math.fround(most / 127)
    })
  }
  return out
}

/** A value, the sum of the magnitudes that made it and their number. */
export interface Reckoned {
  value: number
  scale: number
  terms: number
}

/** Row `row` of a matrix times x (floats, or doubles that stand for floats), in doubles with exact integer sums. */
export function dotRow(matrix: Matrix, row: number, x: ArrayLike<number>): Reckoned {
  const { type, columns, data } = matrix
  const [block, bytes] = blockShape[type]
  const out = { value: 0, scale: 0, terms: 0 }
  const add = (term: number) => {
    out.value += term
    out.scale += Math.abs(term)
    out.terms++
  }
  /** A product of scales below 2^-126 is rounded to a multiple of 2^-149, half of which the sum multiplies: 2^-24 of 2^-126. */
  const addBlock = (scales: number, sum: number) => {
    add(scales * sum)
    if (Math.abs(scales) < 2 ** -126) out.scale += Math.abs(sum) * 2 ** -126
  }
  if (block === 1) {
    const weights = decodeRow(matrix, row)
    for (let c = 0; c < columns; c++) add(weights[c]! * x[c]!)
    return out
  }
  const activations = quantiseActivations(x)
  for (let c = 0; c < columns; c += block) {
    const { scale, sub, codes, dmin = 0, minimums } = blockAt(type, data, ((row * columns + c) / block) * bytes)
    for (let part = 0; part < block; part += 32) {
      const a = activations[(c + part) / 32]!
      let sum = 0
      for (let i = 0; i < 32; i++) sum += sub[(part + i) >> 4]! * codes[part + i]! * a.codes[i]!
      addBlock(scale * a.scale, sum)
      const total = a.codes.reduce((total, code) => total + code, 0)
      if (minimums) addBlock(dmin * a.scale, -minimums[part / 32]! * total)
    }
  }
  return out
}
