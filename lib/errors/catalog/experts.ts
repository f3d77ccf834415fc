/** Failures of experts: their bytes, their memory, their tiers and the routes to them. */
import type { CatalogEntry } from './entry.js'
import { request } from './entry.js'

export const experts = {
  CONFIG_UNKNOWN_TIER: {
    ...request,
    meaning: 'A configuration, a TierSet or a request names a tier that the model does not have.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 2,
    engineCode: 'InvalidParams',
    details: ['tier', 'known', 'tierSets'],
    suggestedAction: 'Use names of details.known, or one of details.tierSets.',
    native: false
  },
  TIER_UNAVAILABLE: {
    ...request,
    meaning: 'A TierSet or a request names a tier that the model was loaded without.',
    category: 'configuration',
    operator: true,
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'InvalidParams',
    details: ['tier', 'available'],
    suggestedAction:
      'Use tiers of details.available, or add the tier from a folder that has it: engine.expand(model, {from: folder}).',
    native: false
  },
  EXPERT_UNAVAILABLE: {
    ...request,
    meaning: 'An expert could not be read, twice in a row; requests that need it fail, the others go on.',
    category: 'resource',
    retry: 'backoff',
    logLevel: 'error',
    operator: true,
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'GenerationError',
    details: ['layer', 'expert'],
    suggestedAction: 'Check the disk and the file of details.path; the next use of the expert tries again.',
    native: true
  },
  EXPERT_CORRUPTED: {
    ...request,
    meaning:
      "An expert's bytes do not have the checksum that the manifest says; requests that need it fail, the others go on.",
    category: 'runtime',
    scope: 'model',
    retry: 'immediate',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'RuntimeError',
    details: ['file', 'offset', 'expected', 'actual'],
    suggestedAction:
      'Restore the file that details.file names from its source, or convert the model again; `tiered-moe verify` finds all.',
    native: true
  },
  RESOURCE_BUDGET_TOO_SMALL: {
    ...request,
    meaning:
      'A budget is smaller than the least that can work: that for experts holds one for every thread and one in flight, beside those pinned.',
    category: 'resource',
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'ServerError',
    details: ['resourceInfo', 'alternatives'],
    suggestedAction:
      'Raise the budget to details.resourceInfo.required bytes, ask for a shorter context, use fewer threads, or unpin experts.',
    native: true
  },
  ROUTING_INVALID_EXPERT: {
    ...request,
    meaning: 'A route names an expert that does not exist.',
    category: 'routing',
    logLevel: 'error',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidParams',
    details: ['token', 'slot', 'expertId'],
    suggestedAction: 'Use expert ids from 0 to experts - 1; details has the token, the slot and the id.',
    native: true
  },
  ROUTING_TOO_FEW_EXPERTS: {
    ...request,
    meaning: 'A TierSet enables fewer experts of a layer than a token uses.',
    category: 'routing',
    logLevel: 'warn',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidParams',
    details: ['layer', 'enabled', 'k'],
    suggestedAction:
      'Enable more tiers; details has the layer, how many experts are enabled and how many a token uses.',
    native: true
  },
  DISPATCH_SEGMENT_CORRUPTED: {
    ...request,
    meaning: 'Rows that one EP rank sent to another did not arrive as they were sent.',
    category: 'runtime',
    retry: 'immediate',
    logLevel: 'error',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'TransportError',
    details: ['source', 'destination', 'field'],
    suggestedAction:
      'Compute the layer again; details has the two ranks and the field. If it comes again, look at what carries the segments.',
    native: false
  },
  RUNTIME_MEMORY_CORRUPTION: {
    ...request,
    meaning:
      'The bytes of an expert have changed in memory since they were read; what was computed with it may be wrong.',
    category: 'runtime',
    scope: 'engine',
    retry: 'immediate',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'RuntimeError',
    details: ['layer', 'expert'],
    suggestedAction:
      "Generate again (the expert is read again); test the machine's memory and look for addons that write where they should not.",
    native: true
  },
  TRACE_INVALID: {
    ...request,
    meaning: 'A file is no trace of an expert cache, is of a newer version, or was damaged.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidParams',
    details: ['path', 'reason'],
    suggestedAction: 'Record the trace again; details.reason says what is wrong with the file.',
    native: false
  }
} as const satisfies Record<string, CatalogEntry>
