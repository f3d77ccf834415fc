/**
 * Byte-pair encoding of words over characters: merges as in the byte-level form, and a character without a token becomes its bytes
 * (`byte_fallback` of tokenizer.json; `gemma4` in GGUF).
 */
import { type Fallback, pushUnknown } from './fallback.js'
import { mergePieces } from './merge-pairs.js'
import { type Merge, RankedMerges } from './ranked-merges.js'
import { Reach, type Room } from './token-room.js'
import { WordMemory } from './word-memory.js'

export interface CharacterPairOptions extends Fallback {
  /** Words that are taken whole where they are a token, whatever the merges say. */
  isWhole(word: string): boolean
}

export class CharacterPairs {
  private readonly merges: RankedMerges
  private readonly remembered = new WordMemory()
  private readonly reach: Reach

  constructor(
    tokens: readonly string[],
    merges: readonly Merge[],
    private readonly options: CharacterPairOptions
  ) {
    this.merges = new RankedMerges(tokens, merges)
    this.reach = new Reach(tokens)
  }

  /**
   * Ids of one word. TOKENIZER_UNSUPPORTED {byte} where neither a character nor its bytes have a token, and none is for what is unknown; what
   * `room` throws where the word cannot fit.
   */
  encode(word: string, room?: Room): readonly number[] {
    return this.remembered.recall(word, () => this.encodeWord(word, room))
  }

  private encodeWord(word: string, room: Room | undefined): number[] {
    if (room && word.length > room.tokens && this.reach.fewest(word, room.tokens) > room.tokens) room.exceeded()
    const whole = this.options.isWhole(word) ? this.merges.idOf(word) : undefined
    if (whole !== undefined) return [whole]
    const numbers: number[] = []
    // a character of no merge is below 0
    for (const character of word) numbers.push(this.merges.pieceNamed(character) ?? -1 - character.codePointAt(0)!)
    const ids: number[] = []
    for (const piece of mergePieces(Int32Array.from(numbers), this.merges)) {
      if (this.merges.isToken(piece)) ids.push(piece)
      else this.pushCharacters(piece < 0 ? String.fromCodePoint(-1 - piece) : this.merges.textOf(piece), ids)
    }
    return ids
  }

  /** A merged piece that is no token falls apart into its characters. */
  private pushCharacters(text: string, ids: number[]): void {
    for (const character of text) {
      const id = this.merges.idOf(character)
      if (id !== undefined) ids.push(id)
      else pushUnknown(character, this.options, ids)
    }
  }
}
