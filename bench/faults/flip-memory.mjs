// Flips one bit of another process' memory: in what it holds of 64 bytes of a file, wherever that is in its private memory.
//   node flip-memory.mjs PID FILE OFFSET
import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs'

const [pid, file, offset] = process.argv.slice(2)
const wanted = Buffer.alloc(64)
const source = openSync(file, 'r')
readSync(source, wanted, 0, wanted.length, Number(offset))
closeSync(source)

const memory = openSync(`/proc/${pid}/mem`, 'r+')
let flipped = 0
for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
  const [, from, to, inode] = /^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ (\d+)/.exec(line) ?? []
  if (inode !== '0') continue
  const [begin, size] = [Number.parseInt(from, 16), Number.parseInt(to, 16) - Number.parseInt(from, 16)]
  if (size > 2 ** 30) continue
  const bytes = Buffer.alloc(size)
  try {
    readSync(memory, bytes, 0, size, begin)
  } catch {
    continue
  }
  for (let at = bytes.indexOf(wanted); at >= 0; at = bytes.indexOf(wanted, at + 1)) {
    writeSync(memory, Buffer.of(bytes[at] ^ 4), 0, 1, begin + at)
    flipped++
  }
}
console.log(`${flipped} places`)
process.exitCode = flipped > 0 ? 0 : 1
