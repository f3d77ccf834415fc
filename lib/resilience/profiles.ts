/** The settings of retries and breakers for the two kinds of things that fail from outside. Source: SEEDS 1.2. */
import type { CircuitBreakerOptions } from './breaker.js'
import type { RetryOptions } from './retry.js'

export interface ResilienceProfile {
  retry: RetryOptions
  /** All but its name. */
  breaker: Omit<CircuitBreakerOptions, 'name'>
}

export const profiles = {
  /** Downloads and the archive: 1, 2, 4, 8, 16 s and up to 1 s more. */
  network: {
    retry: {
      maxAttempts: 5,
      initialDelayMs: 1000,
      maxDelayMs: 16_000,
      backoffMultiplier: 2,
      jitter: { addMs: 1000 }
    },
    breaker: {
      failureThreshold: 5,
      recoveryTimeoutMs: 60_000,
      halfOpenMaxCalls: 1,
      halfOpenSuccessThreshold: 1,
      failureWindowMs: Number.POSITIVE_INFINITY
    }
  },
  /** Calls to another process of this machine: 100 ms doubling to 5 s, a quarter more or less. */
  rpc: {
    retry: {
      maxAttempts: 3,
      initialDelayMs: 100,
      maxDelayMs: 5000,
      backoffMultiplier: 2,
      jitter: 0.25,
      retryableErrors: ['TIMEOUT', 'ECONNRESET', 'TransportError']
    },
    breaker: {
      failureThreshold: 5,
      recoveryTimeoutMs: 10_000,
      halfOpenMaxCalls: 1,
      halfOpenSuccessThreshold: 2,
      failureWindowMs: 60_000
    }
  }
} as const satisfies Record<string, ResilienceProfile>
