/**
 * Appends records to the last segment, in groups: one write and one fsync cover all that waited. A group is written whole or not at
 * all; where the disk refuses it, whoever waits for it is told, and what nobody waits for is tried again later.
 */
import type { EngineError } from '../errors/index.js'
import { createError, errnoOf } from '../errors/index.js'
import {
  closeFile,
  createSegment,
  fileStatus,
  freeBytes,
  removeSegment,
  segmentPath,
  syncData,
  truncateFile,
  writeAll
} from './files.js'
import { encodeRecord } from './frame.js'
import type { JournalRecord } from './records.js'
import { journalFormat } from './records.js'

/** A refused group is tried again after this long, in milliseconds. */
const retryMs = 1000

interface Entry {
  bytes: Buffer
  /** Taken out when its group is refused; otherwise it stays for the next group. */
  withdrawable: boolean
  resolve(): void
  reject(error: EngineError): void
}

export interface WriterOptions {
  folder: string
  /** What nobody waits for is written at the latest this long after it came, in milliseconds. */
  syncMs: number
  /** A segment that has grown to this many bytes is followed by another one. */
  segmentBytes: number
  /** Appends what has been put off; called before each group is taken. */
  collect(): void
  /** All that is needed still: every record appended up to now. */
  snapshot(): Iterable<JournalRecord>
  /** Bytes that a snapshot takes, about. */
  liveBytes(): number
}

/** Where a journal that was read ends. */
export interface WriterPosition {
  fd: number
  number: number
  /** Bytes of the segment, and of those before it. */
  bytes: number
  earlier: { number: number; bytes: number }[]
}

export class JournalWriter {
  readonly #options: WriterOptions
  #fd: number
  #number: number
  #bytes: number
  #earlier: { number: number; bytes: number }[]
  #entries: Entry[] = []
  #writing: Promise<void> | undefined
  #timer: NodeJS.Timeout | undefined
  /** The last group's failure may have left bytes behind: the next group begins a new segment. */
  #suspect = false
  #failing = false
  #closed = false

  constructor(options: WriterOptions, position: WriterPosition) {
    this.#options = options
    this.#fd = position.fd
    this.#number = position.number
    this.#bytes = position.bytes
    this.#earlier = position.earlier
  }

  /** Segments on disk, and their bytes. */
  get size(): { segments: number; bytes: number } {
    const bytes = this.#earlier.reduce((sum, segment) => sum + segment.bytes, this.#bytes)
    return { segments: this.#earlier.length + 1, bytes }
  }

  /** Bytes that a record takes. Written with the next group, at the latest after `syncMs`; no more once the writer is closed. */
  append(record: JournalRecord): number {
    const bytes = encodeRecord(record)
    if (this.#closed) return bytes.length
    this.#entries.push({ bytes, withdrawable: false, resolve() {}, reject() {} })
    this.wake()
    return bytes.length
  }

  /** The same at once: `done` resolves when the record is durable. JOURNAL_WRITE_FAILED; then the record is in no later group. ENGINE_DISPOSED. */
  commit(record: JournalRecord): { bytes: number; done: Promise<void> } {
    const bytes = encodeRecord(record)
    if (this.#closed) {
      const text = `the journal in ${this.#options.folder} is closed`
      return { bytes: bytes.length, done: Promise.reject(createError('ENGINE_DISPOSED', text, { method: 'journal' })) }
    }
    const done = new Promise<void>((resolve, reject) => {
      this.#entries.push({ bytes, withdrawable: true, resolve, reject })
    })
    void this.#drain()
    return { bytes: bytes.length, done }
  }

  /** Makes everything durable. JOURNAL_WRITE_FAILED. */
  async flush(): Promise<void> {
    this.#options.collect()
    const last = this.#entries.at(-1)
    if (!last) {
      await this.#writing
      // A group that was refused waits again.
      return this.#entries.length > 0 ? this.flush() : undefined
    }
    const { resolve, reject } = last
    const done = new Promise<void>((settle, refuse) => {
      last.resolve = () => {
        resolve()
        settle()
      }
      last.reject = (error) => {
        reject(error)
        refuse(error)
      }
    })
    void this.#drain()
    return done
  }

  /** Writes what was put off within `syncMs`. */
  wake(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined
        void this.#drain()
      },
      this.#failing ? retryMs : this.#options.syncMs
    ).unref()
  }

