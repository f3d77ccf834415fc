/** Reads a journal back: what its records add up to, what a crash has left behind them, and what is damaged. */
import { rename, truncate } from 'node:fs/promises'
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import { listSegments, readSegment, removeSegment, segmentPath, unwritable } from './files.js'
import type { Damage, Scan } from './frame.js'
import { scanRecords } from './frame.js'
import { journalFormat } from './records.js'
import { JournalState } from './state.js'

/** Bytes of a segment that hold no record. */
export interface DamagedBytes extends Damage {
  file: string
}

export interface JournalReading {
  state: JournalState
  /** Segments to go on from, ascending; empty for a new journal. */
  segments: { number: number; bytes: number }[]
  /** The unfinished end of a write that a crash cut short; it has been cut off. */
  cut: DamagedBytes | undefined
  /** With `salvage`: what could not be read. The segments must not be appended to. */
  damage: DamagedBytes[]
}

interface Segment extends Scan {
  number: number
  file: string
  bytes: number
  compacted: boolean
  /** Whether its first record says what it is. */
  sound: boolean
}

async function readSegments(folder: string, numbers: readonly number[]): Promise<Segment[]> {
  const segments: Segment[] = []
  for (const number of numbers) {
    const bytes = await readSegment(folder, number)
    const scan = scanRecords(bytes)
    const head = scan.records[0]?.record
    const file = segmentPath(folder, number)
    if (head?.type === 'segment' && head.format > journalFormat) {
      const text = `${file} has the format ${head.format}, this version reads up to ${journalFormat}`
      const details = { path: file, actual: head.format, supported: [journalFormat] }
      throw createError('JOURNAL_VERSION_UNSUPPORTED', text, details)
    }
    const sound = head?.type === 'segment' && head.number === number && scan.damage[0]?.offset !== 0
    const compacted = head?.type === 'segment' && head.compacted
    segments.push({ ...scan, number, file, bytes: bytes.length, compacted, sound })
  }
  return segments
}

/** What a crash never leaves: damage before the last record, a segment without its head or with a gap before it. */
function findDamage(segments: readonly Segment[], folder: string): DamagedBytes[] {
  const found: DamagedBytes[] = []
  const last = segments.at(-1)
  for (const [i, segment] of segments.entries()) {
    const { file, number, bytes, damage, tail, sound, compacted } = segment
    const expected = i === 0 ? 1 : segments[i - 1]!.number + 1
    if (sound && !compacted && number !== expected) {
      found.push({ file: segmentPath(folder, expected), offset: 0, bytes: 0, reason: 'incomplete' })
    }
    // A segment gets its name when its head is on disk.
    if (!sound && damage[0]?.offset !== 0) {
      found.push({ file, offset: 0, bytes, reason: tail?.offset === 0 ? tail.reason : 'incomplete' })
      if (damage.length === 0) continue
    }
    for (const one of damage) found.push({ file, ...one })
    if (tail && (segment !== last || tail.reason === 'content')) found.push({ file, ...tail })
  }
  return found
}

function corrupted(folder: string, damage: readonly DamagedBytes[], state: JournalState): EngineError {
  const first = damage[0]!
  const where = `${first.file} at byte ${first.offset} (${first.bytes} bytes, ${first.reason})`
  const more = damage.length > 1 ? `, and ${damage.length - 1} more places` : ''
  const readable = state.requests.size
  const text = `the journal is damaged: ${where}${more}; ${readable} requests can still be read`
  return createError('JOURNAL_CORRUPTED', text, {
    path: folder,
    damage: [...damage],
    readableRequests: readable,
    alternatives: [
      'put the damaged file back from a copy',
      "open it with journal: {path, onDamage: 'salvage'}: what is readable is kept, and the damaged files stay beside it as *.damaged",
      'use another folder, and read the requests of this one elsewhere'
    ]
  })
}

/**
 * Reads the segments that count, in order, and removes those that a compaction left behind. JOURNAL_CORRUPTED {damage}, unless `salvage`;
 * JOURNAL_VERSION_UNSUPPORTED, FILE_READ_FAILED, FILE_WRITE_FAILED.
 */
export async function readJournal(folder: string, salvage: boolean): Promise<JournalReading> {
  const all = await readSegments(folder, await listSegments(folder))
  let from = all.length - 1
  while (from > 0 && !(all[from]!.compacted && all[from]!.sound)) from--
  for (const { number } of all.slice(0, Math.max(0, from))) await removeSegment(folder, number)
  const segments = all.slice(Math.max(0, from))
  const state = new JournalState()
  for (const { records } of segments) for (const { record, bytes } of records) state.apply(record, bytes)
  const damage = findDamage(segments, folder)
  if (damage.length > 0) {
    if (!salvage) throw corrupted(folder, damage, state)
    return { state, segments: segments.map(({ number, bytes }) => ({ number, bytes })), cut: undefined, damage }
  }
  const last = segments.at(-1)
  const cut = last?.tail && { file: last.file, ...last.tail }
  if (last && cut) {
    try {
      await truncate(last.file, cut.offset)
    } catch (error) {
      throw unwritable(last.file, error)
    }
    last.bytes = cut.offset
  }
  return { state, segments: segments.map(({ number, bytes }) => ({ number, bytes })), cut, damage }
}

/** Puts damaged segments aside, where nothing reads them. FILE_WRITE_FAILED. */
export async function setAside(folder: string, numbers: readonly number[]): Promise<void> {
  for (const number of numbers) {
    const path = segmentPath(folder, number)
    try {
      await rename(path, `${path}.damaged`)
    } catch (error) {
      throw unwritable(path, error)
    }
  }
}
