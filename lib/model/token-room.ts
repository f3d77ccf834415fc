/** How many tokens a text may become, and how few it can: a prompt that is much too long is refused before it is merged to the end. */

export interface Room {
  /** Tokens that may come. */
  readonly tokens: number
  /** Throws what is to be thrown where there are more. */
  exceeded(): never
}

/** How far tokens reach: characters of the longest one that begins with each character. */
export class Reach {
  private longest: ReadonlyMap<string, number> | undefined
  private readonly alone = new Set<string>()

  constructor(private readonly tokens: Iterable<string>) {}

  /** At least so many tokens come of the characters; counts no further than beyond `most`. A character that is no token may give none. */
  fewest(characters: string, most: number): number {
    this.longest ??= this.measure()
    let count = 0
    let [at, end, far] = [0, 0, 0]
    for (const character of characters) {
      far = Math.max(far, at + (this.longest.get(character) ?? 1))
      // the tokens before reach no further than here
      if (at === end) {
        if (this.alone.has(character) && ++count > most) break
        end = far
      }
      at++
    }
    return count
  }

  private measure(): Map<string, number> {
    const longest = new Map<string, number>()
    for (const token of this.tokens) {
      const characters = Array.from(token)
      const first = characters[0]
      if (first === undefined) continue
      if (characters.length === 1) this.alone.add(first)
      longest.set(first, Math.max(longest.get(first) ?? 0, characters.length))
    }
    return longest
  }
}
