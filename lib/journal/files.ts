/** The files of a journal: numbered segments, made whole or not at all, and a lock that the system gives back when its process ends. */
import { close, fdatasync, fstat, fsync, ftruncate, open, write } from 'node:fs'
import { readdir, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { availableBytes } from '../disk-room.js'
import type { EngineError } from '../errors/index.js'
import { readFailed, writeFailed } from '../errors/index.js'

// Bare descriptors: a FileHandle that is collected warns, and a journal may be dropped with its engine.
export const openFile = promisify(open)
export const closeFile = promisify(close)
export const syncFile = promisify(fsync)
export const syncData = promisify(fdatasync)
export const fileStatus = promisify(fstat)
export const truncateFile = promisify(ftruncate)
const writeSome = promisify(write)

/** Prompts are in it. */
const privateMode = 0o600

const segmentName = /^(\d{8})\.journal$/

export const segmentPath = (folder: string, number: number): string =>
  join(folder, `${String(number).padStart(8, '0')}.journal`)
export const lockPath = (folder: string): string => join(folder, 'lock')

/** How messages call a file of the journal. */
const ofJournal = (path: string): string => `the journal's ${path}`
export const unreadable = (path: string, cause: unknown): EngineError => readFailed(path, cause, ofJournal(path))
export const unwritable = (path: string, cause: unknown): EngineError => writeFailed(path, cause, ofJournal(path))

/** Numbers of the segments, ascending. What an interrupted writer left under a temporary name is removed. FILE_READ_FAILED, FILE_WRITE_FAILED. */
export async function listSegments(folder: string): Promise<number[]> {
  let names: string[]
  try {
    names = await readdir(folder)
  } catch (error) {
    throw unreadable(folder, error)
  }
  for (const name of names) if (name.endsWith('.journal.tmp')) await removeFile(join(folder, name))
  return names
    .map((name) => Number(segmentName.exec(name)?.[1] ?? 0))
    .filter((number) => number > 0)
    .sort((a, b) => a - b)
}

/** FILE_READ_FAILED. */
export async function readSegment(folder: string, number: number): Promise<Buffer> {
  const path = segmentPath(folder, number)
  try {
    return await readFile(path)
  } catch (error) {
    throw unreadable(path, error)
  }
}

/** Writes all of `bytes` at `position`. */
export async function writeAll(fd: number, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await writeSome(fd, bytes, done, bytes.length - done, position + done)
    done += bytesWritten
  }
}

/** Makes the names in a folder durable. */
export async function syncFolder(folder: string): Promise<void> {
  const fd = await openFile(folder, 'r')
  try {
    await syncFile(fd)
  } finally {
    await closeFile(fd)
  }
}

/** Makes a segment that begins with `bytes`, durable under its name, and leaves it open. Nothing is left of one that fails. */
export async function createSegment(folder: string, number: number, bytes: Buffer): Promise<number> {
  const path = segmentPath(folder, number)
  const temporary = `${path}.tmp`
  const fd = await openFile(temporary, 'w', privateMode)
  try {
    await writeAll(fd, bytes, 0)
    await syncFile(fd)
    await rename(temporary, path)
    await syncFolder(folder)
    return fd
  } catch (error) {
    await closeFile(fd)
    // Under its own name, a segment that nobody appends to would hide what follows in the one before.
    for (const left of [temporary, path]) await rm(left, { force: true })
    throw error
  }
}

/** FILE_WRITE_FAILED. */
async function removeFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true })
  } catch (error) {
    throw unwritable(path, error)
  }
}

/** FILE_WRITE_FAILED. */
export const removeSegment = (folder: string, number: number): Promise<void> => removeFile(segmentPath(folder, number))

/** Bytes that can still be written in a folder; 0 where the system does not say. */
export const freeBytes = (folder: string): Promise<number> => availableBytes(folder).catch(() => 0)
