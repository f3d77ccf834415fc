/** Failures of the engine itself: what it is made of, and what it may do now. */
import type { CatalogEntry } from './entry.js'
import { operators, request } from './entry.js'

export const engine = {
  VALIDATION_ERROR: {
    ...request,
    meaning: 'An argument has the wrong type, is out of range, or is unknown.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 2,
    engineCode: 'InvalidParams',
    details: ['path|argument'],
    suggestedAction: 'Correct the argument named by details.path; details.allowed says what it may be.',
    native: true
  },
  ISA_UNSUPPORTED: {
    ...request,
    meaning: 'The instruction set asked for is not one that this CPU and this build have.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidParams',
    details: ['isa', 'available'],
    suggestedAction: "Leave out 'isa' to use the fastest one, or choose one that `tiered-moe doctor` lists.",
    native: true
  },
  BACKEND_UNAVAILABLE: {
    ...request,
    meaning: 'The backend asked for is not part of this version or cannot start on this machine.',
    category: 'configuration',
    scope: 'engine',
    logLevel: 'error',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ServerError',
    details: ['backend', 'available'],
    suggestedAction: 'Choose a backend of details.available; nothing falls back to another one by itself.',
    native: false
  },
  ADDON_UNAVAILABLE: {
    meaning: 'The native addon is missing, or was built for another platform.',
    category: 'configuration',
    severity: 'fatal',
    scope: 'process',
    retry: 'never',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ServerError',
    details: ['platform', 'tried'],
    suggestedAction:
      'Install the package for this platform, or run `npm run build:addon` in a checkout (Python 3 and a C++17 compiler).',
    native: false
  },
  ENGINE_DISPOSED: {
    ...request,
    meaning: 'The engine is shutting down or has been disposed.',
    category: 'configuration',
    scope: 'engine',
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'InvalidRequest',
    details: ['method'],
    suggestedAction: 'Create a new engine with createEngine().',
    native: false
  },
  ENGINE_FROZEN: {
    ...request,
    meaning: 'The engine is frozen for maintenance and takes no new requests.',
    category: 'resource',
    scope: 'engine',
    retry: 'after',
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'ServerError',
    details: ['method', 'retryAfterSeconds'],
    suggestedAction: 'Try again after details.retryAfterSeconds, or thaw the engine.',
    native: false
  },
  LIFECYCLE_INVALID_TRANSITION: {
    meaning: 'A change of state was asked for that the lifecycle does not have.',
    category: 'runtime',
    severity: 'recoverable',
    scope: 'engine',
    retry: 'never',
    logLevel: 'error',
    operator: false,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'InternalError',
    details: ['from', 'to', 'allowed'],
    suggestedAction: 'Ask only for a state of details.allowed.',
    native: false
  },
  AUDIT_LOG_INVALID: {
    ...operators,
    meaning: 'An audit log was changed, cut, reordered, or is being written by somebody else.',
    category: 'runtime',
    scope: 'engine',
    details: ['path', 'reason'],
    suggestedAction:
      'Keep the file as evidence, find out what changed it (details.line is the first bad line), and begin a new log.',
    native: false
  },
  RESOURCE_MEMORY_EXHAUSTED: {
    ...operators,
    meaning: 'There is not enough memory for a model or for a sequence.',
    category: 'resource',
    retry: 'backoff',
    httpStatus: 503,
    details: ['resourceInfo', 'alternatives'],
    suggestedAction:
      'Free memory, or take one of details.alternatives where there are some: a smaller weight type, context, batch or `memory`.',
    native: true
  },
  RUNTIME_INVARIANT_VIOLATED: {
    meaning: 'An internal check failed: a fault of this library.',
    category: 'runtime',
    severity: 'fatal',
    scope: 'engine',
    retry: 'never',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'InternalError',
    details: [],
    suggestedAction:
      'Report it with the message and details; running requests were ended and the engine has recovered.',
    native: true
  }
} as const satisfies Record<string, CatalogEntry>
