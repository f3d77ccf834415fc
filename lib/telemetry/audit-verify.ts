/** Reads an audit log from its first byte to its last, and says whether its chains hold. */
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { createError, errnoOf, isSystemError, readFailed } from '../errors/index.js'
import type { ChainState } from './audit-record.js'
import { chainStart, checkLine } from './audit-record.js'

export interface AuditVerification {
  path: string
  records: number
  runs: number
  /** Hash of the last run's last record: equal for the same run. */
  hash: string
  /** Seal of the last record: of the whole file. Keep it elsewhere to find a file that was cut at its end. */
  seal: string
  /** Whether the last run ended with its closing record. If not, it still runs, it crashed, or its end was cut off. */
  closed: boolean
  /** Bytes of a last line without an end, which a crash in the middle of a write leaves. */
  tornBytes: number
}

export interface AuditState {
  chain: ChainState
  records: number
  /** Of whole lines. */
  bytes: number
  tornBytes: number
}

const newline = 0x0a
/** A record is a few hundred bytes; a longer line is none of ours. */
const longestLine = 1 << 20

/** Throws AUDIT_LOG_INVALID {path, line, reason}, FILE_READ_FAILED. A file that is not there is an empty log. */
export async function readAuditLog(
  path: string,
  onRecord: (state: ChainState) => void = () => {}
): Promise<AuditState> {
  let chain: ChainState = chainStart
  let records = 0
  let bytes = 0
  let pending: Buffer[] = []
  let pendingBytes = 0
  const invalid = (reason: string): Error =>
    createError('AUDIT_LOG_INVALID', `${path}: line ${records + 1} ${reason}`, { path, line: records + 1, reason })
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 16 }) as AsyncIterable<Buffer>) {
      let from = 0
      for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, from)) {
        const line = Buffer.concat([...pending, chunk.subarray(from, end)])
        const next = checkLine(chain, line.toString())
        if (typeof next === 'string') throw invalid(next)
        chain = next
        onRecord(chain)
        records++
        bytes += line.length + 1
        pending = []
        pendingBytes = 0
        from = end + 1
      }
      if (from < chunk.length) pending.push(chunk.subarray(from))
      pendingBytes += chunk.length - from
      if (pendingBytes > longestLine) throw invalid('is longer than any record')
    }
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return { chain, records, bytes, tornBytes: 0 }
    throw isSystemError(error) ? readFailed(path, error) : error
  }
  return { chain, records, bytes, tornBytes: pendingBytes }
}

/**
 * Verifies the audit log in a file. With `seal`, noted earlier, one of its records must have that seal: so a cut at the end is found.
 * AUDIT_LOG_INVALID {path, line, reason}, FILE_READ_FAILED.
 */
export async function verifyAuditLog(path: string, seal?: string): Promise<AuditVerification> {
  let sealed = seal === undefined
  const { chain, records, tornBytes } = await readAuditLog(path, (state) => {
    sealed ||= state.seal === seal
  })
  if (records === 0 && tornBytes === 0) {
    const found = await stat(path).catch(() => undefined)
    if (!found) throw createError('FILE_READ_FAILED', `${path}: there is no such file`, { path, errno: 'ENOENT' })
  }
  if (!sealed) {
    const reason = 'is the last one, and none has the seal that was noted: records are missing at the end'
    throw createError('AUDIT_LOG_INVALID', `${path}: line ${records} ${reason}`, { path, line: records, reason })
  }
  const { run: runs, hash, closed } = chain
  return { path, records, runs, hash, seal: chain.seal, closed, tornBytes }
}
