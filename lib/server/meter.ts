/** How fast tokens come, and how many bytes of text one is: both of late, for guesses about requests that are not read yet. */
import type { Clock } from '../resilience/index.js'
import { systemClock } from '../resilience/index.js'

/** Of the averages: what is so old counts for 1/e. */
const memoryMs = 30_000
/** A rate is known when so much time with requests has been seen. */
const leastMs = 100
/** Bytes of text per token before any is known; vocabularies have 1 (bytes) to about 5 (English, 100,000 tokens). */
const firstBytes = 3
/** Share of a new prompt in the average of bytes. */
const newShare = 0.1

export class TokenMeter {
  readonly #clock: Clock
  #running = 0
  #at: number
  /** Tokens, and milliseconds while requests ran, both fading with the latter. */
  #tokens = 0
  #busyMs = 0
  #bytesPerToken = firstBytes

  constructor(clock: Clock = systemClock) {
    this.#clock = clock
    this.#at = clock.now()
  }

  /** A request begins to run; returns what ends it. */
  run(): () => void {
    this.#pass()
    this.#running++
    return () => {
      this.#pass()
      this.#running--
    }
  }

  computed(tokens: number): void {
    this.#pass()
    this.#tokens += tokens
  }

  read(bytes: number, tokens: number): void {
    if (bytes > 0 && tokens > 0) this.#bytesPerToken += newShare * (bytes / tokens - this.#bytesPerToken)
  }

  /** Tokens a second while requests run; undefined where it is not known yet. */
  get rate(): number | undefined {
    this.#pass()
    return this.#busyMs < leastMs ? undefined : (this.#tokens * 1000) / this.#busyMs
  }

  /** Tokens that a text probably has. */
  tokensOf(bytes: number): number {
    return Math.ceil(bytes / this.#bytesPerToken)
  }

  #pass(): void {
    const now = this.#clock.now()
    const passed = now - this.#at
    this.#at = now
    if (this.#running === 0) return
    const kept = Math.exp(-passed / memoryMs)
    this.#tokens *= kept
    this.#busyMs = this.#busyMs * kept + memoryMs * (1 - kept)
  }
}
