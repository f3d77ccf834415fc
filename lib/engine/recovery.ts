/** What an engine does after a fatal failure: it ends what ran, and goes on, or closes when even that fails. */
import type { EngineParts } from './parts.js'

export class Recovery {
  readonly #parts: EngineParts
  #running: Promise<void> | undefined

  constructor(parts: EngineParts) {
    this.#parts = parts
  }

  /** The recovery that is under way. */
  get running(): Promise<void> | undefined {
    return this.#running
  }

  /** A broken invariant ends what runs; weights never change, so the engine can go on after it. */
  begin(error: unknown): void {
    const { lifecycle } = this.#parts
    if (!lifecycle.serving) return
    const previous = lifecycle.state
    lifecycle.to('recovering', 'a broken invariant')
    this.#running = this.#recover(error, previous === 'warm').finally(() => {
      this.#running = undefined
    })
  }

  /** A cancelled step that does not end: the engine recovers until it does. What it was for has been told. */
  watch(work: Promise<unknown>): void {
    const { lifecycle } = this.#parts
    if (!lifecycle.serving) return
    lifecycle.to('recovering', 'a step goes on after its cancellation')
    this.#running = work
      .then(
        () => this.#resume(false),
        () => this.#resume(false)
      )
      .finally(() => {
        this.#running = undefined
      })
  }

  async #recover(error: unknown, wasWarm: boolean): Promise<void> {
    const { lifecycle, models, telemetry } = this.#parts
    telemetry.error(error)
    try {
      await Promise.all(models.all().map((model) => model.endRequests(error)))
    } catch (cause) {
      telemetry.error(cause)
      lifecycle.to('closed', 'recovery failed')
      return
    }
    this.#resume(wasWarm)
  }

  #resume(wasWarm: boolean): void {
    const { lifecycle } = this.#parts
    lifecycle.to(wasWarm ? 'warm' : 'active', 'recovered')
    // Maintenance that was under way is not over.
    if (lifecycle.frozen && lifecycle.state === 'active') lifecycle.to('frozen', lifecycle.frozen.reason)
  }
}
