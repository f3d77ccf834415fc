/** Typed errors: the only way in which this library fails. */
import type { ErrorCode } from './catalog.js'
import type { ErrorDetails, ErrorOptions, TimeoutCode, TimeoutDetails } from './engine-error.js'
import { EngineError, TimeoutError } from './engine-error.js'

export type {
  CatalogEntry,
  EngineCode,
  ErrorCategory,
  ErrorCode,
  ErrorScope,
  ErrorSeverity,
  LogLevel,
  RetryClass
} from './catalog.js'
export { catalog, engineCodes } from './catalog.js'
export type {
  ErrorDetails,
  ErrorOptions,
  ResourceInfo,
  TimeoutCode,
  TimeoutDetails,
  WireError
} from './engine-error.js'
export { EngineClientError, EngineError, isEngineError, TimeoutError } from './engine-error.js'
export { errnoOf, isSystemError, readFailed, writeFailed } from './file-errors.js'

/** Makes the error of a code. `message` says what happened, with the numbers; the rest comes from the catalogue. */
export function createError(
  code: Exclude<ErrorCode, TimeoutCode>,
  message: string,
  details: ErrorDetails = {},
  options: ErrorOptions = {}
): EngineError {
  return new EngineError(code, message, details, options)
}

/** Makes the error of a deadline that passed. Times in milliseconds. */
export function createTimeoutError(
  code: TimeoutCode,
  message: string,
  details: TimeoutDetails,
  options: ErrorOptions = {}
): TimeoutError {
  return new TimeoutError(code, message, details, options)
}
