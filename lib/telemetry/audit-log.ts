/**
 * The audit log of one engine: append-only JSON lines, chained (audit-record.ts).
 *
 * A record is written before the call that made it returns, so a killed process loses none. It reaches the disk with the next fsync: at
 * most `syncMs` later, off the JavaScript thread, one for all records of that time; `sync` and `close` wait for it. A machine that loses
 * power may so lose the last `syncMs`, and leave a torn last line, which the next run cuts off and tells.
 * Where nothing can be written (a full disk) work goes on: the failure is reported once, records are counted as lost, each new one tries
 * again, and the first that succeeds is preceded by `audit_records_lost` with their number.
 */
import { closeSync, fstatSync, fsync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { createError, isSystemError, writeFailed } from '../errors/index.js'
import type { ChainState } from './audit-record.js'
import { nextRecord, runClosed, runStarted } from './audit-record.js'
import { readAuditLog } from './audit-verify.js'

export interface AuditLogOptions {
  path: string
  /** Milliseconds from a record to its fsync at most. Default 100. */
  syncMs?: number
  /** What the same run has again, for the first record: versions and options. */
  run: Readonly<Record<string, unknown>>
  /** What stands beside the chain of the first record. */
  machine?: Readonly<Record<string, unknown>>
  /** Locks a file descriptor, or says that another one has the lock. */
  tryLock(descriptor: number): boolean
  /** Called when writing begins to fail, with FILE_WRITE_FAILED. */
  onFailure(error: unknown): void
  /** Called for each record. */
  onRecord(outcome: 'written' | 'lost'): void
}

const defaultSyncMs = 100

export class AuditLog {
  readonly #options: AuditLogOptions
  readonly #file: number
  #chain: ChainState
  /** Bytes of the file that are ours and whole. */
  #bytes: number
  #lost = 0
  #failing = false
  #dirty = false
  #timer: NodeJS.Timeout | undefined
  #syncing: Promise<void> | undefined
  #closed = false

  private constructor(options: AuditLogOptions, file: number, chain: ChainState, bytes: number) {
    this.#options = options
    this.#file = file
    this.#chain = chain
    this.#bytes = bytes
  }

  /** Verifies what is in the file, cuts off a torn last line, and begins a run. AUDIT_LOG_INVALID, FILE_READ_FAILED, FILE_WRITE_FAILED. */
  static async open(options: AuditLogOptions): Promise<AuditLog> {
    const { path } = options
    let file: number | undefined
    try {
      file = openSync(path, 'a', 0o600)
      if (!options.tryLock(file)) {
        const reason = 'is being written by somebody else'
        throw createError('AUDIT_LOG_INVALID', `${path}: it ${reason}`, { path, reason })
      }
      const { chain, bytes, tornBytes } = await readAuditLog(path)
      if (tornBytes > 0) ftruncateSync(file, bytes)
      const log = new AuditLog(options, file, chain, bytes)
      const before = { previousClosed: chain.closed, tornBytes }
      log.#write(runStarted, options.run, { at: new Date().toISOString(), ...before, ...options.machine })
      return log
    } catch (cause) {
      if (file !== undefined) closeSync(file)
      throw writeFailure(path, cause)
    }
  }

  /** Never throws. */
  append(event: string, data: Readonly<Record<string, unknown>>, note: Readonly<Record<string, unknown>>): void {
    if (this.#closed) return
    const at = new Date().toISOString()
    try {
      if (this.#lost > 0) {
        this.#write('audit_records_lost', { count: this.#lost }, { at })
        this.#lost = 0
        this.#failing = false
      }
      this.#write(event, data, { at, ...note })
    } catch (cause) {
      this.#lost++
      this.#options.onRecord('lost')
      this.#fail(cause)
    }
  }

  /** Resolves when every record up to now is on the disk, or has been reported as not. */
  async sync(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    while (this.#syncing) await this.#syncing
    if (!this.#dirty) return
    this.#dirty = false
    this.#syncing = new Promise((resolve) => {
      fsync(this.#file, (error) => {
        if (error) this.#fail(error)
        else if (this.#lost === 0) this.#failing = false
        this.#syncing = undefined
        resolve()
      })
    })
    await this.#syncing
  }

  /** Writes the closing record. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.append(runClosed, {}, {})
    this.#closed = true
    await this.sync()
    closeSync(this.#file)
  }

  #write(event: string, data: Readonly<Record<string, unknown>>, note: Readonly<Record<string, unknown>>): void {
    const { line, state } = nextRecord(this.#chain, event, data, note)
    const bytes = Buffer.from(`${line}\n`)
    const { size, nlink } = fstatSync(this.#file)
    if (nlink === 0) {
      const { path } = this.#options
      throw createError('AUDIT_LOG_INVALID', `${path}: it was removed`, { path, reason: 'it was removed' })
    }
    if (size !== this.#bytes) {
      throw createError('AUDIT_LOG_INVALID', `${this.#options.path}: somebody else writes to it`, {
        path: this.#options.path,
        reason: `it has ${size} bytes, ${this.#bytes} were written here`
      })
    }
    let written = 0
    try {
      while (written < bytes.length) written += writeSync(this.#file, bytes, written)
    } catch (error) {
      // What a full disk took of the line goes, so that the file stays whole.
      if (written > 0) ftruncateSync(this.#file, this.#bytes)
      throw error
    }
    this.#bytes += bytes.length
    this.#chain = state
    this.#dirty = true
    this.#options.onRecord('written')
    this.#timer ??= setTimeout(() => void this.sync(), this.#options.syncMs ?? defaultSyncMs).unref()
  }

  #fail(cause: unknown): void {
    if (this.#failing) return
    this.#failing = true
    this.#options.onFailure(writeFailure(this.#options.path, cause))
  }
}

const writeFailure = (path: string, cause: unknown): unknown =>
  isSystemError(cause) ? writeFailed(path, cause, `the audit log ${path}`) : cause
