/**
 * Byte-pair encoding of words over the byte-level alphabet: the adjacent pair with the lowest rank merges first, of equal ranks the
 * leftmost (Sennrich et al. 2016; ranks are the order of the file's merges). Our own because it is ready in tens of milliseconds for
 * 150,000 merges, where the usual package blocks the event loop for most of a second.
 */
import { createError } from '../errors/index.js'
import { BYTE_SYMBOLS, symbolsOfBytes } from './byte-level.js'
import { mergePieces } from './merge-pairs.js'
import { type Merge, RankedMerges } from './ranked-merges.js'
import { WordMemory } from './word-memory.js'

const encoder = new TextEncoder()

export class BytePairs {
  private readonly merges: RankedMerges
  /** Piece of each byte; -1 where neither a token nor a merge has it. */
  private readonly pieceOfByte: Int32Array
  private readonly remembered = new WordMemory()

  /** @param ignoreMerges a word that is a token is taken whole */
  constructor(
    tokens: readonly string[],
    merges: readonly Merge[],
    private readonly ignoreMerges: boolean
  ) {
    this.merges = new RankedMerges(tokens, merges)
    this.pieceOfByte = Int32Array.from(BYTE_SYMBOLS, (symbol) => this.merges.pieceNamed(symbol) ?? -1)
  }

  /** Ids of one word of text. TOKENIZER_UNSUPPORTED {byte} where the vocabulary has no token for one of its bytes. */
  encode(word: string): readonly number[] {
    return this.remembered.recall(word, () => this.encodeBytes(encoder.encode(word)))
  }

  /** The same of a word that may not be UTF-8. */
  encodeBytes(bytes: Uint8Array): number[] {
    const whole = this.ignoreMerges ? this.merges.idOf(symbolsOfBytes(bytes)) : undefined
    if (whole !== undefined) return [whole]
    const ids: number[] = []
    const pieces = Int32Array.from(bytes, (byte) => this.pieceOfByte[byte]!)
    // a byte without a piece never merges, so that it is found here first
    bytes.forEach((byte, i) => {
      if (pieces[i]! < 0) refuse(byte)
    })
    for (const piece of mergePieces(pieces, this.merges)) this.push(piece, ids)
    return ids
  }

  /** A merged piece that is no token falls apart into its bytes. */
  private push(piece: number, ids: number[]): void {
    if (this.merges.isToken(piece)) {
      ids.push(piece)
      return
    }
    for (const symbol of this.merges.textBetween(piece)) {
      ids.push(this.merges.idOf(symbol) ?? refuse(BYTE_SYMBOLS.indexOf(symbol)))
    }
  }
}

function refuse(byte: number): never {
  throw createError('TOKENIZER_UNSUPPORTED', `the vocabulary has no token for byte ${byte} of the text`, {
    tokenizer: 'gpt2',
    byte,
    supported: 'a byte-level vocabulary with every byte of the text'
  })
}
