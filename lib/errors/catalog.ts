/**
 * The one list of failures: every code that this version can raise, with all that is derived from it: HTTP replies, exit codes,
 * JSON-RPC codes, retries, logs and docs/errors.md. `native` marks the codes of csrc/core/status.h; a test holds the two equal.
 */
import { engine } from './catalog/engine.js'
import { experts } from './catalog/experts.js'
import { gpu } from './catalog/gpu.js'
import { model } from './catalog/model.js'
import { requests } from './catalog/requests.js'
import { storage } from './catalog/storage.js'

export type {
  CatalogEntry,
  EngineCode,
  ErrorCategory,
  ErrorScope,
  ErrorSeverity,
  LogLevel,
  RetryClass
} from './catalog/entry.js'
export { engineCodes } from './catalog/entry.js'

export const catalog = { ...engine, ...model, ...experts, ...gpu, ...requests, ...storage }

export type ErrorCode = keyof typeof catalog
