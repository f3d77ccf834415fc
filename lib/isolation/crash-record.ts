/** What is written down of a worker's death, durably: a file of its own, the last twenty of them. No prompt and no text is in it. */
import { open, readdir, rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { makeFolder, syncFolder } from '../folders.js'
import type { Counters } from '../native.js'
import type { Death } from './worker-process.js'

const keptRecords = 20
const keptAudit = 20
/** Bytes of an audit log's end in which they are looked for: it may be of any size. */
const auditBytes = 256 * 1024

export interface CrashFacts {
  /** ISO 8601. */
  time: string
  worker: number
  death: Death
  /** Requests that it had. */
  requests: string[]
  /** Of its last sign of life. */
  counters: Counters | undefined
  version: string
  /** File of the audit log. */
  audit: string | undefined
}

/** Where records are kept when nobody says where: a folder of this user's, whom the system may have no name for. */
export const defaultCrashFolder = (): string => join(tmpdir(), `tiered-moe-crashes-${process.getuid?.() ?? 'user'}`)

/** Path of the record. FILE_WRITE_FAILED, and what the system says. */
export async function writeCrashRecord(folder: string, facts: CrashFacts): Promise<string> {
  const { time, worker, death, requests, counters, version, audit } = facts
  const { pid, exitCode, signal, reason, outOfMemory, stderr, fault } = death
  await makeFolder(folder)
  const record = {
    time,
    worker,
    pid,
    exitCode,
    signal,
    reason,
    outOfMemory,
    ...(fault && { fault: fault.message }),
    requests,
    counters: counters ?? null,
    version,
    stderr,
    audit: audit === undefined ? [] : await lastLines(audit)
  }
  const path = join(folder, `${time.replaceAll(':', '-')}-worker${worker}-${pid}.json`)
  const temporary = `${path}.tmp`
  const file = await open(temporary, 'w', 0o600)
  try {
    await file.writeFile(`${JSON.stringify(record, null, 2)}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(temporary, path)
  await syncFolder(folder)
  await removeOld(folder)
  return path
}

async function removeOld(folder: string): Promise<void> {
  const names = (await readdir(folder)).filter((name) => /^\d{4}-.*-worker\d+-\d+\.json$/.test(name)).sort()
  for (const name of names.slice(0, -keptRecords)) await rm(join(folder, name), { force: true })
}

async function lastLines(path: string): Promise<unknown[]> {
  const text = await readEnd(path).catch(() => '')
  const lines = text.split('\n').filter((line) => line !== '')
  return lines.slice(-keptAudit).map((line) => {
    try {
      return JSON.parse(line)
    } catch {
      return line
    }
  })
}

/** Whole lines of a file's last bytes. */
async function readEnd(path: string): Promise<string> {
  const file = await open(path, 'r')
  try {
    const { size } = await file.stat()
    const from = Math.max(0, size - auditBytes)
    const { buffer, bytesRead } = await file.read(Buffer.alloc(size - from), 0, size - from, from)
    const text = buffer.toString('utf8', 0, bytesRead)
    return from > 0 ? text.slice(text.indexOf('\n') + 1) : text
  } finally {
    await file.close()
  }
}
