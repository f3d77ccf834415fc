/** What callers hand to retries, breakers and admission, checked at the border. */
import { z } from 'zod'
import { callback, validated } from '../schemas.js'
import type { AdmissionAsk, AdmissionLimits } from './admission.js'
import type { CircuitBreakerOptions } from './breaker.js'
import type { Clock } from './clock.js'
import { Deadline } from './deadline.js'
import type { RetryOptions } from './retry.js'

export const count = z.number().int().min(1).describe('an integer of at least 1')
const milliseconds = z.number().min(0).describe('a number of milliseconds of at least 0')
const period = z
  .union([z.number().min(0), z.literal(Number.POSITIVE_INFINITY)])
  .describe('a number of milliseconds of at least 0, or Infinity')

const clock = z
  .custom<Clock>(
    (value) => typeof (value as Clock | null)?.now === 'function' && typeof (value as Clock).sleep === 'function'
  )
  .optional()
  .describe('a Clock: {now, sleep}')

const retrySchema = z.strictObject({
  maxAttempts: count,
  initialDelayMs: milliseconds,
  maxDelayMs: milliseconds,
  backoffMultiplier: z.number().min(1).describe('a number of at least 1'),
  jitter: z
    .union([z.number().min(0).max(1), z.strictObject({ addMs: z.number().min(0) })])
    .describe('a share from 0 to 1, or {addMs}'),
  retryableErrors: z.array(z.string()).readonly().optional().describe('a list of codes, engineCodes or errnos'),
  signal: z.instanceof(AbortSignal).optional().describe('an AbortSignal'),
  onRetry: callback().describe('a function'),
  gotFurther: callback().describe('a function'),
  method: z.string().optional().describe('a text'),
  delaysMs: z.array(z.number().min(0)).min(1).readonly().optional().describe('a list of milliseconds of at least 0'),
  random: callback().describe('a function'),
  clock
})

const breakerSchema = z.strictObject({
  failureThreshold: count,
  recoveryTimeoutMs: milliseconds,
  halfOpenMaxCalls: count,
  halfOpenSuccessThreshold: count,
  failureWindowMs: period,
  name: z.string().min(1).describe('a text'),
  onStateChange: callback().describe('a function'),
  countsAsFailure: callback().describe('a function'),
  clock
})

/** Throws VALIDATION_ERROR {path, found, allowed}. */
export function checkRetry(options: RetryOptions): void {
  validated(retrySchema, options, 'retryWithBackoff')
}

/** Throws VALIDATION_ERROR {path, found, allowed}. */
export function checkBreaker(options: CircuitBreakerOptions): void {
  validated(breakerSchema, options, 'CircuitBreaker')
}

const amount = z.number().min(0).describe('a number of at least 0')
export const aboveZero = z.number().positive().describe('a number above 0')

/** What one client may take. */
export const clientSchema = z
  .strictObject({
    concurrency: count.optional(),
    queueDepth: z.number().int().min(0).optional().describe('an integer of at least 0'),
    requestsPerMinute: aboveZero.optional(),
    tokensPerMinute: aboveZero.optional()
  })
  .describe('{concurrency?, queueDepth?, requestsPerMinute?, tokensPerMinute?}')

const admissionSchema = z.strictObject({
  concurrency: count,
  queueDepth: z.number().int().min(0).describe('an integer of at least 0'),
  queueWaitMs: milliseconds,
  tokensInFlight: aboveZero.optional(),
  memoryReserveBytes: amount,
  perClient: clientSchema
})

const askSchema = z.strictObject({
  client: z.string().describe('a text'),
  priority: z.number().int().min(1).max(10).describe('an integer from 1 to 10'),
  promptTokens: amount,
  maxTokens: amount,
  kvBytes: amount,
  deadline: z.custom<Deadline>((value) => value instanceof Deadline).describe('a Deadline')
})

/** Throws VALIDATION_ERROR {path, found, allowed}. */
export function checkAdmission(limits: AdmissionLimits): void {
  validated(admissionSchema, limits, 'AdmissionControl')
}

/** Throws VALIDATION_ERROR {path, found, allowed}. */
export function checkAsk(ask: AdmissionAsk): void {
  validated(askSchema, ask, 'AdmissionControl.admit')
}
