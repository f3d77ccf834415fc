/** What the catalogue says of each failure. */
import type { EngineCode } from '../engine-codes.js'

/** What kind of failure it is: the caller's choice, a lack of something, a wrong route, or something that went wrong while running. */
export type ErrorCategory = 'configuration' | 'resource' | 'routing' | 'runtime'
/** Fatal means that the thing named by the scope cannot go on; the process always can. */
export type ErrorSeverity = 'recoverable' | 'fatal'
export type ErrorScope = 'request' | 'model' | 'engine' | 'process'
/** When the same call may be tried again: `after` = after details.retryAfterSeconds, `inherit` = as the cause says. */
export type RetryClass = 'never' | 'immediate' | 'backoff' | 'after' | 'inherit'
export type LogLevel = 'info' | 'warn' | 'error'

export interface CatalogEntry {
  /** When it is raised, one sentence. */
  meaning: string
  category: ErrorCategory
  severity: ErrorSeverity
  scope: ErrorScope
  retry: RetryClass
  logLevel: LogLevel
  /** Someone who runs the machine has to do something. */
  operator: boolean
  httpStatus: number
  exitCode: number
  engineCode: EngineCode
  /**
   * What `details` always has beside `suggestedAction`, in camelCase; null where it is not known. `a|b` is one of the two. Checked of every
   * error that the tests raise (scripts/check-raised.mjs).
   */
  details: readonly string[]
  suggestedAction: string
  /** Also a code of the addon's status enum. */
  native: boolean
}

/** What most failures of one call have in common. */
export const request = {
  severity: 'recoverable',
  scope: 'request',
  retry: 'never',
  logLevel: 'warn',
  operator: false
} as const

/** A deadline that passed: what a TimeoutError is made of. */
export const deadline = {
  ...request,
  category: 'resource',
  retry: 'backoff',
  logLevel: 'error',
  httpStatus: 504,
  exitCode: 124,
  engineCode: 'Timeout',
  details: ['method', 'timeout', 'duration', 'timeoutSeconds', 'elapsedSeconds'],
  native: false
} as const

/** What most failures have in common that somebody who runs the machine has to mend. */
export const operators = {
  ...request,
  logLevel: 'error',
  operator: true,
  httpStatus: 500,
  exitCode: 1,
  engineCode: 'ServerError'
} as const
