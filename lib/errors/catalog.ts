/**
 * The one list of failures: every code that this version can raise, with all that is derived from it: HTTP replies, exit codes,
 * JSON-RPC codes, retries, logs and docs/errors.md. `native` marks the codes of csrc/core/status.h; a test holds the two equal.
 */
import { config } from './catalog/config.js'
import { engine } from './catalog/engine.js'
import { experts } from './catalog/experts.js'
import { gpu } from './catalog/gpu.js'
import { guards } from './catalog/guards.js'
import { guidance } from './catalog/guidance.js'
import { model } from './catalog/model.js'
import { requests } from './catalog/requests.js'
import { serving } from './catalog/serving.js'
import { storage } from './catalog/storage.js'
import { workers } from './catalog/workers.js'

export type {
  CatalogEntry,
  ErrorCategory,
  ErrorScope,
  ErrorSeverity,
  LogLevel,
  RetryClass
} from './catalog/entry.js'

export const catalog = {
  ...engine,
  ...model,
  ...experts,
  ...gpu,
  ...requests,
  ...serving,
  ...storage,
  ...config,
  ...workers,
  ...guards,
  ...guidance
}

export type ErrorCode = keyof typeof catalog
