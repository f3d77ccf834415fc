/** Whose turn it is: deficit round robin over clients. Source: Shreedhar and Varghese, Efficient Fair Queuing using Deficit Round Robin, 1995. */

export interface Queued {
  client: string
  /** What it takes, in tokens. */
  cost: number
  /** Its client's share of the turns while it is first. */
  weight: number
}

/** What waits of one client, first come first served. */
interface Flow<Item extends Queued> {
  client: string
  items: Item[]
  /** Tokens that its turns have earned and its requests not yet taken. */
  deficit: number
  /** This turn's tokens are in the deficit. */
  earned: boolean
}

/** Tokens that a turn earns for each unit of weight. */
const quantum = 256

const gain = ({ weight }: Queued): number => quantum * weight

export class FairQueue<Item extends Queued> {
  /** In the order of their turns; the first one has its turn. */
  #flows: Flow<Item>[]
  #size: number

  constructor(flows: Flow<Item>[] = [], size = 0) {
    this.#flows = flows
    this.#size = size
  }

  get size(): number {
    return this.#size
  }

  /** Tokens of all that waits. */
  get cost(): number {
    let sum = 0
    for (const { items } of this.#flows) for (const { cost } of items) sum += cost
    return sum
  }

  sizeOf(client: string): number {
    return this.#flowOf(client)?.items.length ?? 0
  }

  /** The client that has the most waiting, of several the first in turn. */
  longest(): string | undefined {
    const most = Math.max(...this.#flows.map(({ items }) => items.length))
    return this.#flows.find(({ items }) => items.length === most)?.client
  }

  /** What came last of a client. */
  last(client: string): Item | undefined {
    return this.#flowOf(client)?.items.at(-1)
  }

  push(item: Item): void {
    const flow = this.#flowOf(item.client)
    if (flow) flow.items.push(item)
    else this.#flows.push({ client: item.client, items: [item], deficit: 0, earned: false })
    this.#size++
  }

  /**
   * What is next, but for clients that may not have their turn now; it stays that until it is taken or removed. A client has its turn until its
   * next request costs more than it has earned.
   */
  peek(blocked: (client: string) => boolean): Item | undefined {
    let looked = 0
    let rounds = Number.POSITIVE_INFINITY
    for (;;) {
      if (looked === this.#flows.length) {
        if (rounds === Number.POSITIVE_INFINITY) return undefined
        // The rounds in which nobody has earned enough, at once.
        for (const flow of this.#flows) if (!blocked(flow.client)) flow.deficit += (rounds - 1) * gain(flow.items[0]!)
        looked = 0
        rounds = Number.POSITIVE_INFINITY
      }
      const flow = this.#flows[0]!
      const item = flow.items[0]!
      if (!blocked(flow.client)) {
        if (!flow.earned) flow.deficit += gain(item)
        flow.earned = true
        if (flow.deficit >= item.cost) return item
        rounds = Math.min(rounds, Math.ceil((item.cost - flow.deficit) / gain(item)))
        flow.earned = false
      }
      this.#flows.push(this.#flows.shift()!)
      looked++
    }
  }

  /** Takes what `peek` gave. */
  take(item: Item): void {
    const flow = this.#flowOf(item.client)
    if (flow) flow.deficit -= item.cost
    this.remove(item)
  }

  /** A client that has nothing waiting keeps no earnings. */
  remove(item: Item): boolean {
    const flow = this.#flowOf(item.client)
    const position = flow?.items.indexOf(item) ?? -1
    if (!flow || position < 0) return false
    flow.items.splice(position, 1)
    this.#size--
    if (flow.items.length === 0) this.#flows = this.#flows.filter((other) => other !== flow)
    return true
  }

  /** All that waits, in the order in which it would be taken if nothing more came. */
  order(): Item[] {
    const flows = this.#flows.map((flow) => ({ ...flow, items: [...flow.items] }))
    const copy = new FairQueue<Item>(flows, this.#size)
    const items: Item[] = []
    for (let item = copy.peek(() => false); item; item = copy.peek(() => false)) {
      copy.take(item)
      items.push(item)
    }
    return items
  }

  #flowOf(client: string): Flow<Item> | undefined {
    return this.#flows.find((flow) => flow.client === client)
  }
}
