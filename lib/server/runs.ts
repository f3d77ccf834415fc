/** The requests that a server works on: what ends them early, and when none is left. */
import type { EngineError } from '../errors/index.js'

export class Runs {
  readonly #cuts = new Set<(error: EngineError) => void>()
  readonly #idle: (() => void)[] = []

  get size(): number {
    return this.#cuts.size
  }

  /** `cut` ends the request with an error. Returns what says that it has ended. */
  begin(cut: (error: EngineError) => void): () => void {
    this.#cuts.add(cut)
    return () => {
      this.#cuts.delete(cut)
      if (this.#cuts.size === 0) for (const resolve of this.#idle.splice(0)) resolve()
    }
  }

  /** Resolves when none is left. */
  idle(): Promise<void> {
    return this.#cuts.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve))
  }

  end(error: EngineError): void {
    for (const cut of this.#cuts) cut(error)
  }
}
