// Writes a Q8_0 GGUF file again with F32 or F16 weights, so that a checkout without the shared folder has every type to test.
// Format: the GGUF specification (ggml's docs/gguf.md).
import { readFileSync, writeFileSync } from 'node:fs'

const scalarBytes = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 }
const [stringType, arrayType, typeQ8, alignment] = [8, 9, 8, 32]
const types = { f32: { id: 0, bytes: 4 }, f16: { id: 1, bytes: 2 } }

/** Walks over the header of a file that is known to be sound: where metadata ends, and the tensors. */
function readHeader(file) {
  let at = 8
  const take = (bytes) => {
    at += bytes
    return at - bytes
  }
  const u32 = () => file.readUInt32LE(take(4))
  const u64 = () => Number(file.readBigUInt64LE(take(8)))
  const text = () => {
    const length = u64()
    const from = take(length)
    return file.toString('utf8', from, from + length)
  }
  const skip = (type) => {
    if (type === stringType) text()
    else if (type === arrayType) {
      const element = u32()
      for (let left = u64(); left > 0; left--) skip(element)
    } else at += scalarBytes[type]
  }
  const [tensorCount, entryCount] = [u64(), u64()]
  for (let i = 0; i < entryCount; i++) {
    text()
    skip(u32())
  }
  const metadataEnd = at
  const tensors = Array.from({ length: tensorCount }, () => {
    const name = text()
    const shape = Array.from({ length: u32() }, u64)
    return { name, shape, type: u32(), offset: u64() }
  })
  return { metadataEnd, tensors, dataStart: Math.ceil(at / alignment) * alignment }
}

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
function widenData(file, from, count, type) {
  const out = Buffer.alloc(count * type.bytes)
  for (let i = 0; i < count; i++) {
    const block = from + Math.floor(i / 32) * 34
    const value = fromF16(file.readUInt16LE(block)) * file.readInt8(block + 2 + (i % 32))
    if (type.id === 0) out.writeFloatLE(value, i * 4)
    else out.writeUInt16LE(toF16(value), i * 2)
  }
  return out
}

/** `to`: f32 or f16. Metadata is kept as it is; tensors that are not Q8_0 stay what they are (F32 norms and routers). */
export function widen(source, target, to) {
  const file = readFileSync(source)
  const { metadataEnd, tensors, dataStart } = readHeader(file)
  const type = types[to]
  const header = [file.subarray(0, metadataEnd)]
  const data = []
  let offset = 0
  for (const tensor of tensors) {
    const count = tensor.shape.reduce((product, n) => product * n, 1)
    const from = dataStart + tensor.offset
    const wide = tensor.type === typeQ8
    const bytes = wide ? widenData(file, from, count, type) : file.subarray(from, from + count * 4)
    const name = Buffer.from(tensor.name)
    const info = Buffer.alloc(8 + name.length + 4 + 8 * tensor.shape.length + 12)
    let at = info.writeBigUInt64LE(BigInt(name.length))
    at += name.copy(info, at)
    at = info.writeUInt32LE(tensor.shape.length, at)
    for (const n of tensor.shape) at = info.writeBigUInt64LE(BigInt(n), at)
    at = info.writeUInt32LE(wide ? type.id : tensor.type, at)
    info.writeBigUInt64LE(BigInt(offset), at)
    header.push(info)
    const padding = Buffer.alloc((alignment - (bytes.length % alignment)) % alignment)
    data.push(bytes, padding)
    offset += bytes.length + padding.length
  }
  const headerBytes = header.reduce((sum, part) => sum + part.length, 0)
  header.push(Buffer.alloc((alignment - (headerBytes % alignment)) % alignment))
  writeFileSync(target, Buffer.concat([...header, ...data]))
}
