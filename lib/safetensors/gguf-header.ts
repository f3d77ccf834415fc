/** The header of a GGUF file, as bytes: what a model of another format looks like to the addon. Format: the GGUF specification, version 3. */

/** Ids of the format. */
const valueTypes = { u32: 4, f32: 6, bool: 7, string: 8 } as const
export const tensorTypes = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 8, BF16: 30, MXFP4: 39 } as const
export type HeaderTensorType = keyof typeof tensorTypes

export type MetadataValue =
  | { type: 'u32'; value: number }
  | { type: 'f32'; value: number }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }

export interface HeaderTensor {
  name: string
  type: HeaderTensorType
  /** Innermost first. */
  shape: readonly number[]
  bytes: number
}

export const ALIGNMENT = 32
const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

/** Bytes that grow by doubling. */
class Bytes {
  #buffer = Buffer.alloc(1 << 16)
  length = 0

  /** Where the next `count` bytes begin. */
  #take(count: number): number {
    const at = this.length
    this.length += count
    if (this.length > this.#buffer.length) {
      const larger = Buffer.alloc(Math.max(this.length, 2 * this.#buffer.length))
      this.#buffer.copy(larger)
      this.#buffer = larger
    }
    return at
  }
  u8(value: number): void {
    const at = this.#take(1)
    this.#buffer.writeUInt8(value, at)
  }
  u32(value: number): void {
    const at = this.#take(4)
    this.#buffer.writeUInt32LE(value, at)
  }
  u64(value: number): void {
    const at = this.#take(8)
    this.#buffer.writeBigUInt64LE(BigInt(value), at)
  }
  f32(value: number): void {
    const at = this.#take(4)
    this.#buffer.writeFloatLE(value, at)
  }
  text(value: string): void {
    const bytes = Buffer.byteLength(value)
    this.u64(bytes)
    const at = this.#take(bytes)
    this.#buffer.write(value, at)
  }
  /** Up to the alignment. */
  finish(): Uint8Array {
    this.#take(aligned(this.length) - this.length)
    return this.#buffer.subarray(0, this.length)
  }
}

function writeValue(to: Bytes, entry: MetadataValue): void {
  to.u32(valueTypes[entry.type])
  if (entry.type === 'string') to.text(entry.value)
  else if (entry.type === 'bool') to.u8(entry.value ? 1 : 0)
  else if (entry.type === 'u32') to.u32(entry.value)
  else to.f32(entry.value)
}

/** A header with its padding, and the bytes of the data that follow it: tensors in order, each padded. */
export function ggufHeader(
  metadata: ReadonlyMap<string, MetadataValue>,
  tensors: readonly HeaderTensor[]
): { header: Uint8Array; dataBytes: number } {
  const to = new Bytes()
  for (const c of 'GGUF') to.u8(c.charCodeAt(0))
  to.u32(3)
  to.u64(tensors.length)
  to.u64(metadata.size)
  for (const [key, value] of metadata) {
    to.text(key)
    writeValue(to, value)
  }
  let dataBytes = 0
  for (const { name, type, shape, bytes } of tensors) {
    to.text(name)
    to.u32(shape.length)
    for (const size of shape) to.u64(size)
    to.u32(tensorTypes[type])
    to.u64(dataBytes)
    dataBytes += aligned(bytes)
  }
  return { header: to.finish(), dataBytes }
}
