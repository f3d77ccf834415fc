/** Failures of a configuration file and of what goes over it: the process does not begin with it. */
import type { CatalogEntry } from './entry.js'
import { request } from './entry.js'

const configuration = {
  ...request,
  category: 'configuration',
  scope: 'process',
  logLevel: 'error',
  operator: true,
  httpStatus: 400,
  exitCode: 2,
  native: false
} as const

export const config = {
  CONFIG_INVALID: {
    ...configuration,
    meaning:
      'A setting has a value that is not allowed, an unknown name, or contradicts another one; `details.faults` lists all of them.',
    engineCode: 'InvalidParams',
    details: ['source', 'path', 'found', 'allowed'],
    suggestedAction: 'Change it where details.source says; docs/configuration.md lists all settings.'
  },
  CONFIG_PARSE_FAILED: {
    ...configuration,
    meaning: 'The configuration cannot be read as YAML or JSON.',
    engineCode: 'ParseError',
    details: ['source', 'line', 'column', 'reason'],
    suggestedAction: 'Mend the file at details.line and details.column; details.reason says what is wrong there.'
  },
  CONFIG_NOT_FOUND: {
    ...configuration,
    meaning: 'The configuration file that was named does not exist.',
    engineCode: 'InvalidParams',
    details: ['path', 'tried'],
    suggestedAction: 'Check the path after --config or in the variable TIERED_MOE_CONFIG.'
  },
  CONFIG_UNKNOWN_ENVIRONMENT: {
    ...configuration,
    meaning: 'The environment that was named is not one of those that the file has under `environments`.',
    engineCode: 'InvalidParams',
    details: ['environment', 'known'],
    suggestedAction: 'Name one of details.known in TIERED_MOE_ENV, or add it to the file.'
  }
} as const satisfies Record<string, CatalogEntry>
