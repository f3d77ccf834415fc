/** One process at a time in a folder: a lock on a file, which the system gives back however the process ends. */
import { close, ftruncate, open, write } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { type EngineError, errnoOf } from './errors/index.js'

// Bare descriptors: a FileHandle that is collected warns, and a folder may be dropped with its engine.
const [openFile, closeFile, truncateFile, writeFile] = [
  promisify(open),
  promisify(close),
  promisify(ftruncate),
  promisify(write)
]

/** What a lock file says about who holds it. */
export interface LockHolder {
  pid: number
  /** When that process locked it, milliseconds since the epoch. */
  at: number
}

export interface FolderLock {
  /** The lock file; made where there is none. */
  path: string
  /** Asks the system. */
  tryLock(descriptor: number): boolean
  /** The error where another descriptor has the lock, and where the file cannot be written. */
  taken(holder: LockHolder | undefined, who: string): EngineError
  failed(error: unknown): EngineError
}

/**
 * The descriptor that holds the lock until it is closed. A lock file that a dead process left is not locked, so it stops nobody. Throws what
 * `taken` and `failed` make.
 */
export async function lockFolder({ path, tryLock, taken, failed }: FolderLock): Promise<number> {
  const descriptor = await openFile(path, 'a+').catch((error) => {
    throw failed(error)
  })
  try {
    if (!tryLock(descriptor)) {
      const holder = await readHolder(path)
      const who = holder ? `process ${holder.pid} since ${new Date(holder.at).toISOString()}` : 'another process'
      throw taken(holder, who)
    }
    await describeHolder(descriptor, failed)
    return descriptor
  } catch (error) {
    await closeFile(descriptor)
    throw error
  }
}

async function describeHolder(descriptor: number, failed: FolderLock['failed']): Promise<void> {
  const holder: LockHolder = { pid: process.pid, at: Date.now() }
  try {
    await truncateFile(descriptor, 0)
    await writeFile(descriptor, `${JSON.stringify(holder)}\n`)
  } catch (error) {
    // On a full disk the lock holds without saying whose it is.
    if (errnoOf(error) !== 'ENOSPC') throw failed(error)
  }
}

async function readHolder(path: string): Promise<LockHolder | undefined> {
  try {
    const { pid, at } = JSON.parse(await readFile(path, 'utf8'))
    return typeof pid === 'number' && typeof at === 'number' ? { pid, at } : undefined
  } catch {
    return undefined
  }
}
