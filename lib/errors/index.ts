/** Typed errors: the only way in which this library fails. */
import { getSystemErrorName } from 'node:util'
import type { ErrorCode } from './catalog.js'
import { catalog } from './catalog.js'
import type { ErrorDetails, ErrorOptions, ResourceInfo, TimeoutCode, TimeoutDetails } from './engine-error.js'
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

/**
 * Makes the error of a native status. Sizes of a memory failure become `resourceInfo`; a code that the catalogue does not mark
 * as native is itself a broken invariant.
 */
export function createNativeError(code: string, message: string, details: ErrorDetails): EngineError {
  const entry = Object.hasOwn(catalog, code) ? catalog[code as ErrorCode] : undefined
  if (!entry?.native) {
    return createError('RUNTIME_INVARIANT_VIOLATED', `the addon reported the unknown code ${code}: ${message}`, {
      ...details,
      nativeCode: code
    })
  }
  // As everywhere in this library: the system's name, not its number.
  const { errno } = details
  if (typeof errno === 'number' && errno > 0) details = { ...details, errno: getSystemErrorName(-errno) }
  const { required, available, limit, current } = details
  if (entry.category !== 'resource' || typeof required !== 'number' || details.resourceInfo) {
    return createError(code as Exclude<ErrorCode, TimeoutCode>, message, details)
  }
  const resourceInfo: ResourceInfo = {
    required,
    available: typeof available === 'number' ? available : 0,
    current: typeof current === 'number' ? current : null,
    limit: typeof limit === 'number' ? limit : null,
    unit: 'bytes'
  }
  return createError(code as Exclude<ErrorCode, TimeoutCode>, message, { ...details, resourceInfo })
}
