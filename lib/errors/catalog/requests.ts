/** Failures of one request: what it asked for, and how it ended. */
import type { CatalogEntry } from './entry.js'
import { deadline, request } from './entry.js'

export const requests = {
  CONTEXT_LENGTH_EXCEEDED: {
    ...request,
    meaning: "The tokens do not fit the model's context.",
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidParams',
    details: ['required', 'limit'],
    suggestedAction: 'Shorten the prompt, or load the model with a larger contextLength if it supports one.',
    native: true
  },
  INFERENCE_TIMEOUT: {
    ...deadline,
    meaning: 'A generation took longer than its timeoutMs; the details have the text up to then.',
    suggestedAction: 'Raise timeoutMs, ask for fewer tokens, or use a smaller model.'
  },
  RUNTIME_NAN_DETECTED: {
    ...request,
    meaning: 'A value that is not finite appeared; this sequence stops, the others of its batch go on with equal bits.',
    category: 'runtime',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'GenerationError',
    details: ['token|tensor'],
    suggestedAction:
      'Check the weights of the model (a damaged or badly quantised file); the same input gives it again.',
    native: true
  },
  REQUEST_ALREADY_EXISTS: {
    ...request,
    meaning: 'A request with this id is running, or is in the journal and was not acknowledged.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidRequest',
    details: ['requestId'],
    suggestedAction: 'Resume it with resumeGenerator(), acknowledge it, or use another requestId.',
    native: false
  },
  REQUEST_NOT_FOUND: {
    ...request,
    meaning: 'No request with this id is in the journal: never accepted, acknowledged, or expired.',
    category: 'configuration',
    httpStatus: 404,
    exitCode: 1,
    engineCode: 'InvalidRequest',
    details: ['requestId', 'method'],
    suggestedAction:
      'Check the id (engine.recovered lists those of an earlier run), or begin it again with createGenerator().',
    native: false
  },
  CANCELLED: {
    ...request,
    meaning: 'The caller aborted; the details of a generation have the text up to then.',
    category: 'runtime',
    logLevel: 'info',
    httpStatus: 499,
    exitCode: 130,
    engineCode: 'Cancelled',
    details: [],
    suggestedAction: 'Nothing to do: the caller asked for it.',
    native: true
  }
} as const satisfies Record<string, CatalogEntry>
