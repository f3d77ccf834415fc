/** Ends one native call when its caller aborts, when its time is up, or when the engine says so. */
import { performance } from 'node:perf_hooks'
import type { TimeoutCode } from './errors/index.js'
import { createError, createTimeoutError, isEngineError } from './errors/index.js'
import type { Deadlines } from './generation/deadlines.js'
import { ended } from './generation/deadlines.js'
import type { CallOptions } from './generation/options.js'
import type { NativeCancel } from './native.js'

export class Interruption {
  readonly #cancel: NativeCancel
  readonly #abort = new AbortController()
  readonly #stopWatching: () => void
  #reason: unknown
  /** Interrupts where the time is up and the timer has not fired yet. */
  readonly #checkTime: () => void
  #onInterrupt: () => void = () => {}

  /** `subject` begins the messages: what was being done. */
  constructor(cancel: NativeCancel, method: string, subject: string, timeoutCode: TimeoutCode, call: CallOptions) {
    this.#cancel = cancel
    const { signal, timeoutMs } = call
    const began = performance.now()
    const onAbort = (): void => {
      this.interrupt(createError('CANCELLED', `${subject}: the caller aborted`, { method }, { cause: signal?.reason }))
    }
    const onTimeout = (): void => {
      const duration = performance.now() - began
      const text = `${subject}: no end after ${Math.round(duration)} ms, of ${timeoutMs} ms allowed`
      this.interrupt(createTimeoutError(timeoutCode, text, { method, timeout: timeoutMs!, duration }))
    }
    // Native work in progress keeps the process alive; a deadline alone must not.
    const timer = timeoutMs === undefined ? undefined : setTimeout(onTimeout, timeoutMs).unref()
    this.#checkTime = () => {
      if (timeoutMs !== undefined && performance.now() - began >= timeoutMs) onTimeout()
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#stopWatching = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
    }
    if (signal?.aborted) onAbort()
  }

  /** Cancels the native call; the first reason counts. */
  interrupt(reason: unknown): void {
    this.#reason ??= reason
    this.#cancel.cancel()
    this.#abort.abort()
    this.#onInterrupt()
  }

  /** Aborts with the native call, for what is waited for beside it. */
  get signal(): AbortSignal {
    return this.#abort.signal
  }

  /** Throws the reason once there is one. */
  check(): void {
    if (this.#reason === undefined) this.#checkTime()
    if (this.#reason !== undefined) throw this.#reason
  }

  /** What to throw for a failure of the native call: the reason, where it failed because of that. */
  explain(error: unknown): unknown {
    return this.#reason !== undefined && isEngineError(error) && error.code === 'CANCELLED' ? this.#reason : error
  }

  /** Waits for the native call; once it was interrupted no longer than the cleanup may take, then the reason is thrown. */
  async settled(work: Promise<unknown>, deadlines: Deadlines): Promise<void> {
    const interrupted = new Promise<void>((resolve) => {
      this.#onInterrupt = resolve
      if (this.#reason !== undefined) resolve()
    })
    await Promise.race([work, interrupted])
    if (this.#reason === undefined) return
    const silent = work.catch(() => {})
    let late = false
    await ended(silent, {
      ...deadlines,
      onOverdue: () => {
        late = true
        deadlines.onOverdue(silent)
      }
    })
    if (late) throw this.#reason
    await work
  }

  /** Stops watching the signal and the time. */
  end(): void {
    this.#stopWatching()
  }
}
