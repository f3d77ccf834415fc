/** What one client may take: requests and tokens a minute, each as a bucket that fills evenly. */

export interface ClientLimits {
  /** Requests that run at a time; more of them wait. */
  concurrency?: number | undefined
  /** Requests that wait; one more is refused. */
  queueDepth?: number | undefined
  requestsPerMinute?: number | undefined
  /** Of prompts and texts together; what a request did not use is given back. */
  tokensPerMinute?: number | undefined
}

const minute = 60_000
/** Of a bucket's level: what sums of fractions are off by. */
const rounding = 1e-6

/** Holds a minute's worth, full at first. */
export class Bucket {
  readonly limit: number
  #level: number
  #at: number

  /** `limit` a minute. */
  constructor(limit: number, now: number) {
    this.limit = limit
    this.#level = limit
    this.#at = now
  }

  /** What is in it; below 0 where more was taken than it holds. */
  level(now: number): number {
    this.#level = Math.min(this.limit, this.#level + ((now - this.#at) * this.limit) / minute)
    this.#at = now
    return this.#level
  }

  /** Milliseconds until `amount` may be taken, 0 for now. What is more than a full bucket may be taken from a full one. */
  waitMs(amount: number, now: number): number {
    const missing = Math.min(amount, this.limit) - this.level(now)
    return missing <= rounding ? 0 : (missing * minute) / this.limit
  }

  take(amount: number, now: number): void {
    this.#level = this.level(now) - amount
  }

  give(amount: number, now: number): void {
    this.take(-amount, now)
    this.level(now)
  }

  isFull(now: number): boolean {
    return this.waitMs(this.limit, now) === 0
  }
}

/** One client: what it has waiting and running, and its buckets. */
export class Client {
  waiting = 0
  running = 0
  readonly requests: Bucket | undefined
  readonly tokens: Bucket | undefined

  constructor({ requestsPerMinute, tokensPerMinute }: ClientLimits, now: number) {
    if (requestsPerMinute !== undefined) this.requests = new Bucket(requestsPerMinute, now)
    if (tokensPerMinute !== undefined) this.tokens = new Bucket(tokensPerMinute, now)
  }

  /** Whether a new client would be the same. */
  isIdle(now: number): boolean {
    const full = [this.requests, this.tokens].every((bucket) => bucket?.isFull(now) ?? true)
    return full && this.waiting === 0 && this.running === 0
  }
}
