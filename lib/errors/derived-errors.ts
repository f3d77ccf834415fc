/** The errors that have fields of their own beside their details. */
import type { ErrorCode } from './catalog.js'
import type { ErrorDetails, ErrorOptions } from './engine-error.js'
import { EngineError, hasBrand } from './engine-error.js'

const timeoutErrorBrand = Symbol.for('tiered-moe.TimeoutError')
const circuitErrorBrand = Symbol.for('tiered-moe.CircuitBreakerOpenError')
const retryAbortedBrand = Symbol.for('tiered-moe.RetryAbortedError')

export interface TimeoutDetails extends ErrorDetails {
  /** The method that was called. */
  method: string
  /** What was allowed, in milliseconds. */
  timeout: number
  requestId?: string
  /** What had passed, in milliseconds. */
  duration: number
}

const timeoutCodes = ['INFERENCE_TIMEOUT', 'MODEL_LOAD_TIMEOUT', 'CALL_TIMEOUT'] as const satisfies readonly ErrorCode[]
export type TimeoutCode = (typeof timeoutCodes)[number]

/** A deadline that passed: INFERENCE_TIMEOUT, MODEL_LOAD_TIMEOUT, CALL_TIMEOUT. */
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
    // biome-ignore lint/complexity/noThisInStatic: `this` is the class on the right of instanceof, which may be a derived one
    return this === TimeoutError ? hasBrand(value, timeoutErrorBrand) : super[Symbol.hasInstance](value)
  }
}

export interface CircuitDetails extends ErrorDetails {
  /** Name of the circuit. */
  circuit?: string
  state: 'OPEN' | 'HALF_OPEN'
  retryAfterMs: number
}

/** A circuit lets no call through: CIRCUIT_BREAKER_OPEN. */
export class CircuitBreakerOpenError extends EngineError {
  /** Milliseconds until a call may be let through. */
  readonly retryAfterMs: number
  /** HALF_OPEN: as many calls as may try it are under way. */
  readonly state: 'OPEN' | 'HALF_OPEN'
  readonly circuit?: string

  constructor(message: string, details: CircuitDetails, options: ErrorOptions = {}) {
    const { retryAfterMs, state, circuit } = details
    super('CIRCUIT_BREAKER_OPEN', message, { retryAfterSeconds: Math.ceil(retryAfterMs / 1000), ...details }, options)
    this.retryAfterMs = retryAfterMs
    this.state = state
    if (circuit !== undefined) this.circuit = circuit
    Object.defineProperty(this, circuitErrorBrand, { value: true })
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    // biome-ignore lint/complexity/noThisInStatic: as above
    return this === CircuitBreakerOpenError ? hasBrand(value, circuitErrorBrand) : super[Symbol.hasInstance](value)
  }
}

/** The caller aborted a call that is tried again when it fails: CANCELLED. `cause` is the reason of the signal. */
export class RetryAbortedError extends EngineError {
  /** Attempts that had begun. */
  readonly attempts: number

  constructor(message: string, details: ErrorDetails & { attempts: number }, options: ErrorOptions = {}) {
    super('CANCELLED', message, details, options)
    this.attempts = details.attempts
    Object.defineProperty(this, retryAbortedBrand, { value: true })
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    // biome-ignore lint/complexity/noThisInStatic: as above
    return this === RetryAbortedError ? hasBrand(value, retryAbortedBrand) : super[Symbol.hasInstance](value)
  }
}

/** The error of a code, in the class that has the fields which its details have. */
export function errorOf(
  code: ErrorCode,
  message: string,
  details: ErrorDetails,
  options: ErrorOptions = {}
): EngineError {
  if (isTimeoutCode(code) && isTimeout(details)) return new TimeoutError(code, message, details, options)
  if (code === 'CIRCUIT_BREAKER_OPEN' && isCircuit(details))
    return new CircuitBreakerOpenError(message, details, options)
  return new EngineError(code, message, details, options)
}

const isTimeoutCode = (code: ErrorCode): code is TimeoutCode => (timeoutCodes as readonly ErrorCode[]).includes(code)

const isTimeout = (details: ErrorDetails): details is TimeoutDetails =>
  typeof details.method === 'string' && typeof details.timeout === 'number' && typeof details.duration === 'number'

const isCircuit = (details: ErrorDetails): details is CircuitDetails =>
  (details.state === 'OPEN' || details.state === 'HALF_OPEN') && typeof details.retryAfterMs === 'number'
