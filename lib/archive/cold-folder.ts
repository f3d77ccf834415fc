/**
 * The folder that keeps what came from the archive: one file per blob, named by the SHA-256 of its bytes, so that models and versions
 * share what is equal. Files appear whole (temporary name, sync, rename), survive a restart, and are evicted least recently used first.
 * The archives of one process share a folder, and one process has it: its limit holds for all who use it.
 */
import { randomUUID } from 'node:crypto'
import { closeSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { open, readdir, realpath, rename, rm, stat, utimes } from 'node:fs/promises'
import { hostname } from 'node:os'
import { dirname, join } from 'node:path'
import { createError, readFailed, writeFailed } from '../errors/index.js'
import { lockFolder } from '../folder-lock.js'
import { makeFolder } from '../folders.js'
import { native } from '../native.js'
import type { BlobSink } from './blob-download.js'

interface Entry {
  bytes: number
  /** Readers at work: it is not evicted meanwhile. */
  held: number
}

/** Blobs are spread over folders that are named by the first two digits of their keys. */
const shelfPattern = /^[0-9a-f]{2}$/
const blobPattern = /^([0-9a-f]{64})\.blob$/
/** Who uses a folder: the bytes that it may take, and who hears of what is evicted. */
interface User {
  limit: number
  onEvict(key: string, bytes: number, path: string): void
}

/** A folder that is open, until `leave`. */
export interface OpenColdFolder {
  folder: ColdFolder
  leave(): void
}

/** Those of this process, by their real path. */
const shared = new Map<string, Promise<ColdFolder>>()

/** What is being received: `.partial-<random>.<machine>`, because not every file system's locks reach other machines. */
const partialPrefix = '.partial-'
/** A partial file of another machine is abandoned when nothing was written to it for so long, in milliseconds. */
const abandonedMs = 3_600_000

export class ColdFolder {
  readonly path: string
  readonly #users = new Set<User>()
  readonly #lock: number
  /** Least recently used first: a Map keeps the order of insertion. */
  readonly #entries = new Map<string, Entry>()
  #waiting: (() => void)[] = []
  /** Bytes of entries, and of those being received. */
  #bytes = 0
  #receiving = 0
  /** The end of the last turn. */
  #turn: Promise<void> = Promise.resolve()

  private constructor(path: string, lock: number) {
    this.path = path
    this.#lock = lock
  }

  /**
   * Opens the folder, made where it is missing; what a killed process had begun is removed. COLD_FOLDER_LOCKED {path, pid, at} where another
   * process has it, FILE_WRITE_FAILED, FILE_READ_FAILED.
   */
  static async open(path: string, limit: number, onEvict: User['onEvict']): Promise<OpenColdFolder> {
    await makeFolder(path)
    const real = await realpath(path)
    const opening = shared.get(real) ?? ColdFolder.#begin(real)
    shared.set(real, opening)
    const user: User = { limit, onEvict }
    try {
      const folder = await opening
      // The last of its users may have left meanwhile.
      if (shared.get(real) !== opening) return ColdFolder.open(path, limit, onEvict)
      folder.#users.add(user)
      await folder.#delete(folder.#evictTo(folder.limit))
      return { folder, leave: () => folder.#leave(user) }
    } catch (error) {
      if (shared.get(real) === opening) shared.delete(real)
      throw error
    }
  }

  static async #begin(path: string): Promise<ColdFolder> {
    const lockFile = join(path, '.lock')
    const lock = await lockFolder({
      path: lockFile,
      tryLock: (descriptor) => native().tryLockFile(descriptor),
      taken: (holder, who) =>
        createError('COLD_FOLDER_LOCKED', `the cold folder ${path} is in use by ${who}`, { path, ...holder }),
      failed: (error) => writeFailed(lockFile, error)
    })
    const folder = new ColdFolder(path, lock)
    try {
      await folder.#read()
    } catch (error) {
      closeSync(lock)
      throw error
    }
    return folder
  }

  async #read(): Promise<void> {
    const { path } = this
    const found: { key: string; bytes: number; used: number }[] = []
    const names = await readdir(path).catch((error: unknown) => {
      throw readFailed(path, error)
    })
    for (const name of names) if (name.startsWith(partialPrefix)) await removeAbandoned(path, name)
    for (const shelf of names.filter((name) => shelfPattern.test(name))) {
      for (const name of await readdir(join(path, shelf)).catch(() => [])) {
        const key = blobPattern.exec(name)?.[1]
        if (!key?.startsWith(shelf)) continue
        const info = await stat(join(path, shelf, name)).catch(() => undefined)
        if (info?.isFile()) found.push({ key, bytes: info.size, used: info.mtimeMs })
      }
    }
    found.sort((a, b) => a.used - b.used || (a.key < b.key ? -1 : 1))
    for (const { key, bytes } of found) this.#add(key, bytes)
  }

  /** The last one who leaves closes it. */
  #leave(user: User): void {
    if (!this.#users.delete(user) || this.#users.size > 0) return
    shared.delete(this.path)
    closeSync(this.#lock)
  }

  /** Bytes that it may take: the least that any of its users allows. */
  get limit(): number {
    return Math.min(...[...this.#users].map(({ limit }) => limit))
  }

  /** Waits for the turns before; gives what ends this one. Two that hold blobs and wait for room would wait for each other. */
  takeTurn(): { came: Promise<void>; end: () => void } {
    const came = this.#turn
    let end: () => void = () => undefined
    const ended = new Promise<void>((resolve) => {
      end = resolve
    })
    this.#turn = came.then(() => ended)
    return { came, end }
  }

  /** Bytes of the blobs that are there and of those being received. */
  get bytes(): number {
    return this.#bytes + this.#receiving
  }

  get blobs(): number {
    return this.#entries.size
  }

  has(key: string, bytes: number): boolean {
    return this.#entries.get(key)?.bytes === bytes
  }

  /** The path of a blob that is there, for a reader that calls `release` at its end; it is now the most recently used. */
  hold(key: string, bytes: number): string | undefined {
    const entry = this.#entries.get(key)
    if (entry?.bytes !== bytes) return undefined
    entry.held++
    this.#entries.delete(key)
    this.#entries.set(key, entry)
    const path = this.#pathOf(key)
    // The order survives a restart; where it cannot be written, only that is lost.
    const now = new Date()
    utimes(path, now, now).catch(() => undefined)
    return path
  }

  release(key: string): void {
    const entry = this.#entries.get(key)
    if (entry && entry.held > 0) entry.held--
    this.#wake()
  }

  /**
   * Makes room for a blob, has it filled, and puts it in its place. RESOURCE_BUDGET_TOO_SMALL {resourceInfo}, FILE_WRITE_FAILED
   * {path, errno}, and what `fill` throws; nothing is left of a blob that failed.
   */
  async receive<T>(key: string, bytes: number, fill: (sink: BlobSink) => Promise<T>): Promise<T> {
    await this.#reserve(bytes)
    const partial = join(this.path, `${partialPrefix}${randomUUID()}.${hostname()}`)
    let file: FileHandle | undefined
    try {
      // It may have been removed meanwhile, by somebody who wanted its room.
      await makeFolder(this.path)
      const opened = await writing(partial, () => open(partial, 'wx'))
      file = opened
      const result = await fill({
        write: (piece, position) => writing(partial, () => writeAll(opened, piece, position))
      })
      await writing(partial, () => opened.datasync())
      file = undefined
      await writing(partial, () => opened.close())
      const path = this.#pathOf(key)
      await writing(path, async () => {
        await makeFolder(dirname(path))
        await rename(partial, path)
      })
      this.#add(key, bytes, this.#remove(key)?.held)
      return result
    } catch (error) {
      await file?.close().catch(() => undefined)
      await rm(partial, { force: true }).catch(() => undefined)
      throw error
    } finally {
      this.#receiving -= bytes
      this.#wake()
    }
  }

  /** Gives back so many bytes, least recently used first, as far as nobody reads them. */
  async makeRoom(bytes: number): Promise<void> {
    await this.#delete(this.#evictTo(Math.max(0, this.bytes - bytes)))
    this.#wake()
  }

  /** Removes a blob (a damaged one, or one that is to be in the archive only). FILE_WRITE_FAILED. */
  async remove(key: string): Promise<void> {
    this.#remove(key)
    const path = this.#pathOf(key)
    await writing(path, () => rm(path, { force: true }))
    this.#wake()
  }

  async #reserve(bytes: number): Promise<void> {
    if (bytes > this.limit) {
      throw createError(
        'RESOURCE_BUDGET_TOO_SMALL',
        `a blob has ${bytes} bytes, the cold folder may have ${this.limit}`,
        {
          resourceInfo: {
            required: bytes,
            available: this.limit,
            current: this.bytes,
            limit: this.limit,
            unit: 'bytes'
          }
        }
      )
    }
    for (;;) {
      const evicted = this.#evictTo(this.limit - bytes)
      const fits = this.bytes + bytes <= this.limit
      // Taken before anything is awaited: two that come at once do not share one room.
      if (fits) this.#receiving += bytes
      await this.#delete(evicted)
      if (fits) return
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  /** Evicts until no more than `limit` bytes are taken, or what is left is in use; the evicted, whose files are to be deleted. */
  #evictTo(limit: number): string[] {
    const evicted: string[] = []
    for (const [key, entry] of this.#entries) {
      if (this.bytes <= limit) break
      if (entry.held > 0) continue
      this.#remove(key)
      evicted.push(key)
      for (const { onEvict } of this.#users) onEvict(key, entry.bytes, this.#pathOf(key))
    }
    return evicted
  }

  async #delete(keys: readonly string[]): Promise<void> {
    for (const key of keys) await rm(this.#pathOf(key), { force: true }).catch(() => undefined)
  }

  #add(key: string, bytes: number, held = 0): void {
    this.#entries.set(key, { bytes, held })
    this.#bytes += bytes
  }

  #remove(key: string): Entry | undefined {
    const entry = this.#entries.get(key)
    if (!entry) return undefined
    this.#entries.delete(key)
    this.#bytes -= entry.bytes
    return entry
  }

  #wake(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resume of waiting) resume()
  }

  #pathOf(key: string): string {
    return join(this.path, key.slice(0, 2), `${key}.blob`)
  }
}

/** Removes a partial file that nobody writes any more: this machine's, because the folder is locked, or another one's that is old. */
async function removeAbandoned(folder: string, name: string): Promise<void> {
  const path = join(folder, name)
  const [, ...host] = name.slice(partialPrefix.length).split('.')
  const written = host.join('.') === hostname() ? undefined : await stat(path).catch(() => undefined)
  if (written && Date.now() - written.mtimeMs < abandonedMs) return
  await rm(path, { force: true }).catch(() => undefined)
}

async function writeAll(file: FileHandle, piece: Buffer, position: number): Promise<void> {
  for (let at = 0; at < piece.length; ) {
    const { bytesWritten } = await file.write(piece, at, piece.length - at, position + at)
    at += bytesWritten
  }
}

/** FILE_WRITE_FAILED {path, errno}. */
async function writing<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw writeFailed(path, error)
  }
}
