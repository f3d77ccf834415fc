/** What the catalogue says of each failure. */

/** What kind of failure it is: the caller's choice, a lack of something, a wrong route, or something that went wrong while running. */
export type ErrorCategory = 'configuration' | 'resource' | 'routing' | 'runtime'
/** Fatal means that the thing named by the scope cannot go on; the process always can. */
export type ErrorSeverity = 'recoverable' | 'fatal'
export type ErrorScope = 'request' | 'model' | 'engine' | 'process'
/** When the same call may be tried again: `after` = after details.retryAfterSeconds, `inherit` = as the cause says. */
export type RetryClass = 'never' | 'immediate' | 'backoff' | 'after' | 'inherit'
export type LogLevel = 'info' | 'warn' | 'error'

/** The names that mlx-serving gives to failures, each with its JSON-RPC code. */
export const engineCodes = {
  ParseError: -32700,
  InvalidRequest: -32600,
  MethodNotFound: -32601,
  InvalidParams: -32602,
  InternalError: -32603,
  ServerError: -32000,
  ModelLoadError: -32001,
  GenerationError: -32002,
  TokenizerError: -32003,
  GuidanceError: -32004,
  ModelNotLoaded: -32005,
  RuntimeError: -32006,
  TransportError: -32007,
  Timeout: -32008,
  Cancelled: -32009,
  UnknownError: -32010
} as const
export type EngineCode = keyof typeof engineCodes

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

/** What most failures have in common that somebody who runs the machine has to mend. */
export const operators = {
  ...request,
  logLevel: 'error',
  operator: true,
  httpStatus: 500,
  exitCode: 1,
  engineCode: 'ServerError'
} as const
