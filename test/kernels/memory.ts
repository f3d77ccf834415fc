/**
 * Caller-owned memory with guard zones: every array stands inside a larger buffer, at an address that is a multiple of its element
 * only, and `damage` tells what a kernel did outside its outputs.
 */
export type Numbers = Float32Array | Int32Array | Uint32Array | Uint8Array | BigInt64Array
type Constructor<T extends Numbers> = { new (buffer: ArrayBuffer, offset: number, length: number): T }

const guardBytes = 192
const guard = 0xa5
const untouched = new Uint8Array(guardBytes + 64).fill(guard)

interface Zone {
  name: string
  bytes: Uint8Array
  from: number
  to: number
  /** What an input held; undefined for outputs. */
  held?: Uint8Array
}

export class Memory {
  readonly #zones: Zone[] = []

  #place<T extends Numbers>(name: string, type: Constructor<T>, length: number, element: number): T {
    // 8 mod 64 for 8-byte elements, else 4 mod 64: never the alignment that vectors like
    const from = guardBytes + Math.max(element, 4)
    const bytes = new Uint8Array(from + length * element + guardBytes).fill(guard)
    this.#zones.push({ name, bytes, from, to: from + length * element })
    return new type(bytes.buffer, from, length)
  }

  /** A copy of an input, which the kernel must not change. */
  input<T extends Numbers>(name: string, values: T): T {
    const copy = this.inout(name, values)
    const zone = this.#zones.at(-1)!
    zone.held = zone.bytes.slice(zone.from, zone.to)
    return copy
  }

  /** A copy that the kernel may change. */
  inout<T extends Numbers>(name: string, values: T): T {
    const copy = this.#place(name, values.constructor as Constructor<T>, values.length, values.BYTES_PER_ELEMENT)
    new Uint8Array(copy.buffer, copy.byteOffset, copy.byteLength).set(
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    )
    return copy
  }

  /** An output, full of the guard's bytes. */
  floats = (name: string, length: number) => this.#place(name, Float32Array, length, 4)
  ints = (name: string, length: number) => this.#place(name, Int32Array, length, 4)
  words = (name: string, length: number) => this.#place(name, Uint32Array, length, 4)
  longs = (name: string, length: number) => this.#place(name, BigInt64Array, length, 8)
  bytes = (name: string, length: number) => this.#place(name, Uint8Array, length, 1)

  /** The first byte that should not have changed, in words; undefined where all is well. */
  damage(): string | undefined {
    for (const { name, bytes, from, to, held } of this.#zones) {
      const inside = held && firstByte(bytes.subarray(from, to), held)
      if (inside !== undefined) return `input ${name} changed at byte ${inside}`
      const before = firstByte(bytes.subarray(0, from), untouched.subarray(0, from))
      if (before !== undefined) return `byte ${before - from} of ${name} (${to - from} long)`
      const after = firstByte(bytes.subarray(to), untouched.subarray(0, bytes.length - to))
      if (after !== undefined) return `byte ${to - from + after} of ${name} (${to - from} long)`
    }
    return undefined
  }
}

/** The index of the first byte that differs. */
function firstByte(found: Uint8Array, wanted: Uint8Array): number | undefined {
  if (Buffer.compare(found, wanted) === 0) return undefined
  return found.findIndex((byte, i) => byte !== wanted[i])
}

/** Where two arrays first differ in their bits, as text with the coordinate; undefined where they are equal. */
export function firstDifference(name: string, got: Numbers, expected: Numbers, row = 0): string | undefined {
  if (got.length !== expected.length) return `${name}: ${got.length} elements, expected ${expected.length}`
  const a = Buffer.from(got.buffer, got.byteOffset, got.byteLength)
  const b = Buffer.from(expected.buffer, expected.byteOffset, expected.byteLength)
  if (a.equals(b)) return undefined
  const size = got.BYTES_PER_ELEMENT
  let i = 0
  while (a.subarray(i * size, (i + 1) * size).equals(b.subarray(i * size, (i + 1) * size))) i++
  const at = row ? `[${Math.floor(i / row)}][${i % row}]` : `[${i}]`
  const bits = (from: Buffer) =>
    from
      .subarray(i * size, (i + 1) * size)
      .reverse()
      .toString('hex')
  return `${name}${at} = ${got[i]} (${bits(a)}), expected ${expected[i]} (${bits(b)})`
}
