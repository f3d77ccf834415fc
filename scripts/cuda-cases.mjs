// Writes the golden cases of test/golden, requests and frozen results, as one binary file for the self-test of csrc/cuda, which has no
// JavaScript:  node scripts/cuda-cases.mjs OUT
// "TMOECASE", then a record for each case: kernel and name, a count of fields, and per field its name, a kind (0: float64, 1: text, 2: array
// with the size of an element and the bytes) and the value. Numbers are little-endian, texts have their length before them. A result's name
// begins with "="; a frozen SHA-256 is a text.
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { caseNames, kernels, request } from '../test/golden/cases.mjs'

const golden = join(dirname(fileURLToPath(import.meta.url)), '..', 'test', 'golden')
const chunks = [Buffer.from('TMOECASE')]

const u32 = (n) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(n)
  return bytes
}
const text = (value) => [u32(Buffer.byteLength(value)), Buffer.from(value)]

function field(name, value) {
  if (ArrayBuffer.isView(value)) {
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
    return [...text(name), u32(2), u32(value.BYTES_PER_ELEMENT), u32(bytes.length), bytes]
  }
  if (typeof value === 'string') return [...text(name), u32(1), ...text(value)]
  const number = Buffer.alloc(8)
  number.writeDoubleLE(Number(value))
  return [...text(name), u32(0), number]
}

/** `{ gate: { type, data } }` as `gate.type`, `gate.data`. */
const flat = (value, prefix = '') =>
  Object.entries(value).flatMap(([name, inner]) =>
    typeof inner === 'object' && inner !== null && !ArrayBuffer.isView(inner)
      ? flat(inner, `${prefix}${name}.`)
      : inner === undefined
        ? []
        : [[prefix + name, inner]]
  )

/** A frozen result: the bytes of its words, or their SHA-256. */
function frozen(name, value) {
  if (typeof value === 'number') return field(`=${name}`, value)
  if (value.sha256 !== undefined) return field(`=${name}`, value.sha256)
  const words = value.bits.flatMap((line) => line.split(' ')).filter(Boolean)
  return field(`=${name}`, Uint8Array.from(words.flatMap((word) => [...Buffer.from(word, 'hex').reverse()])))
}

for (const kernel of kernels) {
  const file = kernel.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
  const { cases } = JSON.parse(readFileSync(join(golden, `${file}.json`), 'utf8'))
  for (const name of caseNames(kernel)) {
    const fields = flat(request(kernel, name)).map(([key, value]) => field(key, value))
    fields.push(...Object.entries(cases[name].output).map(([key, value]) => frozen(key, value)))
    chunks.push(...text(kernel), ...text(name), u32(fields.length), ...fields.flat())
  }
}
writeFileSync(process.argv[2], Buffer.concat(chunks))
