/** Typed errors: the only way in which this library fails. */
import type { ErrorCode } from './catalog.js'
import type { TimeoutCode, TimeoutDetails } from './derived-errors.js'
import { TimeoutError } from './derived-errors.js'
import type { ErrorDetails, ErrorOptions } from './engine-error.js'
import { EngineError } from './engine-error.js'

export type {
  CatalogEntry,
  ErrorCategory,
  ErrorCode,
  ErrorScope,
  ErrorSeverity,
  LogLevel,
  RetryClass
} from './catalog.js'
export { catalog } from './catalog.js'
export type { CircuitDetails, TimeoutCode, TimeoutDetails } from './derived-errors.js'
export { CircuitBreakerOpenError, errorOf, RetryAbortedError, TimeoutError } from './derived-errors.js'
export type { EngineCode } from './engine-codes.js'
export { engineCodeOf, engineCodeRetry, engineCodes } from './engine-codes.js'
export type { ErrorDetails, ErrorOptions, ResourceInfo, WireError } from './engine-error.js'
export { EngineClientError, EngineError, isEngineError, messageOf } from './engine-error.js'
export { errnoOf, isSystemError, readFailed, tellFileLimit, writeFailed } from './file-errors.js'
export { errorFromWire } from './from-wire.js'
export type { CatalogStatus, HttpClass } from './http.js'
export { httpClasses } from './http.js'

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
