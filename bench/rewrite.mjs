// Writes a GGUF file again with other tensors and more metadata. Format: the GGUF specification (ggml's docs/gguf.md).
import { readFileSync, writeFileSync } from 'node:fs'

const scalarBytes = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 }
const [u32Type, stringType, arrayType, alignment] = [4, 8, 9, 32]

/** Walks over the header of a file that is known to be sound: where metadata begin and end, and the tensors. */
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
  const metadataStart = at
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
  return { entryCount, metadataStart, metadataEnd, tensors, dataStart: Math.ceil(at / alignment) * alignment }
}

const u32Bytes = (value) => Buffer.from(Uint32Array.of(value).buffer)
const u64Bytes = (value) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
const textBytes = (text) => [u64Bytes(Buffer.byteLength(text)), Buffer.from(text)]

/** A metadata entry: whole numbers, or a list of these or of texts. */
function entryBytes(key, value) {
  if (!Array.isArray(value)) return [...textBytes(key), u32Bytes(u32Type), u32Bytes(value)]
  const texts = typeof value[0] === 'string'
  const head = [...textBytes(key), u32Bytes(arrayType), u32Bytes(texts ? stringType : u32Type), u64Bytes(value.length)]
  return [...head, ...value.flatMap((item) => (texts ? textBytes(item) : [u32Bytes(item)]))]
}

/**
 * `change(tensor, data)` gives the tensors `{ name, shape, type, data }` that stand in place of one; `data` is the file from the tensor's
 * first byte on. `metadata`: entries that come after the file's own.
 */
export function rewriteGguf(source, target, change, metadata = {}) {
  const file = readFileSync(source)
  const { entryCount, metadataStart, metadataEnd, tensors, dataStart } = readHeader(file)
  const made = tensors.flatMap((tensor) => change(tensor, file.subarray(dataStart + tensor.offset)))
  const added = Object.entries(metadata)
  const header = [
    file.subarray(0, 8),
    u64Bytes(made.length),
    u64Bytes(entryCount + added.length),
    file.subarray(metadataStart, metadataEnd),
    ...added.flatMap(([key, value]) => entryBytes(key, value))
  ]
  const data = []
  let offset = 0
  for (const { name, shape, type, data: bytes } of made) {
    header.push(...textBytes(name), u32Bytes(shape.length), ...shape.map(u64Bytes), u32Bytes(type), u64Bytes(offset))
    const padding = Buffer.alloc((alignment - (bytes.length % alignment)) % alignment)
    data.push(bytes, padding)
    offset += bytes.length + padding.length
  }
  const headerBytes = header.reduce((sum, part) => sum + part.length, 0)
  header.push(Buffer.alloc((alignment - (headerBytes % alignment)) % alignment))
  writeFileSync(target, Buffer.concat([...header, ...data]))
}
