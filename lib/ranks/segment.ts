/** What one EP rank hands to another: rows with where they belong, and a checksum over all of it. */
import { createError } from '../errors/index.js'
import { native } from '../native.js'

export interface SegmentHeader {
  /** `states` go to the rank that owns their experts, `results` come back. */
  kind: 'states' | 'results'
  /** Number of the exchange in its group, from 0. */
  exchange: number
  source: number
  destination: number
  /** Experts of each token, and floats of each row. */
  k: number
  width: number
}

export interface SegmentArrays {
  /** [rows] token · k + choice, tokens counted at the rank that they belong to; ascending within an expert. */
  slots: Uint32Array
  /** [rows] expert ids, ascending. */
  experts: Int32Array
  /** [rows] router weights. */
  weights: Float32Array
  /** [rows][width] f32. */
  rows: Float32Array
}

export interface Segment extends SegmentHeader, SegmentArrays {
  /** CRC-32C over the header's words and the arrays, in the order of these interfaces. */
  checksum: number
}

const arrayTypes = { slots: Uint32Array, experts: Int32Array, weights: Float32Array, rows: Float32Array } as const

function checksumOf(header: SegmentHeader, { slots, experts, weights, rows }: SegmentArrays): number {
  const { kind, exchange, source, destination, k, width } = header
  const words = Uint32Array.of(kind === 'states' ? 0 : 1, exchange, source, destination, k, width, slots.length)
  const { crc32c } = native()
  return [words, slots, experts, weights, rows].reduce(
    (crc, { buffer, byteOffset, byteLength }) => crc32c(new Uint8Array(buffer, byteOffset, byteLength), crc),
    0
  )
}

/** Closes a segment. The arrays are the caller's and are not copied. */
export function seal(header: SegmentHeader, arrays: SegmentArrays): Segment {
  return { ...header, ...arrays, checksum: checksumOf(header, arrays) }
}

/**
 * Throws DISPATCH_SEGMENT_CORRUPTED {field, expected, actual, source, destination} where a segment is another than the one expected, or
 * has changed since it was sealed.
 */
export function checkSegment(segment: Segment, expected: SegmentHeader): void {
  const { source, destination, kind } = expected
  const differ = (field: string, wanted: unknown, found: unknown) => {
    if (wanted === found) return
    const text = `the segment of ${kind} from rank ${source} to rank ${destination}: ${field} is ${String(found)}, expected ${String(wanted)}`
    throw createError('DISPATCH_SEGMENT_CORRUPTED', text, {
      source,
      destination,
      kind,
      field,
      expected: wanted,
      actual: found
    })
  }
  if (typeof segment !== 'object' || segment === null) differ('the segment', 'an object', segment)
  for (const [field, Type] of Object.entries(arrayTypes))
    if (!(segment[field as keyof SegmentArrays] instanceof Type)) differ(field, `a ${Type.name}`, 'something else')
  for (const field of ['kind', 'exchange', 'source', 'destination', 'k', 'width'] as const)
    differ(field, expected[field], segment[field])
  const { slots, experts, weights, rows } = segment
  differ('number of expert ids', slots.length, experts.length)
  differ('number of weights', slots.length, weights.length)
  differ('number of floats', slots.length * segment.width, rows.length)
  differ('checksum', checksumOf(segment, segment), segment.checksum)
}

/** Throws DISPATCH_SEGMENT_CORRUPTED where results are not those of the rows that were sent. */
export function checkResults(results: Segment, sent: Segment): void {
  const same = (a: ArrayBufferView, b: ArrayBufferView) =>
    Buffer.compare(
      new Uint8Array(a.buffer, a.byteOffset, a.byteLength),
      new Uint8Array(b.buffer, b.byteOffset, b.byteLength)
    ) === 0
  for (const field of ['slots', 'experts', 'weights'] as const) {
    if (same(results[field], sent[field])) continue
    const { source, destination, kind } = results
    const text = `the segment of ${kind} from rank ${source} to rank ${destination} has other ${field} than those that were sent`
    throw createError('DISPATCH_SEGMENT_CORRUPTED', text, { source, destination, kind, field })
  }
}
