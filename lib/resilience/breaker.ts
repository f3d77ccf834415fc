/** Stops calling what keeps failing: closed, open for a while, half-open for a trial. */
import { CircuitBreakerOpenError } from '../errors/index.js'
import type { Clock } from './clock.js'
import { systemClock } from './clock.js'
import { countsAsFailure } from './failures.js'
import { checkBreaker } from './options.js'

export type BreakerState = 'CLOSED' | 'OPEN' | 'HALF_OPEN'

export interface BreakerChange {
  name: string
  previous: BreakerState
  next: BreakerState
  reason:
    | 'FAILURE_THRESHOLD_EXCEEDED'
    | 'RECOVERY_TIMEOUT_ELAPSED'
    | 'SUCCESS_THRESHOLD_REACHED'
    | 'FAILURE_IN_HALF_OPEN'
    | 'RESTORED'
  failureCount: number
  /** Milliseconds since the epoch. */
  at: number
}

export interface CircuitBreakerOptions {
  /** Failures in a row that open it. */
  failureThreshold: number
  /** How long it stays open. */
  recoveryTimeoutMs: number
  /** Calls that half-open lets through at a time. */
  halfOpenMaxCalls: number
  /** Successes that close it from half-open. */
  halfOpenSuccessThreshold: number
  /** Failures are forgotten when none came for this long; Infinity: never. */
  failureWindowMs: number
  name: string
  /** What it throws is not heard of: it cannot change what a call gives. */
  onStateChange?: ((change: BreakerChange) => void) | undefined
  /** Which failures count. Default: those of what is behind, not of the caller, and no refusals; the others neither count nor close. */
  countsAsFailure?: ((error: unknown) => boolean) | undefined
  clock?: Clock | undefined
}

/** A circuit as data, for another process or a later one. Times are relative: nothing passes while it is only kept. */
export interface BreakerSnapshot {
  state: BreakerState
  failureCount: number
  successCount: number
  /** Milliseconds until it lets a trial through; 0 unless it is open. */
  retryAfterMs: number
  /** Milliseconds since the last failure that counts; null where there is none. */
  sinceFailureMs: number | null
}

/** A call that was let through. */
interface Admitted {
  /** Times that the circuit had opened by then. */
  openings: number
  trial: boolean
}

/** Told to callers that a trial keeps out: nobody knows how long it takes. */
const trialRetryMs = 1000

export class CircuitBreaker {
  readonly #options: CircuitBreakerOptions
  readonly #clock: Clock
  #state: BreakerState = 'CLOSED'
  #failures = 0
  #failedAt: number | undefined
  #successes = 0
  #trials = 0
  #openedAt = 0
  #openings = 0
  /** While as many trials run as half-open lets through. */
  #full: { ended: Promise<void>; end: () => void } | undefined

  /** VALIDATION_ERROR for bad options. */
  constructor(options: CircuitBreakerOptions) {
    checkBreaker(options)
    this.#options = options
    this.#clock = options.clock ?? systemClock
  }

  /** An open circuit becomes half-open by the first call after its time. */
  get state(): BreakerState {
    return this.#state
  }

  /** Settles when a trial that keeps other calls out ends; undefined where none does. For calls that would rather wait than be refused. */
  get trial(): Promise<void> | undefined {
    return this.#full?.ended
  }

  /** The result of `fn`. CircuitBreakerOpenError {retryAfterMs, state, circuit}, without calling it, where the circuit lets no call through. */
  async execute<T>(fn: () => T | Promise<T>): Promise<T> {
    const admitted = this.#admit()
    let result: T
    try {
      result = await fn()
    } catch (error) {
      const counts = this.#options.countsAsFailure ?? countsAsFailure
      this.#ended(admitted)
      if (counts(error)) this.#failed(admitted)
      throw error
    }
    this.#ended(admitted)
    this.#succeeded(admitted)
    return result
  }

  snapshot(): BreakerSnapshot {
    const now = this.#clock.now()
    return {
      state: this.#state,
      failureCount: this.#failures,
      successCount: this.#successes,
      retryAfterMs: this.#state === 'OPEN' ? Math.max(0, this.#options.recoveryTimeoutMs - (now - this.#openedAt)) : 0,
      sinceFailureMs: this.#failedAt === undefined ? null : now - this.#failedAt
    }
  }

