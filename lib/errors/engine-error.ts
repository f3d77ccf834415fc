/** The class of every failure. Everything but message, details and cause comes from the catalogue. */
import type { CatalogEntry, ErrorCategory, ErrorCode, ErrorScope, ErrorSeverity, LogLevel } from './catalog.js'
import { catalog } from './catalog.js'
import type { EngineCode } from './engine-codes.js'
import { engineCodeOf, engineCodeRetry, engineCodes } from './engine-codes.js'
import { toSnakeCase } from './wire.js'

/** Of a capacity: how much was needed and how much there is. */
export interface ResourceInfo {
  /** Null where the system did not say: a thread, or an object of a few bytes. */
  required: number | null
  available: number
  /** In use now, where known. */
  current: number | null
  /** The most there can be, where known. */
  limit: number | null
  unit: 'bytes' | 'requests' | 'tokens' | 'streams' | 'files' | 'workers'
}

/** Details in camelCase; `suggestedAction` is always there on an error that was made. */
export interface ErrorDetails extends Record<string, unknown> {
  suggestedAction?: string
  retryAfterSeconds?: number
  resourceInfo?: ResourceInfo
  alternatives?: unknown[]
}

export interface ErrorOptions {
  cause?: unknown
  /** When it happened, ISO 8601. Default: now. */
  timestamp?: string
}

/** An error on the wire and in logs: snake_case throughout. */
export interface WireError {
  code: ErrorCode
  engine_code: EngineCode
  category: ErrorCategory
  severity: ErrorSeverity
  retryable: boolean
  message: string
  details: Record<string, unknown>
  model: string | null
  request_id: string | null
  timestamp: string
  cause?: string
}

/** Codes whose `details.alternatives` say what would fit: [{change, value, required}], empty where nothing is known to. */
const withAlternatives: ReadonlySet<ErrorCode> = new Set([
  'RESOURCE_MEMORY_EXHAUSTED',
  'RESOURCE_BUDGET_TOO_SMALL',
  'GPU_VRAM_EXHAUSTED',
  'WORKER_OUT_OF_MEMORY'
])

let told: ((error: EngineError) => void) | undefined

/** Tells `listener` of every error when it is made; of what a derived class adds, nothing is there yet. */
export function onErrorMade(listener: (error: EngineError) => void): void {
  told = listener
}

const engineErrorBrand = Symbol.for('tiered-moe.EngineError')

/** Whether a value has the mark that a class gives to its instances, in whichever copy of this library. */
export const hasBrand = (value: unknown, brand: symbol): boolean =>
  typeof value === 'object' && value !== null && (value as Record<symbol, unknown>)[brand] === true

/**
 * Any failure of this library. Match on `code`. `instanceof` holds over duplicate copies of the library in one process
 * (its ESM and its CommonJS build), because it looks at a brand and not at the prototype.
 */
export class EngineError extends Error {
  readonly code: ErrorCode
  readonly details: ErrorDetails & { suggestedAction: string }
  readonly timestamp: string

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.details = {
      ...(withAlternatives.has(code) && { alternatives: [] }),
      ...details,
      suggestedAction: details.suggestedAction ?? catalog[code].suggestedAction
    }
    this.timestamp = options.timestamp ?? new Date().toISOString()
    const name = code === 'CANCELLED' && new.target === EngineError ? 'AbortError' : new.target.name
    Object.defineProperty(this, 'name', { value: name, configurable: true, writable: true })
    Object.defineProperty(this, engineErrorBrand, { value: true })
    told?.(this)
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    // A class that a user derives has no brand of its own.
    // biome-ignore lint/complexity/noThisInStatic: `this` is the class on the right of instanceof, which may be a derived one
    return this === EngineError ? hasBrand(value, engineErrorBrand) : super[Symbol.hasInstance](value)
  }

  /** All columns of the catalogue. */
  get entry(): CatalogEntry {
    return catalog[this.code]
  }
  get category(): ErrorCategory {
    return this.entry.category
  }
  get severity(): ErrorSeverity {
    return this.entry.severity
  }
  get scope(): ErrorScope {
    return this.entry.scope
  }
  /** Whether the same call may succeed when it is tried again. */
  get retryable(): boolean {
    if (this.entry.retry !== 'inherit') return this.entry.retry !== 'never'
    if (isEngineError(this.cause)) return this.cause.retryable
    const name = engineCodeOf(this.cause)
    return name !== undefined && engineCodeRetry[name] === 'backoff'
  }
  get logLevel(): LogLevel {
    return this.entry.logLevel
  }
  /** The name that mlx-serving gives to such a failure. */
  get engineCode(): EngineCode {
    return this.entry.engineCode
  }
  get jsonRpcCode(): number {
    return engineCodes[this.entry.engineCode]
  }
  get httpStatus(): number {
    return this.entry.httpStatus
  }
  get exitCode(): number {
    return this.entry.exitCode
  }

  /** The form for logs and for the wire. */
  toJSON(): WireError {
    const text = (key: string): string | null => {
      const value = this.details[key]
      return typeof value === 'string' ? value : null
    }
    const wire: WireError = {
      code: this.code,
      engine_code: this.engineCode,
      category: this.category,
      severity: this.severity,
      retryable: this.retryable,
      message: this.message,
      details: toSnakeCase(this.details) as Record<string, unknown>,
      model: text('model'),
      request_id: text('requestId'),
      timestamp: this.timestamp
    }
    if (this.cause !== undefined) wire.cause = messageOf(this.cause)
    return wire
  }
}

/** The name that mlx-serving has for EngineError. */
export const EngineClientError = EngineError
export type EngineClientError = EngineError

/** Whether a value is an error of this library, of any copy of it. */
export const isEngineError = (value: unknown): value is EngineError => hasBrand(value, engineErrorBrand)

/** What an error says; of what is none, its text. */
export function messageOf(error: unknown): string {
  const message = (error as { message?: unknown } | null | undefined)?.message
  return typeof message === 'string' ? message : String(error)
}
