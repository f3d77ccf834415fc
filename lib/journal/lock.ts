/** One process at a time in a journal: a lock on a file, which the system gives back however the process ends. */
import { readFile } from 'node:fs/promises'
import { createError, errnoOf } from '../errors/index.js'
import { closeFile, lockPath, openFile, truncateFile, unwritable, writeAll } from './files.js'

/** What a lock file says about who holds it. */
interface Holder {
  pid: number
  /** When that process locked it, milliseconds since the epoch. */
  at: number
}

/**
 * Locks a folder's journal; the lock is held until the descriptor is closed. `tryLock` asks the system. A lock file that a dead
 * process left is not locked, so it stops nobody. JOURNAL_LOCKED {path, pid, at}, FILE_WRITE_FAILED.
 */
export async function lockJournal(folder: string, tryLock: (fd: number) => boolean): Promise<number> {
  const path = lockPath(folder)
  let fd: number
  try {
    fd = await openFile(path, 'a+')
  } catch (error) {
    throw unwritable(path, error)
  }
  try {
    if (!tryLock(fd)) {
      const holder = await readHolder(path)
      const who = holder ? `process ${holder.pid} since ${new Date(holder.at).toISOString()}` : 'another process'
      throw createError('JOURNAL_LOCKED', `the journal in ${folder} is in use by ${who}`, { path: folder, ...holder })
    }
    await describeHolder(fd, path)
    return fd
  } catch (error) {
    await closeFile(fd)
    throw error
  }
}

async function describeHolder(fd: number, path: string): Promise<void> {
  const holder: Holder = { pid: process.pid, at: Date.now() }
  try {
    await truncateFile(fd, 0)
    await writeAll(fd, Buffer.from(`${JSON.stringify(holder)}\n`), 0)
  } catch (error) {
    // On a full disk the lock holds without saying whose it is.
    if (errnoOf(error) !== 'ENOSPC') {
      throw unwritable(path, error)
    }
  }
}

async function readHolder(path: string): Promise<Holder | undefined> {
  try {
    const { pid, at } = JSON.parse(await readFile(path, 'utf8'))
    return typeof pid === 'number' && typeof at === 'number' ? { pid, at } : undefined
  } catch {
    return undefined
  }
}
