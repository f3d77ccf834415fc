// How inputs and outputs stand in the golden files: bits as hex words, eight in a line; SHA-256 of the bytes above 1,024 numbers.
import { createHash } from 'node:crypto'

const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')
const bytesOf = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)

/** Numbers of an array as the file holds them. */
function bits(array) {
  const size = array.BYTES_PER_ELEMENT
  const bytes = bytesOf(array)
  const words = Array.from({ length: array.length }, (_, i) =>
    Buffer.from(bytes.subarray(i * size, (i + 1) * size))
      .reverse()
      .toString('hex')
  )
  const lines = []
  for (let i = 0; i < words.length; i += 8) lines.push(words.slice(i, i + 8).join(' '))
  return lines
}

const freezeArray = (array) =>
  array.length > 1024
    ? { type: array.constructor.name, length: array.length, sha256: sha256(bytesOf(array)) }
    : { type: array.constructor.name, length: array.length, bits: bits(array) }

/** A result as the file holds it: arrays by name, numbers as f32 bits (a token id as it is). */
export function freeze(result) {
  if (ArrayBuffer.isView(result)) return { out: freezeArray(result) }
  return Object.fromEntries(
    Object.entries(result).flatMap(([name, value]) => {
      if (ArrayBuffer.isView(value)) return [[name, freezeArray(value)]]
      if (name === 'token') return [[name, value]]
      if (typeof value === 'number') return [[name, freezeArray(Float32Array.of(value))]]
      return Object.entries(freeze(value)).map(([inner, frozen]) => [`${name}.${inner}`, frozen])
    })
  )
}

/** SHA-256 over a request, so that a change of the generator is not taken for one of a kernel. */
export function inputHash(request) {
  const hash = createHash('sha256')
  const add = (value) => {
    if (ArrayBuffer.isView(value)) hash.update(bytesOf(value))
    else if (typeof value === 'object' && value !== null) for (const inner of Object.values(value)) add(inner)
    else hash.update(`${value};`)
  }
  add(request)
  return hash.digest('hex')
}
