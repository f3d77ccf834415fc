/** Deadlines that nest: what is inside ends with what is around it, and says which of them it was. */
import type { EngineError, TimeoutCode } from '../errors/index.js'
import { createError, createTimeoutError, isEngineError } from '../errors/index.js'
import type { Clock } from './clock.js'
import { systemClock } from './clock.js'

export interface DeadlineOptions {
  /** The deadline around this one; method, code and clock are its own where they are not given. */
  parent?: Deadline | undefined
  /** What is being done, for errors. Default 'call'. */
  method?: string | undefined
  /** Default CALL_TIMEOUT. */
  code?: TimeoutCode | undefined
  clock?: Clock | undefined
  /** The caller's: its abort ends the deadline early. */
  signal?: AbortSignal | undefined
}

/** Not the signal's own reason, whose stack would hold what was running. */
const noLonger = 'its time no longer counts'

export class Deadline implements Disposable {
  readonly #method: string
  readonly #code: TimeoutCode
  readonly #clock: Clock
  readonly #began: number
  /** Of this deadline alone. */
  readonly #timeoutMs: number
  /** When it ends, by the clock: with the one around it at the latest. */
  readonly #end: number
  /** The one around it, where that ends first. */
  readonly #first: Deadline | undefined
  readonly #ended = new AbortController()
  readonly #disposed = new AbortController()

  private constructor(ms: number | undefined, { parent, method, code, clock, signal }: DeadlineOptions) {
    this.#method = method ?? (parent ? parent.#method : 'call')
    this.#code = code ?? (parent ? parent.#code : 'CALL_TIMEOUT')
    this.#clock = clock ?? (parent ? parent.#clock : systemClock)
    this.#began = this.#clock.now()
    this.#timeoutMs = ms ?? Number.POSITIVE_INFINITY
    const own = this.#began + this.#timeoutMs
    this.#first = parent && parent.#end <= own ? parent : undefined
    this.#end = this.#first ? this.#first.#end : own
    for (const around of [parent?.signal, signal]) if (around) this.#follow(around)
    if (this.#end !== Number.POSITIVE_INFINITY && !this.signal.aborted) this.#wait()
  }

  /** A deadline `ms` milliseconds from now; undefined: none but that of the parent. Dispose it when the work has ended. */
  static after(ms: number | undefined, options: DeadlineOptions = {}): Deadline {
    return new Deadline(ms, options)
  }

  /** A deadline inside this one. */
  within(ms: number | undefined): Deadline {
    return new Deadline(ms, { parent: this })
  }

  /** Milliseconds that are left, 0 at the least; Infinity without a deadline. */
  remainingMs(): number {
    return this.signal.aborted ? 0 : Math.max(0, this.#end - this.#clock.now())
  }

  /** Aborts with `error()` as its reason: at the deadline, at the one around it, or when the caller aborts. */
  get signal(): AbortSignal {
    return this.#ended.signal
  }

  /** Throws `error()` once it has ended. */
  check(): void {
    if (this.remainingMs() > 0) return
    const error = this.error()
    // Seen before its timer fires.
    if (!this.#disposed.signal.aborted) this.#stop(error)
    throw error
  }

  /** Why it ended: a TimeoutError of the deadline that passed, or CANCELLED with the caller's reason as its cause. Before that, the former. */
  error(): EngineError {
    return this.signal.aborted ? this.signal.reason : (this.#first?.error() ?? this.#timeout())
  }

  /** Stops the clock: neither time nor aborts end it any more. */
  [Symbol.dispose](): void {
    this.#disposed.abort(noLonger)
  }

  #timeout(): EngineError {
    const [method, timeout] = [this.#method, this.#timeoutMs]
    const duration = this.#clock.now() - this.#began
    const text = `${method}: no end after ${Math.round(duration)} ms, of ${timeout} ms allowed`
    return createTimeoutError(this.#code, text, { method, timeout, duration })
  }

  #wait(): void {
    this.#clock.sleep(this.#end - this.#began, this.#disposed.signal, { keepsAlive: false }).then(
      () => this.#stop(this.error()),
      () => {}
    )
  }

  #follow(around: AbortSignal): void {
    const onAbort = (): void => {
      const { reason } = around
      const text = `${this.#method}: the caller aborted`
      this.#stop(
        isEngineError(reason) ? reason : createError('CANCELLED', text, { method: this.#method }, { cause: reason })
      )
    }
    if (around.aborted) onAbort()
    else around.addEventListener('abort', onAbort, { once: true, signal: this.#disposed.signal })
  }

  #stop(error: EngineError): void {
    this.#ended.abort(error)
    this.#disposed.abort(noLonger)
  }
}
