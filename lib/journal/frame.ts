/**
 * Records as bytes. Each is framed: magic F5 'T' 'M' 'J', then length and CRC-32 of the payload (u32, little-endian; the checksum covers
 * the length too), then the payload, JSON in UTF-8. The byte F5 never occurs in UTF-8, so a magic inside a payload is impossible and a
 * reader finds the next record behind damaged bytes.
 */
import { crc32 } from './crc32.js'
import type { JournalRecord } from './records.js'
import { recordSchema } from './records.js'

const magic = Buffer.from([0xf5, 0x54, 0x4d, 0x4a])
const headBytes = 12

/** Bytes that hold no record. */
export interface Damage {
  /** From the segment's begin, in bytes. */
  offset: number
  bytes: number
  reason: 'incomplete' | 'magic' | 'checksum' | 'content'
}

export interface Scan {
  records: { record: JournalRecord; bytes: number }[]
  /** Damage with sound records behind it: never the work of a crash. */
  damage: Damage[]
  /** What follows the last sound record: what a crash leaves, or damage at the very end. */
  tail: Damage | undefined
}

export function encodeRecord(record: JournalRecord): Buffer {
  const payload = Buffer.from(JSON.stringify(record))
  const bytes = Buffer.allocUnsafe(headBytes + payload.length)
  magic.copy(bytes)
  bytes.writeUInt32LE(payload.length, 4)
  bytes.writeUInt32LE(crc32(payload, crc32(bytes.subarray(4, 8))), 8)
  payload.copy(bytes, headBytes)
  return bytes
}

function readRecord(bytes: Buffer, at: number): { record: JournalRecord; end: number } | Damage['reason'] {
  const left = bytes.length - at
  if (bytes.compare(magic, 0, magic.length, at, at + Math.min(magic.length, left)) !== 0) {
    const begun = left < magic.length && magic.subarray(0, left).equals(bytes.subarray(at))
    return begun ? 'incomplete' : 'magic'
  }
  if (left < headBytes) return 'incomplete'
  const end = at + headBytes + bytes.readUInt32LE(at + 4)
  if (end > bytes.length) return 'incomplete'
  // None has a magic inside; looking at the sum of all that a damaged length claims would take the square of the segment's length.
  const next = bytes.indexOf(magic, at + headBytes)
  if (next >= 0 && next < end) return 'checksum'
  const payload = bytes.subarray(at + headBytes, end)
  if (crc32(payload, crc32(bytes.subarray(at + 4, at + 8))) !== bytes.readUInt32LE(at + 8)) return 'checksum'
  try {
    const result = recordSchema.safeParse(JSON.parse(payload.toString()))
    return result.success ? { record: result.data, end } : 'content'
  } catch {
    return 'content'
  }
}

/** Every sound record of a segment, and what lies between and behind them. */
export function scanRecords(bytes: Buffer): Scan {
  const scan: Scan = { records: [], damage: [], tail: undefined }
  let at = 0
  while (at < bytes.length) {
    const found = readRecord(bytes, at)
    if (typeof found === 'object') {
      scan.records.push({ record: found.record, bytes: found.end - at })
      at = found.end
      continue
    }
    let next = bytes.indexOf(magic, at + 1)
    while (next >= 0 && typeof readRecord(bytes, next) !== 'object') next = bytes.indexOf(magic, next + 1)
    const damage: Damage = { offset: at, bytes: (next < 0 ? bytes.length : next) - at, reason: found }
    if (next < 0) {
      scan.tail = damage
      break
    }
    scan.damage.push(damage)
    at = next
  }
  return scan
}
