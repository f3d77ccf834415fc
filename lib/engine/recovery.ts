/** What an engine does after a fatal failure: it ends what ran, and goes on. */
import type { EngineParts } from './parts.js'

export class Recovery {
  readonly #parts: EngineParts
  #running: Promise<void> | undefined

  constructor(parts: EngineParts) {
    this.#parts = parts
  }

  /** Resolves when no recovery is under way. */
  async settled(): Promise<void> {
    await this.#running
  }

  /** A broken invariant ends what runs; weights never change, so the engine can go on after it. */
  begin(error: unknown): void {
    const { lifecycle, models } = this.#parts
    if (!lifecycle.serving) return
    const previous = lifecycle.state
    lifecycle.to('recovering', 'a broken invariant')
    this.#running = Promise.all(models.all().map((model) => model.recover(error))).then(() => {
      this.#running = undefined
      lifecycle.to(previous === 'warm' ? 'warm' : 'active', 'recovered')
    })
  }
}
