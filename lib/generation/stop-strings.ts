/** Finds stop strings in streamed text, and holds back what may still become one. */

/**
 * Feed it text piece by piece. The stop string that is completed first wins (of those completed by the same character, the longest),
 * so that what is emitted does not depend on how the text was cut into pieces.
 */
export class StopStrings {
  readonly #stops: readonly string[]
  /** What was held back: always a proper prefix of a stop string, or empty. */
  #held = ''

  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  /** Returns the text that is decided, and whether a stop string ended it. After a stop nothing may be pushed. */
  push(piece: string): { text: string; stopped: boolean } {
    if (this.#stops.length === 0) return { text: piece, stopped: false }
    const text = this.#held + piece
    let end = Number.POSITIVE_INFINITY
    let start = 0
    for (const stop of this.#stops) {
      const at = text.indexOf(stop)
      if (at < 0) continue
      const last = at + stop.length
      if (last < end || (last === end && at < start)) {
        end = last
        start = at
      }
    }
    if (end !== Number.POSITIVE_INFINITY) {
      this.#held = ''
      return { text: text.slice(0, start), stopped: true }
    }
    const held = this.#undecided(text)
    this.#held = text.slice(text.length - held)
    return { text: text.slice(0, text.length - held), stopped: false }
  }

  /** The text that was held back, for an end without a stop. */
  end(): string {
    const rest = this.#held
    this.#held = ''
    return rest
  }

  /** Length of the longest end of `text` that begins a stop string. */
  #undecided(text: string): number {
    let longest = 0
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) longest = length
      }
    }
    return longest
  }
}
