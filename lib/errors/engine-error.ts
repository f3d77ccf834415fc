/** The error classes. Everything but message, details and cause comes from the catalogue. */
import type {
  CatalogEntry,
  EngineCode,
  ErrorCategory,
  ErrorCode,
  ErrorScope,
  ErrorSeverity,
  LogLevel
} from './catalog.js'
import { catalog, engineCodes } from './catalog.js'
import { toSnakeCase } from './wire.js'

/** Of a capacity: how much was needed and how much there is. */
export interface ResourceInfo {
  required: number
  available: number
  /** In use now, where known. */
  current: number | null
  /** The most there can be, where known. */
  limit: number | null
  unit: 'bytes'
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
  'GPU_VRAM_EXHAUSTED'
])

const engineErrorBrand = Symbol.for('tiered-moe.EngineError')
const timeoutErrorBrand = Symbol.for('tiered-moe.TimeoutError')

const hasBrand = (value: unknown, brand: symbol): boolean =>
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
    this.timestamp = new Date().toISOString()
    const name = code === 'CANCELLED' ? 'AbortError' : new.target.name
    Object.defineProperty(this, 'name', { value: name, configurable: true, writable: true })
    Object.defineProperty(this, engineErrorBrand, { value: true })
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
    return hasBrand(this.cause, engineErrorBrand) && (this.cause as EngineError).retryable
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
    if (this.cause !== undefined) wire.cause = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return wire
  }
}

/** The name that mlx-serving has for EngineError. */
export const EngineClientError = EngineError
export type EngineClientError = EngineError

export interface TimeoutDetails extends ErrorDetails {
  /** The method of the engine that was called. */
  method: string
  /** What was allowed, in milliseconds. */
  timeout: number
  requestId?: string
  /** What had passed, in milliseconds. */
  duration: number
}

export type TimeoutCode = 'INFERENCE_TIMEOUT' | 'MODEL_LOAD_TIMEOUT'

/** A deadline that passed: INFERENCE_TIMEOUT, MODEL_LOAD_TIMEOUT. */
export class TimeoutError extends EngineError {
  readonly method: string
  /** What was allowed, in milliseconds. */
  readonly timeout: number
  readonly requestId?: string
  /** What had passed, in milliseconds. */
  readonly duration: number

  constructor(code: TimeoutCode, message: string, details: TimeoutDetails, options: ErrorOptions = {}) {
    const seconds = { timeoutSeconds: details.timeout / 1000, elapsedSeconds: details.duration / 1000 }
    super(code, message, { ...details, ...seconds }, options)
    this.method = details.method
    this.timeout = details.timeout
    this.duration = details.duration
    if (details.requestId !== undefined) this.requestId = details.requestId
    Object.defineProperty(this, timeoutErrorBrand, { value: true })
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    // biome-ignore lint/complexity/noThisInStatic: as above
    return this === TimeoutError ? hasBrand(value, timeoutErrorBrand) : super[Symbol.hasInstance](value)
  }
}

/** Whether a value is an error of this library, of any copy of it. */
export const isEngineError = (value: unknown): value is EngineError => hasBrand(value, engineErrorBrand)
