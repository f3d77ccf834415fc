/** Looks after native steps: one that gets nowhere for too long is told of. */
import { performance } from 'node:perf_hooks'

export interface WatchdogOptions {
  /** Milliseconds without progress; undefined: no step is stuck. */
  limitMs: number | undefined
  /** A number that grows while a step reads experts: a step of a model on a slow disk takes long without being stuck. */
  progress?: (() => number) | undefined
  /** Called once for a step, with the milliseconds since it began. */
  onStuck(elapsedMs: number): void
}

/** A timer may be this much early by the clock that measures. */
const timerErrorMs = 2

export class StepWatchdog {
  readonly #options: WatchdogOptions
  #timer: NodeJS.Timeout | undefined
  #began = 0
  #running = false
  #looks = 0
  #progress: number | undefined

  constructor(options: WatchdogOptions) {
    this.#options = options
  }

  /** What `step` gives, one at a time. */
  async run<T>(step: () => Promise<T>): Promise<T> {
    this.#begin()
    try {
      return await step()
    } finally {
      this.#running = false
    }
  }

  /** Between two steps its timer stays: one for each would cost every token something. */
  #begin(): void {
    const { limitMs } = this.#options
    if (limitMs === undefined) return
    this.#running = true
    this.#began = performance.now()
    this.#looks = 0
    // The step keeps the process alive, not the watch.
    if (this.#timer) this.#timer.refresh()
    else this.#timer = setTimeout(() => this.#look(limitMs), limitMs / 2).unref()
  }

  /** Twice within the limit: the second look knows what the step did since the first, and time in which the whole process stood still is none. */
  #look(limitMs: number): void {
    if (!this.#running) return
    const elapsedMs = performance.now() - this.#began
    const before = this.#progress
    this.#progress = this.#options.progress?.()
    if (++this.#looks > 1 && elapsedMs >= limitMs - timerErrorMs && this.#progress === before)
      this.#options.onStuck(elapsedMs)
    else this.#timer?.refresh()
  }

  /** No step is watched any more. */
  end(): void {
    this.#running = false
    clearTimeout(this.#timer)
  }
}
