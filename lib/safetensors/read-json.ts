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

/** Members of the object that a sound JSON text is: each has its colon outside of texts, one level down. */
function countMembers(text: string): number {
  let [members, level] = [0, 0]
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (c === 0x22) {
      while (text.charCodeAt(++i) !== 0x22) if (text.charCodeAt(i) === 0x5c) i++
    } else if (c === 0x7b || c === 0x5b) level++
    else if (c === 0x7d || c === 0x5d) level--
    else if (c === 0x3a && level === 1) members++
  }
  return members
}

/** The object of a JSON text in UTF-8. MODEL_FILE_INVALID {path, reason} for anything else, and for an object that has a key twice. */
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
  if (countMembers(text) !== Object.keys(value).length) throw invalid(path, `${what} has a key twice`)
  return value
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
