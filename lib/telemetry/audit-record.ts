/**
 * A record of the audit log: one line of JSON. Two chains run through a file:
 * - `hash` covers what the same run has again (event, data, and the previous record's hash). It begins anew with each run, so that two
 *   runs of the same work have equal hashes, record by record, and can be compared by the last one alone.
 * - `seal` covers everything else as well (the run's number, times, durations, random names), and the seal of the line before it, from the
 *   first line of the file to the last. No line can be changed, taken out, put in or moved without breaking it.
 */
import { createHash } from 'node:crypto'

export interface AuditRecord {
  /** Counts the runs in a file, from 1. */
  run: number
  /** Counts the records of a run, from 0. */
  seq: number
  event: string
  /** What the same run has again. */
  data: Record<string, unknown>
  /** Hash of the record before it in this run; zeros for the first. */
  prev: string
  hash: string
  /** What differs from run to run; `at` is always there. */
  note: Record<string, unknown>
  seal: string
}

/** Where a chain begins. */
export const noHash = '0'.repeat(64)
/** The events of the log itself: the first and the last record of a run. */
export const runStarted = 'run_started'
export const runClosed = 'run_closed'

const sha256 = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('hex')

export const hashOf = ({ prev, seq, event, data }: Pick<AuditRecord, 'prev' | 'seq' | 'event' | 'data'>): string =>
  sha256([prev, seq, event, data])

export const sealOf = (before: string, { run, hash, note }: Pick<AuditRecord, 'run' | 'hash' | 'note'>): string =>
  sha256([before, run, hash, note])

/** Where the chains stand. */
export interface ChainState {
  run: number
  /** Of the next record. */
  seq: number
  hash: string
  seal: string
  /** Whether the last run ended with its closing record. */
  closed: boolean
}

export const chainStart: ChainState = { run: 0, seq: 0, hash: noHash, seal: noHash, closed: true }

/** The next record as a line without its end, and where the chains stand after it. `runStarted` begins a run. */
export function nextRecord(
  state: ChainState,
  event: string,
  data: Readonly<Record<string, unknown>>,
  note: Readonly<Record<string, unknown>>
): { line: string; state: ChainState } {
  const first = event === runStarted
  // Through JSON once: undefined, dates and the like are hashed as they will be read.
  const plain = JSON.parse(JSON.stringify({ data, note })) as Pick<AuditRecord, 'data' | 'note'>
  const run = first ? state.run + 1 : state.run
  const seq = first ? 0 : state.seq
  const prev = first ? noHash : state.hash
  const hash = hashOf({ prev, seq, event, data: plain.data })
  const seal = sealOf(state.seal, { run, hash, note: plain.note })
  const record: AuditRecord = { run, seq, event, data: plain.data, prev, hash, note: plain.note, seal }
  return { line: JSON.stringify(record), state: { run, seq: seq + 1, hash, seal, closed: event === runClosed } }
}

/** Where the chains stand after a line that was read; or what is wrong with it, as half a sentence. */
export function checkLine(state: ChainState, line: string): ChainState | string {
  let record: AuditRecord
  try {
    record = JSON.parse(line) as AuditRecord
  } catch {
    return 'is not JSON'
  }
  if (typeof record !== 'object' || record === null || typeof record.event !== 'string') return 'is not a record'
  const { run, seq, event, data, prev, hash, note, seal } = record
  const first = event === runStarted
  if (!first && state.run === 0) return `begins with ${event}, not with ${runStarted}: records before it are missing`
  if (!first && state.closed) return `follows the end of run ${state.run}, which had been closed`
  const wanted = {
    run: first ? state.run + 1 : state.run,
    seq: first ? 0 : state.seq,
    prev: first ? noHash : state.hash
  }
  if (run !== wanted.run || seq !== wanted.seq) {
    return `is record ${seq} of run ${run}, where record ${wanted.seq} of run ${wanted.run} should be: records are missing or were moved`
  }
  if (prev !== wanted.prev) return 'does not follow the record before it: records were changed, taken out or moved'
  if (hash !== hashOf({ prev, seq, event, data })) return 'was changed: its hash does not match its data'
  if (seal !== sealOf(state.seal, { run, hash, note }))
    return 'was changed, or follows another record: its seal does not match'
  if (JSON.stringify({ run, seq, event, data, prev, hash, note, seal }) !== line)
    return 'was changed: it is not written as records are'
  return { run, seq: seq + 1, hash, seal, closed: event === runClosed }
}
