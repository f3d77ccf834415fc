/** What an engine was told about its models, in the form in which a new worker is told again. */
import type { WorkerMethod } from './worker-engine.js'

export interface HistoryEntry {
  method: WorkerMethod
  model: string
  args: readonly unknown[]
}

type PinArguments = [model: string, experts: readonly { layer: number; expert: number }[], pinned: boolean]

export class History {
  #entries: HistoryEntry[] = []

  note(method: WorkerMethod, model: string, ...args: unknown[]): void {
    const told = method === 'pinExperts' ? this.#pins(model, args as PinArguments) : args
    if (method === 'loadModel') this.forget(model)
    // The last one counts.
    if (method === 'activateTierSet' || method === 'pinExperts') {
      this.#drop((entry) => entry.method === method && entry.model === model)
    }
    // What is the caller's may become something else.
    this.#entries.push({ method, model, args: structuredClone(told) })
  }

  /** What a model was loaded with last. */
  loaded(model: string): unknown {
    return this.#entries.find((entry) => entry.method === 'loadModel' && entry.model === model)?.args[0]
  }

  /** A model was unloaded. */
  forget(model: string): void {
    this.#drop((entry) => entry.model === model)
  }

  /** In order; `journaled`: without what a journal has, which are the experts that were swapped. */
  entries(journaled: boolean): HistoryEntry[] {
    return this.#entries.filter(({ method }) => !journaled || method !== 'swapExperts')
  }

  /** All that is pinned now. */
  #pins(model: string, [, experts, pinned]: PinArguments): PinArguments {
    const before = this.#entries.find((entry) => entry.method === 'pinExperts' && entry.model === model)
    const [, already] = (before?.args ?? [model, [], true]) as PinArguments
    const key = ({ layer, expert }: PinArguments[1][number]) => `${layer} ${expert}`
    const all = new Map(already.map((own) => [key(own), own]))
    for (const own of experts) {
      if (pinned) all.set(key(own), own)
      else all.delete(key(own))
    }
    return [model, [...all.values()], true]
  }

  #drop(is: (entry: HistoryEntry) => boolean): void {
    this.#entries = this.#entries.filter((entry) => !is(entry))
  }
}
