// What a run that nothing disturbs gives: the GGUF file, whole in memory, without a journal and without a prefix cache, its experts as they were
// after so many swaps.
import { createEngine } from '../dist/esm/index.js'
import { changesBetween, fingerprint, requestOf, tiers } from './kill-plan.mjs'

export class Undisturbed {
  #engine
  #seed
  #source
  /** Swaps that its experts have. */
  #swaps = 0
  #prints = new Map()

  constructor(engine, seed, source) {
    this.#engine = engine
    this.#seed = seed
    this.#source = source
  }

  static async open(seed, source) {
    const engine = await createEngine({ threads: 2 })
    await engine.loadModel({ model: source, id: 'tiny-shakespeare', tiers, prefixCache: false })
    return new Undisturbed(engine, seed, source)
  }

  /** Of the i-th request after the first `swaps` swaps. One call after another. */
  async print(i, swaps) {
    const key = `${i} ${swaps}`
    if (this.#prints.has(key)) return this.#prints.get(key)
    const request = requestOf(this.#seed, i)
    const changes = changesBetween(this.#seed, this.#swaps, swaps, this.#source)
    if (changes.length > 0) await this.#engine.swapExperts(request.model, changes)
    this.#swaps = swaps
    const items = []
    for await (const item of this.#engine.createGenerator(request)) items.push(item)
    this.#prints.set(key, fingerprint(items))
    return this.#prints.get(key)
  }

  dispose() {
    return this.#engine.dispose()
  }
}
