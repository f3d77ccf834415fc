/** Events on their way to the logger: handed on outside of the work that they tell of, bounded, in order. */

export class EventBuffer<Item> {
  readonly #limit: number
  readonly #deliver: (item: Item) => void
  #items: Item[] = []
  #dropped = 0
  #scheduled = false
  #open = false

  /** `deliver` must not throw. */
  constructor(limit: number, deliver: (item: Item) => void) {
    this.#limit = limit
    this.#deliver = deliver
  }

  /** From now on events are delivered, those that came before too. */
  open(): void {
    this.#open = true
    this.#schedule()
  }

  /** Beyond the limit the oldest goes. */
  push(item: Item): void {
    this.#items.push(item)
    if (this.#items.length > this.#limit) {
      this.#items.shift()
      this.#dropped++
    }
    this.#schedule()
  }

  /** How many were dropped since the last call. */
  takeDropped(): number {
    const dropped = this.#dropped
    this.#dropped = 0
    return dropped
  }

  /** Delivers everything now. */
  flush(): void {
    if (!this.#open) return
    const items = this.#items
    this.#items = []
    for (const item of items) this.#deliver(item)
  }

  #schedule(): void {
    if (this.#scheduled || !this.#open) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.flush()
    })
  }
}
