/**
 * SentencePiece BPE (`tokenizer.ggml.model` = llama): characters merge while the merged text is a token, the highest score first, of
 * equal scores the leftmost; spaces are U+2581 and a character without a token becomes its bytes. Source: the SentencePiece BPE model.
 */
import { type Fallback, pushUnknown } from './fallback.js'
import { type Merges, mergePieces } from './merge-pairs.js'
import { PairMemory } from './pair-table.js'
import { Reach, type Room } from './token-room.js'
import { WordMemory } from './word-memory.js'

export const SPACE = '▁'

export interface PieceToken {
  text: string
  id: number
  score: number
}

export class SentencePieces implements Merges {
  /** Numbers of tokens, and behind them of the characters that only occur inside of tokens. */
  private readonly pieces = new Map<string, number>()
  private readonly texts: string[] = []
  private readonly ids: number[] = []
  /** Order of a token's score: 0 is the highest; equal scores share a rank. */
  private readonly ranks: number[] = []
  /** What two pieces make, and -1 where that is nothing. */
  private readonly known = new PairMemory()
  private readonly words: RegExp | undefined
  private readonly remembered = new WordMemory()
  private readonly reach: Reach

  /** @param tokens those that text can become: no control, unknown or byte tokens */
  constructor(
    tokens: readonly PieceToken[],
    private readonly fallback: Fallback
  ) {
    this.reach = new Reach(tokens.map(({ text }) => text))
    const byScore = [...tokens].sort((a, b) => b.score - a.score)
    let rank = -1
    byScore.forEach(({ text, id, score }, i) => {
      if (i === 0 || score !== byScore[i - 1]!.score) rank = i
      this.texts.push(text)
      this.ids.push(id)
      this.ranks.push(rank)
    })
    // of two tokens with one text the last in the file counts
    for (const [piece] of [...this.ids.entries()].sort((a, b) => a[1] - b[1]))
      this.pieces.set(this.texts[piece]!, piece)
    for (const { text } of tokens) {
      for (const character of text)
        if (!this.pieces.has(character)) this.pieces.set(character, this.texts.push(character) - 1)
    }
    // a merge never crosses the start of a word where no token has a space after another character: words can be remembered one by one
    const joins = tokens.some(({ text }) => /[^▁]▁/u.test(text))
    this.words = joins ? undefined : /▁*[^▁]+|▁+/gu
  }

  find(left: number, right: number): number {
    return (
      this.known.get(left, right) ?? this.known.keep(left, right, this.look(this.texts[left]! + this.texts[right]!))
    )
  }

  private look(text: string): number {
    const piece = this.pieces.get(text)
    return piece !== undefined && piece < this.ids.length ? piece : -1
  }
  rankOf(merge: number): number {
    return this.ranks[merge]!
  }
  pieceOf(merge: number): number {
    return merge
  }

  /**
   * TOKENIZER_UNSUPPORTED {byte} where neither a character nor its bytes have a token, and none stands for what is unknown; what `room` throws
   * where the text cannot fit.
   */
  encode(text: string, room?: Room): number[] {
    const escaped = text.replaceAll(' ', SPACE)
    const ids: number[] = []
    for (const [word] of this.words ? escaped.matchAll(this.words) : [[escaped] as const]) {
      const found = this.remembered.recall(word, () => this.encodeWord(word, room))
      for (const id of found) if (id !== this.fallback.unknownId || ids.at(-1) !== id) ids.push(id)
      if (room && ids.length > room.tokens) room.exceeded()
    }
    return ids
  }

  private encodeWord(word: string, room: Room | undefined): number[] {
    if (room && word.length > room.tokens && this.reach.fewest(word, room.tokens) > room.tokens) room.exceeded()
    const numbers: number[] = []
    // a character of no token is below 0, and never merges
    for (const character of word) numbers.push(this.pieces.get(character) ?? -1 - character.codePointAt(0)!)
    const ids: number[] = []
    for (const piece of mergePieces(Int32Array.from(numbers), this)) {
      if (piece >= 0 && piece < this.ids.length) ids.push(this.ids[piece]!)
      else pushUnknown(piece < 0 ? String.fromCodePoint(-1 - piece) : this.texts[piece]!, this.fallback, ids)
    }
    return ids
  }
}
