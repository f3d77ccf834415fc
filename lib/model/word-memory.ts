/** Ids of words that came up before. It is emptied when it is full, and long words are not kept. */

const WORDS = 20_000
const LONGEST = 128

export class WordMemory {
  private readonly words = new Map<string, readonly number[]>()

  recall(word: string, encode: () => readonly number[]): readonly number[] {
    const known = this.words.get(word)
    if (known) return known
    const ids = encode()
    if (word.length <= LONGEST) {
      if (this.words.size >= WORDS) this.words.clear()
      this.words.set(word, ids)
    }
    return ids
  }
}
