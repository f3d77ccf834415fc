/** Stops calling what keeps failing: closed, open for a while, half-open for a trial. */
import { performance } from 'node:perf_hooks'
import type { EngineError } from '../errors/index.js'
import { createError, isEngineError } from '../errors/index.js'

export type BreakerState = 'CLOSED' | 'OPEN' | 'HALF_OPEN'

export interface BreakerChange {
  name: string
  previous: BreakerState
  next: BreakerState
  reason: 'FAILURE_THRESHOLD_EXCEEDED' | 'COOLDOWN_ELAPSED' | 'SUCCESS_THRESHOLD_REACHED' | 'FAILURE_IN_HALF_OPEN'
  failureCount: number
  /** Milliseconds since the epoch. */
  at: number
}

export interface BreakerOptions {
  name: string
  /** Failures in a row that open it. */
  failureThreshold: number
  /** How long it stays open. */
  cooldownMs: number
  /** Successes in a row that close it from half-open, and the calls that half-open lets through at a time. */
  successThreshold: number
  /** Which failures count. Default: those that the catalogue calls retryable; a refusal or a cancellation neither counts nor closes. */
  counts?: (error: EngineError) => boolean
  onStateChange?: ((change: BreakerChange) => void) | undefined
  /** Milliseconds that only grow. */
  now?: () => number
}

/** Downloads and the archive. */
export const networkBreaker = { failureThreshold: 5, cooldownMs: 60_000, successThreshold: 1 } as const

export class CircuitBreaker {
  readonly #options: BreakerOptions
  readonly #now: () => number
  readonly #counts: (error: EngineError) => boolean
  #state: BreakerState = 'CLOSED'
  #failures = 0
  #successes = 0
  #trials = 0
  /** While as many trials run as half-open lets through. */
  #trial: { ended: Promise<void>; end: () => void } | undefined
  #openedAt = 0

  constructor(options: BreakerOptions) {
    this.#options = options
    this.#now = options.now ?? (() => performance.now())
    this.#counts = options.counts ?? ((error) => error.retryable)
  }

  get state(): BreakerState {
    return this.#state
  }

  /** Settles when a trial that keeps other calls out ends; undefined where none does. For calls that would rather wait than be refused. */
  get trial(): Promise<void> | undefined {
    return this.#trial?.ended
  }

  /**
   * The result of `call`. CIRCUIT_BREAKER_OPEN {failureCount, failureThreshold, cooldownSeconds, state, retryAfterSeconds} without
   * calling it while the circuit is open.
   */
  async execute<T>(call: () => Promise<T>): Promise<T> {
    this.#admit()
    const trial = this.#state === 'HALF_OPEN'
    if (trial && ++this.#trials === this.#options.successThreshold) this.#trial = pending()
    try {
      const result = await call()
      this.#succeeded(trial)
      return result
    } catch (error) {
      if (isEngineError(error) && this.#counts(error)) this.#failed(trial)
      throw error
    } finally {
      if (trial) {
        this.#trials--
        this.#trial?.end()
        this.#trial = undefined
      }
    }
  }

  #admit(): void {
    const { failureThreshold, cooldownMs, successThreshold, name } = this.#options
    const passed = this.#now() - this.#openedAt
    if (this.#state === 'OPEN' && passed >= cooldownMs) {
      this.#successes = 0
      this.#move('HALF_OPEN', 'COOLDOWN_ELAPSED')
    }
    if (this.#state === 'CLOSED' || (this.#state === 'HALF_OPEN' && this.#trials < successThreshold)) return
    const left = this.#state === 'OPEN' ? Math.max(1, Math.ceil((cooldownMs - passed) / 1000)) : 1
    throw createError(
      'CIRCUIT_BREAKER_OPEN',
      `${name} has failed ${this.#failures} times in a row; the next trial is in ${left} s`,
      {
        circuit: name,
        failureCount: this.#failures,
        failureThreshold,
        cooldownSeconds: cooldownMs / 1000,
        state: this.#state,
        retryAfterSeconds: left
      }
    )
  }

  #succeeded(trial: boolean): void {
    // A call from before the circuit opened says nothing about now.
    if (this.#state === 'OPEN' || (this.#state === 'HALF_OPEN' && !trial)) return
    if (this.#state === 'HALF_OPEN' && ++this.#successes < this.#options.successThreshold) return
    this.#failures = 0
    if (this.#state === 'HALF_OPEN') this.#move('CLOSED', 'SUCCESS_THRESHOLD_REACHED')
  }

  #failed(trial: boolean): void {
    this.#failures++
    // Nor does its failure.
    if (this.#state === 'OPEN' || (this.#state === 'HALF_OPEN' && !trial)) return
    const trialFailed = this.#state === 'HALF_OPEN'
    if (!trialFailed && this.#failures < this.#options.failureThreshold) return
    this.#openedAt = this.#now()
    this.#move('OPEN', trialFailed ? 'FAILURE_IN_HALF_OPEN' : 'FAILURE_THRESHOLD_EXCEEDED')
  }

  #move(next: BreakerState, reason: BreakerChange['reason']): void {
    const previous = this.#state
    this.#state = next
    this.#options.onStateChange?.({
      name: this.#options.name,
      previous,
      next,
      reason,
      failureCount: this.#failures,
      at: Date.now()
    })
  }
}

function pending(): { ended: Promise<void>; end: () => void } {
  let end = () => {}
  const ended = new Promise<void>((resolve) => {
    end = resolve
  })
  return { ended, end }
}
