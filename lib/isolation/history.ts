/** What an engine was told about its models, in the form in which a new worker is told again. */
import type { WorkerMethod } from './worker-engine.js'

export interface HistoryEntry {
  method: WorkerMethod
  model: string
  args: readonly unknown[]
}

export class History {
  #entries: HistoryEntry[] = []

  note(method: WorkerMethod, model: string, ...args: unknown[]): void {
    if (method === 'loadModel') this.forget(model)
    // The last one counts.
    if (method === 'activateTierSet') this.#drop((entry) => entry.method === method && entry.model === model)
    this.#entries.push({ method, model, args })
  }

  /** What a model was loaded with last. */
  loaded(model: string): unknown {
    return this.#entries.find((entry) => entry.method === 'loadModel' && entry.model === model)?.args[0]
  }

  /** A model was unloaded. */
  forget(model: string): void {
    this.#drop((entry) => entry.model === model)
  }

  has(model: string): boolean {
    return this.#entries.some((entry) => entry.model === model)
  }

  /** In order; `journaled`: without what a journal has, which are the experts that were swapped. */
  entries(journaled: boolean): HistoryEntry[] {
    return this.#entries.filter(({ method }) => !journaled || method !== 'swapExperts')
  }

  #drop(is: (entry: HistoryEntry) => boolean): void {
    this.#entries = this.#entries.filter((entry) => !is(entry))
  }
}
