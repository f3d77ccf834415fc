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

/** FILE_READ_FAILED {path, errno}. `subject` is what the message calls the file. */
export const readFailed = (path: string, cause: unknown, subject = path): EngineError =>
  createError(
    'FILE_READ_FAILED',
    `${subject} cannot be read: ${reasonOf(cause)}`,
    { path, errno: errnoOf(cause) },
    { cause }
  )

/** FILE_WRITE_FAILED {path, errno}. A full disk is told apart by the caller, who knows how much was wanted. */
export const writeFailed = (path: string, cause: unknown, subject = path): EngineError =>
  createError(
    'FILE_WRITE_FAILED',
    `${subject} cannot be written: ${reasonOf(cause)}`,
    { path, errno: errnoOf(cause) },
    { cause }
  )