  /** Takes the state of a snapshot; calls that are under way say nothing about it. */
  restore(snapshot: BreakerSnapshot): void {
    const now = this.#clock.now()
    this.#openings++
    this.#failures = snapshot.failureCount
    this.#successes = snapshot.successCount
    this.#failedAt = snapshot.sinceFailureMs === null ? undefined : now - snapshot.sinceFailureMs
    this.#openedAt = now - (this.#options.recoveryTimeoutMs - snapshot.retryAfterMs)
    this.#clearTrials()
    if (snapshot.state !== this.#state) this.#move(snapshot.state, 'RESTORED')
  }

  #admit(): Admitted {
    const { recoveryTimeoutMs, halfOpenMaxCalls } = this.#options
    const left = recoveryTimeoutMs - (this.#clock.now() - this.#openedAt)
    if (this.#state === 'OPEN' && left <= 0) {
      this.#successes = 0
      this.#clearTrials()
      this.#move('HALF_OPEN', 'RECOVERY_TIMEOUT_ELAPSED')
    }
    if (this.#state === 'OPEN') throw this.#refusal('OPEN', left)
    const trial = this.#state === 'HALF_OPEN'
    if (trial) {
      if (this.#trials >= halfOpenMaxCalls) throw this.#refusal('HALF_OPEN', trialRetryMs)
      if (++this.#trials === halfOpenMaxCalls) this.#full = pending()
    }
    return { openings: this.#openings, trial }
  }

  #refusal(state: 'OPEN' | 'HALF_OPEN', retryAfterMs: number): CircuitBreakerOpenError {
    const { name, failureThreshold, recoveryTimeoutMs } = this.#options
    const when = state === 'OPEN' ? `the next trial is in ${Math.ceil(retryAfterMs)} ms` : 'a trial is under way'
    return new CircuitBreakerOpenError(`${name} has failed ${this.#failures} times in a row; ${when}`, {
      circuit: name,
      failureCount: this.#failures,
      failureThreshold,
      cooldownSeconds: recoveryTimeoutMs / 1000,
      state,
      retryAfterMs
    })
  }

  /** A trial's place is free again. */
  #ended({ openings, trial }: Admitted): void {
    if (!trial || openings !== this.#openings) return
    this.#trials--
    this.#full?.end()
    this.#full = undefined
  }

  #clearTrials(): void {
    this.#trials = 0
    this.#full?.end()
    this.#full = undefined
  }

  #succeeded({ openings }: Admitted): void {
    // A call from before the circuit opened says nothing about now, however it ends.
    if (openings !== this.#openings) return
    if (this.#state === 'HALF_OPEN' && ++this.#successes < this.#options.halfOpenSuccessThreshold) return
    this.#failures = 0
    this.#failedAt = undefined
    if (this.#state === 'HALF_OPEN') this.#move('CLOSED', 'SUCCESS_THRESHOLD_REACHED')
  }

  #failed({ openings }: Admitted): void {
    if (openings !== this.#openings) return
    const { failureThreshold, failureWindowMs } = this.#options
    const now = this.#clock.now()
    const forgotten = this.#failedAt !== undefined && now - this.#failedAt > failureWindowMs
    this.#failures = forgotten ? 1 : this.#failures + 1
    this.#failedAt = now
    const trialFailed = this.#state === 'HALF_OPEN'
    if (!trialFailed && this.#failures < failureThreshold) return
    this.#openedAt = now
    this.#openings++
    this.#clearTrials()
    this.#move('OPEN', trialFailed ? 'FAILURE_IN_HALF_OPEN' : 'FAILURE_THRESHOLD_EXCEEDED')
  }

  #move(next: BreakerState, reason: BreakerChange['reason']): void {
    const { name, onStateChange } = this.#options
    const previous = this.#state
    this.#state = next
    try {
      onStateChange?.({ name, previous, next, reason, failureCount: this.#failures, at: Date.now() })
    } catch {
      // A listener's failure is its own.
    }
  }
}

function pending(): { ended: Promise<void>; end: () => void } {
  let end = () => {}
  const ended = new Promise<void>((resolve) => {
    end = resolve
  })
  return { ended, end }
}
