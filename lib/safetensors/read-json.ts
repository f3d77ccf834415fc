/** JSON of foreign files: bounded, one object, no key twice. */
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { createError, errnoOf, isEngineError, readFailed } from '../errors/index.js'

/** MODEL_FILE_INVALID {path}. */
export const invalid = (path: string, reason: string, details: Record<string, unknown> = {}, cause?: unknown) =>
  createError('MODEL_FILE_INVALID', `${path}: ${reason}`, { path, ...details }, { cause })

/** A text of a file for a message: short, without what would garble it. */
export function shown(text: string): string {
  let plain = ''
  for (const c of text.slice(0, 100)) plain += c >= ' ' && c < '\u007f' ? c : '?'
  return text.length > 100 ? `${plain}...` : plain
}

/**
 * Calls `use` with an open regular file and its size. MODEL_NOT_FOUND, FILE_READ_FAILED, RESOURCE_FILES_EXHAUSTED, MODEL_FILE_INVALID for what is no
 * regular file.
 */
export async function withFile<Result>(
  path: string,
  use: (file: FileHandle, bytes: number) => Promise<Result>
): Promise<Result> {
  let file: FileHandle | undefined
  try {
    // Without O_NONBLOCK the open of a FIFO would wait for a writer.
    file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
    const info = await file.stat()
    if (!info.isFile()) throw invalid(path, 'it is not a regular file')
    return await use(file, info.size)
  } catch (error) {
    if (isEngineError(error)) throw error
    if (!['ENOENT', 'ENOTDIR'].includes(errnoOf(error))) throw readFailed(path, error)
    throw createError('MODEL_NOT_FOUND', `there is no file ${path}`, { path }, { cause: error })
  } finally {
    await file?.close()
  }
}

/** Bytes of a range. FILE_READ_FAILED where the file ends before. */
export async function readRange(file: FileHandle, path: string, offset: number, bytes: number): Promise<Buffer> {
  const buffer = Buffer.alloc(bytes)
  for (let done = 0; done < bytes; ) {
    const { bytesRead } = await file.read(buffer, done, bytes - done, offset + done)
    if (bytesRead === 0) throw readFailed(path, new Error(`it ends at byte ${offset + done}: it has shrunk`))
    done += bytesRead
  }
  return buffer
}

/** The bytes of a whole file, at most `most`. Those of withFile, and MODEL_FILE_INVALID for a larger one. */
export const readSmallFile = (path: string, most: number): Promise<Buffer> =>
  withFile(path, (file, bytes) => {
    if (bytes > most) throw invalid(path, `it has ${bytes} bytes, ${most} are possible`)
    return readRange(file, path, 0, bytes)
  })

/** A value of a file for a message. What is nested is not written out: it may be so deep that nothing could write it. */
export function shownValue(value: unknown): string {
  if (typeof value === 'string') return `"${shown(value)}"`
  if (typeof value !== 'object' || value === null) return String(value)
  return Array.isArray(value) ? 'a list' : 'an object'
}

/** Members that the objects of a sound JSON text are given: each has its colon outside of texts. */
function countColons(text: string): number {
  let colons = 0
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (c === 0x22) {
      while (text.charCodeAt(++i) !== 0x22) if (text.charCodeAt(i) === 0x5c) i++
    } else if (c === 0x3a) colons++
  }
  return colons
}

/** Members that the objects of a value have. */
function countMembers(value: object): number {
  let members = 0
  const left = [value]
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    const items: unknown[] = Array.isArray(next) ? next : Object.values(next)
    if (!Array.isArray(next)) members += items.length
    for (const item of items) if (typeof item === 'object' && item !== null) left.push(item)
  }
  return members
}

/** The object of a JSON text in UTF-8. MODEL_FILE_INVALID {path, reason} for anything else, and where one of its objects has a key twice. */
export function parseObject(bytes: Uint8Array, path: string, what: string): Record<string, unknown> {
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    value = JSON.parse(text)
  } catch (cause) {
    throw invalid(path, `${what} is not JSON in UTF-8`, {}, cause)
  }
  if (!isObject(value)) throw invalid(path, `${what} is not an object`)
  if (countColons(text) !== countMembers(value)) throw invalid(path, `${what} has a key twice`)
  return value
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
