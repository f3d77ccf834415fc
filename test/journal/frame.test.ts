import { createRequire } from 'node:module'
import t from 'tap'
import { crc32 } from '../../lib/journal/crc32.js'
import { encodeRecord, scanRecords } from '../../lib/journal/frame.js'
import type { JournalRecord } from '../../lib/journal/records.js'

const zlib = createRequire(import.meta.url)('node:zlib') as { crc32?: (bytes: Uint8Array, start?: number) => number }

t.test('the checksum is that of zlib', async (t) => {
  t.equal(crc32(Buffer.from('123456789')), 0xcbf43926, 'the published check value')
  t.equal(crc32(Buffer.alloc(0)), 0)
  const bytes = Buffer.from(Array.from({ length: 1000 }, (_, i) => (i * 7919) & 255))
  t.equal(crc32(bytes.subarray(300), crc32(bytes.subarray(0, 300))), crc32(bytes), 'in two pieces')
  if (zlib.crc32) t.equal(crc32(bytes), zlib.crc32(bytes))
})

const records: JournalRecord[] = [
  { type: 'failed', id: 'a', code: 'CANCELLED', at: 1 },
  { type: 'acknowledged', id: 'ü ÿ TMJ \u{10ffff}', at: 2 },
  { type: 'tokens', id: 'b', from: 0, tokens: [1, 2, 3], delivered: 1 }
]
const encoded = records.map(encodeRecord)
const all = Buffer.concat(encoded)

t.test('records come back as they were', async (t) => {
  const { records: found, damage, tail } = scanRecords(all)
  t.same(
    found.map(({ record }) => record),
    records
  )
  t.same(
    found.map(({ bytes }) => bytes),
    encoded.map(({ length }) => length)
  )
  t.same([damage, tail], [[], undefined])
})

t.test('cut anywhere, what is before the cut is read and what is left over is named', async (t) => {
  const ends = encoded.map((_, i) => Buffer.concat(encoded.slice(0, i + 1)).length)
  for (let length = 0; length <= all.length; length++) {
    const scan = scanRecords(all.subarray(0, length))
    const whole = ends.filter((end) => end <= length).length
    const begin = ends[whole - 1] ?? 0
    const expected = length === begin ? undefined : { offset: begin, bytes: length - begin, reason: 'incomplete' }
    if (scan.records.length !== whole || scan.damage.length > 0)
      t.fail(`${length} bytes: ${scan.records.length} records`)
    t.same(scan.tail, expected, `${length} bytes`)
  }
})

t.test('every flipped bit is found, and the records around it are read', async (t) => {
  const second = encoded[0]!.length
  const third = second + encoded[1]!.length
  for (let at = second; at < third; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const bytes = Buffer.from(all)
      bytes[at]! ^= 1 << bit
      const { records: found, damage, tail } = scanRecords(bytes)
      const sound = found.length === 2 && damage.length === 1 && tail === undefined
      if (!sound || damage[0]!.offset !== second || damage[0]!.bytes !== third - second) {
        t.fail(`bit ${bit} of byte ${at}: ${JSON.stringify({ found: found.length, damage, tail })}`)
      }
    }
  }
  t.pass(`${(third - second) * 8} bits`)
})

t.test('a payload that is sound but no record', async (t) => {
  const strange = encodeRecord({ type: 'later' } as never)
  t.match(scanRecords(Buffer.concat([encoded[0]!, strange])).tail, { reason: 'content' })
})

t.test('heads that claim what others lie in are passed over once, not once for each', async (t) => {
  const bytes = Buffer.alloc(2 ** 21)
  let heads = 0
  for (let at = 0; at + 12 <= bytes.length; at += 12, heads++) {
    encoded[0]!.copy(bytes, at, 0, 4)
    bytes.writeUInt32LE(bytes.length - at - 12, at + 4)
  }
  encoded[0]!.copy(bytes, bytes.length - encoded[0]!.length)
  const { records: found, damage } = scanRecords(bytes)
  t.equal(found.length, 1, `the record behind ${heads} heads`)
  t.match(damage, [{ offset: 0, bytes: bytes.length - encoded[0]!.length, reason: 'checksum' }])
})
