/** What the system says of a file, as typed errors with the system's own name of the reason. */
import type { EngineError } from './engine-error.js'
import { isEngineError } from './engine-error.js'
import { createError } from './index.js'

/** The system's name of a failure, as 'ENOENT', or of what a typed error was made of; `unknown` where it is not the system's. */
export function errnoOf(error: unknown): string {
  const name = isEngineError(error) ? error.details.errno : (error as { code?: unknown } | undefined)?.code
  return typeof name === 'string' ? name : 'unknown'
}

/** Whether the system said it, or this library. */
export const isSystemError = (error: unknown): boolean =>
  error instanceof Error && 'syscall' in error && typeof error.syscall === 'string'

const reasonOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

let limit: () => number | undefined = () => undefined

/** How many files the process may have open, for errors; asked when they are made. This part of the library cannot ask the system itself. */
export function tellFileLimit(ask: () => number | undefined): void {
  limit = ask
}

/** Neither a file's fault nor a disk's: no descriptor is left, of the process (EMFILE) or of the system (ENFILE). */
function failed(
  code: 'FILE_READ_FAILED' | 'FILE_WRITE_FAILED',
  message: string,
  path: string,
  cause: unknown
): EngineError {
  const errno = errnoOf(cause)
  if (errno !== 'EMFILE' && errno !== 'ENFILE') return createError(code, message, { path, errno }, { cause })
  const most = (errno === 'EMFILE' && limit()) || null
  const resourceInfo = { required: 1, available: 0, current: most, limit: most, unit: 'files' } as const
  return createError('RESOURCE_FILES_EXHAUSTED', message, { path, errno, resourceInfo }, { cause })
}

/** FILE_READ_FAILED {path, errno}, RESOURCE_FILES_EXHAUSTED {path, errno, resourceInfo}. `subject` is what the message calls the file. */
export const readFailed = (path: string, cause: unknown, subject = path): EngineError =>
  failed('FILE_READ_FAILED', `${subject} cannot be read: ${reasonOf(cause)}`, path, cause)

/** FILE_WRITE_FAILED {path, errno}, RESOURCE_FILES_EXHAUSTED {path, errno, resourceInfo}. A full disk is told apart by the caller, who knows how much was wanted. */
export const writeFailed = (path: string, cause: unknown, subject = path): EngineError =>
  failed('FILE_WRITE_FAILED', `${subject} cannot be written: ${reasonOf(cause)}`, path, cause)
