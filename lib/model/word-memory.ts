/** What became of words that came up before: their ids. It is emptied when it is full, and long words are not kept: it stays below 20 MB. */

const WORDS = 20_000
const LONGEST = 32

/** A copy: a piece cut out of a text keeps the whole text in memory. */
const copied = (word: string): string => Buffer.from(word, 'utf16le').toString('utf16le')

export class WordMemory<Result = readonly number[]> {
  private readonly words = new Map<string, Result>()

  recall(word: string, make: () => Result): Result {
    if (word.length > LONGEST) return make()
    let known = this.words.get(word)
    if (known === undefined) {
      known = make()
      if (this.words.size >= WORDS) this.words.clear()
      this.words.set(copied(word), known)
    }
    return known
  }
}
