// ggml reads the same numbers: random blocks of every quantised type, decoded here and by ggml's own dequantize_row_*, bit for bit.
//   PEER_GGML=LLAMA_CPP/build/bin/libggml-base.so node bench/peer-types.mjs     (needs python3, for its ctypes)
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { dtypes, openBackend, packedBytes } from '../dist/esm/kernels.js'
import { outputFolder, seededRandom } from './harness.mjs'

const library = process.env.PEER_GGML
if (!library || !existsSync(library)) {
  console.log('skipped: PEER_GGML names no libggml-base.so')
  process.exit(0)
}
/** Calls one function of ggml: blocks from a file, floats to another. */
const program = `
import ctypes, sys
library, function, source, target, count = sys.argv[1:]
data, out = open(source, 'rb').read(), (ctypes.c_float * int(count))()
getattr(ctypes.CDLL(library), function)(ctypes.c_char_p(data), out, ctypes.c_int64(int(count)))
open(target, 'wb').write(bytes(out))
`
const weights = 1 << 16
/** Places of a block's f16 numbers, which are made finite. */
const halves = { Q4_1: [0, 2], Q5_1: [0, 2], Q4_K: [0, 2], Q5_K: [0, 2], Q6_K: [208], MXFP4: [] }

mkdirSync(outputFolder, { recursive: true })
const [source, target] = ['blocks', 'floats'].map((name) => join(outputFolder, `peer-types-${process.pid}.${name}`))
const backend = openBackend('cpu')
let failures = 0
for (const type of dtypes.filter((name) => !['F32', 'F16', 'BF16'].includes(name))) {
  const random = seededRandom(7)
  const data = Uint8Array.from({ length: packedBytes(type, 16, weights / 16) }, () => Math.floor(random() * 256))
  const bytes = packedBytes(type, 16, 256) / 16 / (type.endsWith('_K') || type === 'IQ4_XS' ? 1 : 8)
  for (let at = 0; at < data.length; at += bytes)
    for (const place of halves[type] ?? [0]) if ((data[at + place + 1] & 0x7c) === 0x7c) data[at + place + 1] ^= 0x40
  writeFileSync(source, data)
  const name = type.endsWith('_K') ? type.replace('Q', 'q') : type.toLowerCase()
  execFileSync('python3', ['-c', program, library, `dequantize_row_${name}`, source, target, String(weights)])
  const own = backend.sync.dequantize({ type, data, columns: weights })
  const [a, b] = [new Uint32Array(own.buffer, own.byteOffset, weights), new Uint32Array(readFileSync(target).buffer)]
  const different = a.findIndex((bits, i) => bits !== b[i])
  if (different >= 0) failures++
  console.log(different < 0 ? `${type}: ${weights} weights equal` : `${type}: DIFFERS at weight ${different}`)
}
backend.dispose()
for (const path of [source, target]) rmSync(path, { force: true })
process.exitCode = failures ? 1 : 0
