/** What the addon reports, as typed errors. Apart from the others, because it asks Node for the names of system errors. */
import { getSystemErrorName } from 'node:util'
import type { ErrorCode } from './catalog.js'
import { catalog } from './catalog.js'
import type { TimeoutCode } from './derived-errors.js'
import type { EngineError, ErrorDetails, ResourceInfo } from './engine-error.js'
import { createError } from './index.js'

/** Details that an error of the code always has, and that the addon does not know; of arguments: where several do not fit together. */
const unknownToAddon: Partial<Record<ErrorCode, ErrorDetails>> = {
  VALIDATION_ERROR: { argument: null },
  MODEL_NOT_LOADED: { model: null, loaded: [] },
  MODEL_CORRUPTED: { expectedSha256: null, actualSha256: null },
  GPU_VRAM_EXHAUSTED: { model: null },
  RUNTIME_NAN_DETECTED: { token: null },
  FILE_WRITE_FAILED: { path: null }
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
  details = { ...unknownToAddon[code as ErrorCode], ...details }
  // As everywhere in this library: the system's name, not its number.
  const { errno } = details
  if (typeof errno === 'number' && errno > 0) details = { ...details, errno: getSystemErrorName(-errno) }
  const { required, available, limit, current, gpuMemory: value } = details
  if (typeof value === 'number')
    details = { ...details, alternatives: [{ change: 'gpuMemory', value, required: value }] }
  const capacity = (entry.details as readonly string[]).includes('resourceInfo')
  if (!capacity || details.resourceInfo) {
    return createError(code as Exclude<ErrorCode, TimeoutCode>, message, details)
  }
  const resourceInfo: ResourceInfo = {
    required: typeof required === 'number' ? required : null,
    available: typeof available === 'number' ? available : 0,
    current: typeof current === 'number' ? current : null,
    limit: typeof limit === 'number' ? limit : null,
    unit: code === 'RESOURCE_FILES_EXHAUSTED' ? 'files' : 'bytes'
  }
  return createError(code as Exclude<ErrorCode, TimeoutCode>, message, { ...details, resourceInfo })
}
