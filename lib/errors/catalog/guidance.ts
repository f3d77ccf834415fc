/** Failures of structured output: schemas that cannot be followed, and texts that no token goes on. */
import type { CatalogEntry } from './entry.js'
import { request } from './entry.js'

export const guidance = {
  GUIDANCE_SCHEMA_UNSUPPORTED: {
    ...request,
    meaning: 'The JSON schema of a response format is not sound, asks for what cannot be followed, or accepts nothing.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'GuidanceError',
    details: ['path', 'reason'],
    suggestedAction:
      'Change the schema at details.path; details.reason says what is wrong there, docs/structured-output.md lists what is supported.',
    native: false
  },
  GUIDANCE_FAILED: {
    ...request,
    meaning: 'No token of the vocabulary can go on with a text of the response format; details has what was generated.',
    category: 'runtime',
    logLevel: 'error',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'GuidanceError',
    details: ['position', 'state', 'text', 'tokens', 'usage'],
    suggestedAction:
      'Take a model whose vocabulary has a token for every byte, or a schema whose texts this vocabulary can write; details.state says what may follow.',
    native: false
  }
} as const satisfies Record<string, CatalogEntry>