  /** Writes everything and closes the segment. What cannot be written is given up. Called once. */
  async close(): Promise<void> {
    await this.flush().catch(() => {})
    // Nothing may reach a descriptor that is given back: its number may be another file's by then.
    this.#closed = true
    clearTimeout(this.#timer)
    await this.#writing
    await closeFile(this.#fd)
  }

  /** One group after another until nothing waits; never rejects. */
  #drain(): Promise<void> {
    this.#writing ??= this.#writeGroups()
    return this.#writing
  }

  async #writeGroups(): Promise<void> {
    for (;;) {
      // Appends of the same turn of the event loop share a group.
      await new Promise(setImmediate)
      this.#options.collect()
      const group = this.#entries.splice(0)
      if (group.length === 0) break
      try {
        await this.#write(Buffer.concat(group.map(({ bytes }) => bytes)))
        this.#failing = false
        for (const { resolve } of group) resolve()
      } catch (error) {
        this.#failing = true
        const failure = await this.#explain(error, group)
        this.#entries.unshift(...group.filter(({ withdrawable }) => !withdrawable))
        for (const entry of group) {
          entry.reject(failure)
          // Whoever waited has been told.
          entry.resolve = () => {}
          entry.reject = () => {}
        }
        if (!this.#entries.some(({ withdrawable }) => withdrawable)) {
          if (this.#entries.length > 0) this.wake()
          break
        }
      }
    }
    // In the turn in which the loop found nothing more: what comes later begins another one.
    this.#writing = undefined
  }

  async #write(bytes: Buffer): Promise<void> {
    const full = this.#bytes + bytes.length > this.#options.segmentBytes
    // What nothing needs any more is half of it or more.
    const compact = 2 * this.#options.liveBytes() < this.size.bytes
    if (this.#suspect || (full && compact)) {
      await this.#compact()
      return
    }
    if (full) await this.#rotate()
    try {
      await this.#append(bytes)
    } catch (error) {
      if (!compact) throw error
      await this.#compact()
    }
  }

  async #append(bytes: Buffer): Promise<void> {
    try {
      await writeAll(this.#fd, bytes, this.#bytes)
      await syncData(this.#fd)
      await this.#checkThere()
      this.#bytes += bytes.length
    } catch (error) {
      this.#suspect = true
      await truncateFile(this.#fd, this.#bytes)
      await syncData(this.#fd)
      // Only then is it certain what the file holds.
      this.#suspect = errnoOf(error) !== 'ENOSPC' && errnoOf(error) !== 'EDQUOT'
      throw error
    }
  }

  /** What is written to a file without a name is lost with the process. FILE_WRITE_FAILED. */
  async #checkThere(): Promise<void> {
    if ((await fileStatus(this.#fd)).nlink > 0) return
    const path = segmentPath(this.#options.folder, this.#number)
    throw createError('FILE_WRITE_FAILED', `the journal's ${path} was removed`, { path, errno: 'ENOENT' })
  }

  /** The next segment, empty but for its head. */
  async #rotate(): Promise<void> {
    const number = this.#number + 1
    const head = encodeRecord({ type: 'segment', format: journalFormat, number, compacted: false })
    const fd = await createSegment(this.#options.folder, number, head)
    this.#earlier.push({ number: this.#number, bytes: this.#bytes })
    await this.#follow(fd, number, head.length)
  }

  /** The next segment, with all that is needed of the earlier ones and of the group under way; those leave. */
  async #compact(): Promise<void> {
    const number = this.#number + 1
    const parts = [encodeRecord({ type: 'segment', format: journalFormat, number, compacted: true })]
    for (const record of this.#options.snapshot()) parts.push(encodeRecord(record))
    const bytes = Buffer.concat(parts)
    const fd = await createSegment(this.#options.folder, number, bytes)
    const obsolete = [...this.#earlier.map((segment) => segment.number), this.#number]
    this.#earlier = []
    this.#suspect = false
    await this.#follow(fd, number, bytes.length)
    // Lowest first: what a crash leaves of them is a gapless end, which the next start removes.
    for (const old of obsolete) await removeSegment(this.#options.folder, old).catch(() => {})
  }

  async #follow(fd: number, number: number, bytes: number): Promise<void> {
    const previous = this.#fd
    this.#fd = fd
    this.#number = number
    this.#bytes = bytes
    // What it held is durable; a failure to close it loses nothing.
    await closeFile(previous).catch(() => {})
  }

  async #explain(cause: unknown, group: readonly Entry[]): Promise<EngineError> {
    const { folder } = this.#options
    const required = group.reduce((sum, { bytes }) => sum + bytes.length, 0)
    const available = await freeBytes(folder)
    const errno = errnoOf(cause)
    const text = `the journal in ${folder} could not take ${required} bytes (${errno}; ${available} are free there)`
    const resourceInfo = { required, available, current: this.size.bytes, limit: null, unit: 'bytes' as const }
    return createError('JOURNAL_WRITE_FAILED', text, { path: folder, errno, resourceInfo }, { cause })
  }
}
