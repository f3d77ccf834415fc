/** What the addon reports, as typed errors. Apart from the others, because it asks Node for the names of system errors. */
import { getSystemErrorName } from 'node:util'
import type { ErrorCode } from './catalog.js'
import { catalog } from './catalog.js'
import type { EngineError, ErrorDetails, ResourceInfo, TimeoutCode } from './engine-error.js'
import { createError } from './index.js'

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
