/**
 * Byte-pair encoding of words over the byte-level alphabet: the adjacent pair with the lowest rank merges first, of equal ranks the
 * leftmost (Sennrich et al. 2016; ranks are the order of the file's merges). Our own because it is ready sooner: with 150,000 merges the
 * usual package blocks the event loop for most of a second.
 */
import { createError } from '../errors/index.js'
import { BYTE_SYMBOLS, symbolsOfBytes } from './byte-level.js'
import { mergePieces } from './merge-pairs.js'
import { type Merge, RankedMerges } from './ranked-merges.js'
import { Reach, type Room } from './token-room.js'
import { WordMemory } from './word-memory.js'

const encoder = new TextEncoder()

/** What every byte-level vocabulary has: the line break, and ASCII from the space to the tilde. */
const TEXT_BYTES = [0x0a, ...Array.from({ length: 95 }, (_, i) => 0x20 + i)]

export class BytePairs {
  private readonly merges: RankedMerges
  /** Piece of each byte; -1 where neither a token nor a merge has it. */
  private readonly pieceOfByte: Int32Array
  private readonly remembered = new WordMemory()
  private readonly isWhole: boolean
  private readonly reach: Reach

  /** @param ignoreMerges a word that is a token is taken whole */
  constructor(
    tokens: readonly string[],
    merges: readonly Merge[],
    private readonly ignoreMerges: boolean
  ) {
    this.merges = new RankedMerges(tokens, merges)
    this.pieceOfByte = Int32Array.from(BYTE_SYMBOLS, (symbol) => this.merges.pieceNamed(symbol) ?? -1)
    this.reach = new Reach(tokens)
    this.isWhole = TEXT_BYTES.every((byte) => this.merges.idOf(BYTE_SYMBOLS[byte]!) !== undefined)
  }

  /**
   * Ids of one word of text. A byte that no text was trained with may have no token, as in Falcon's vocabulary, and gives none;
   * TOKENIZER_UNSUPPORTED {byte} where the vocabulary is not one of bytes; what `room` throws where the word cannot fit.
   */
  encode(word: string, room?: Room): readonly number[] {
    return this.remembered.recall(word, () => this.encodeBytes(encoder.encode(word), room))
  }

  /** Throws what `room` throws where bytes of a text, whole words or not, surely come to more tokens. */
  checkRoom(bytes: Uint8Array, room: Room): void {
    if (bytes.length <= room.tokens) return
    if (this.reach.fewest(symbolsOfBytes(bytes), room.tokens) > room.tokens) room.exceeded()
  }

  /** The same of a word that may not be UTF-8. */
  encodeBytes(bytes: Uint8Array, room?: Room): number[] {
    if (room) this.checkRoom(bytes, room)
    const whole = this.ignoreMerges ? this.merges.idOf(symbolsOfBytes(bytes)) : undefined
    if (whole !== undefined) return [whole]
    const ids: number[] = []
    // a byte without a piece never merges
    const pieces = Int32Array.from(bytes, (byte) => (this.pieceOfByte[byte]! < 0 ? -1 - byte : this.pieceOfByte[byte]!))
    for (const piece of mergePieces(pieces, this.merges)) {
      if (this.merges.isToken(piece)) ids.push(piece)
      else if (piece < 0) this.miss(-1 - piece)
      else this.pushBytes(this.merges.textOf(piece), ids)
    }
    return ids
  }

  /** A merged piece that is no token falls apart into its bytes. */
  private pushBytes(symbols: string, ids: number[]): void {
    for (const symbol of symbols) {
      const id = this.merges.idOf(symbol)
      if (id !== undefined) ids.push(id)
      else this.miss(BYTE_SYMBOLS.indexOf(symbol))
    }
  }

  private miss(byte: number): void {
    if (this.isWhole) return
    throw createError('TOKENIZER_UNSUPPORTED', `the vocabulary has no token for byte ${byte} of the text`, {
      tokenizer: 'gpt2',
      byte,
      supported: 'a byte-level vocabulary with every byte of the text'
    })
  }
}
