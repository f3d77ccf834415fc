// Writes a Q8_0 GGUF file again with F32 or F16 weights, so that a checkout without the shared folder has every type to test.
import { rewriteGguf } from './rewrite.mjs'

const typeQ8 = 8
const types = { f32: { id: 0, bytes: 4 }, f16: { id: 1, bytes: 2 } }
const word = new DataView(new ArrayBuffer(4))

/** A float that is a multiple of an F16 scale to F16 bits, round to nearest even. */
function toF16(value) {
  word.setFloat32(0, value)
  const bits = word.getUint32(0)
  const [sign, magnitude] = [(bits >>> 16) & 0x8000, bits & 0x7fffffff]
  if (magnitude >= 0x38800000) return sign | ((magnitude + 0xfff + ((magnitude >>> 13) & 1) - 0x38000000) >>> 13)
  // Below the normal range: a multiple of 2^-24.
  const steps = Math.abs(value) * 2 ** 24
  const low = Math.floor(steps)
  const rest = steps - low
  return sign | (rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low)
}

function fromF16(bits) {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023]
  const magnitude = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15)
  return bits & 0x8000 ? -magnitude : magnitude
}

/** One tensor's data with its Q8_0 blocks written out. */
function widenData(data, count, type) {
  const out = Buffer.alloc(count * type.bytes)
  for (let i = 0; i < count; i++) {
    const block = Math.floor(i / 32) * 34
    const value = fromF16(data.readUInt16LE(block)) * data.readInt8(block + 2 + (i % 32))
    if (type.id === 0) out.writeFloatLE(value, i * 4)
    else out.writeUInt16LE(toF16(value), i * 2)
  }
  return out
}

/** `to`: f32 or f16. Metadata are kept as they are; tensors that are not Q8_0 stay what they are (F32 norms and routers). */
export function widen(source, target, to) {
  rewriteGguf(source, target, (tensor, data) => {
    const count = tensor.shape.reduce((product, n) => product * n, 1)
    if (tensor.type !== typeQ8) return [{ ...tensor, data: data.subarray(0, count * 4) }]
    return [{ ...tensor, type: types[to].id, data: widenData(data, count, types[to]) }]
  })
}
