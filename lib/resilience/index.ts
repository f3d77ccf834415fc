/**
 * `tiered-moe/resilience`: retries with backoff, circuit breakers, nested deadlines and admission, for calls of whatever kind.
 *
 *     const breaker = new CircuitBreaker({ name: 'registry', ...profiles.network.breaker })
 *     using deadline = Deadline.after(30_000, { method: 'lookUp' })
 *     await withResilience(() => fetch(url, { signal: deadline.signal }), { breaker, retry: profiles.network.retry, deadline })
 */
import '../errors/diagnostics.js'

export { CircuitBreakerOpenError, RetryAbortedError } from '../errors/index.js'
export type { AdmissionAsk, AdmissionLimits, AdmissionNeeds, AdmissionStats, Ticket } from './admission.js'
export { AdmissionControl } from './admission.js'
export type { RateLimitedReason, UnavailableReason } from './admission-errors.js'
export type { Backoff } from './backoff.js'
export { seededRandom } from './backoff.js'
export type { BreakerChange, BreakerSnapshot, BreakerState, CircuitBreakerOptions } from './breaker.js'
export { CircuitBreaker } from './breaker.js'
export type { ClientLimits } from './client-limits.js'
export type { Clock } from './clock.js'
export { systemClock } from './clock.js'
export type { DeadlineOptions } from './deadline.js'
export { Deadline } from './deadline.js'
export { countsAsFailure, isRetryable } from './failures.js'
export type { ResilienceProfile } from './profiles.js'
export { profiles } from './profiles.js'
export type { RetryEvent, RetryOptions } from './retry.js'
export { retryWithBackoff } from './retry.js'
export type { ResilienceOptions } from './with-resilience.js'
export { withResilience } from './with-resilience.js'
