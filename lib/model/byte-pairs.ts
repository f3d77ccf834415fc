/**
 * Byte-pair encoding of words over the byte-level alphabet: the adjacent pair with the lowest rank merges first, of equal ranks the
 * leftmost (Sennrich et al. 2016; ranks are the order of the file's merges). Our own because it is ready in tens of milliseconds for
 * 150,000 merges, where the usual package blocks the event loop for most of a second.
 */
import { createError } from '../errors/index.js'
import { BYTE_SYMBOLS } from './byte-level.js'
import { mergePairs } from './merge-pairs.js'

/** Words whose ids are remembered; the memory is emptied when it is full. */
const REMEMBERED_WORDS = 20_000
const LONGEST_REMEMBERED = 128

const encoder = new TextEncoder()

export class BytePairs {
  private readonly ids = new Map<string, number>()
  /** Rank of "left right". */
  private readonly ranks = new Map<string, number>()
  private readonly remembered = new Map<string, readonly number[]>()

  /** @param ignoreMerges a word that is a token is taken whole */
  constructor(
    tokens: readonly string[],
    merges: readonly string[],
    private readonly ignoreMerges: boolean
  ) {
    tokens.forEach((token, id) => {
      this.ids.set(token, id)
    })
    // from the last to the first, so that of equal merges the first counts
    for (let rank = merges.length - 1; rank >= 0; rank--) this.ranks.set(merges[rank]!, rank)
  }

  /** Ids of one word of text. TOKENIZER_UNSUPPORTED {byte} where the vocabulary has no token for one of its bytes. */
  encode(word: string): readonly number[] {
    const known = this.remembered.get(word)
    if (known) return known
    let symbols = ''
    for (const byte of encoder.encode(word)) symbols += BYTE_SYMBOLS[byte]
    const whole = this.ignoreMerges ? this.ids.get(symbols) : undefined
    const ids = whole === undefined ? this.merge(symbols) : [whole]
    if (word.length <= LONGEST_REMEMBERED) {
      if (this.remembered.size >= REMEMBERED_WORDS) this.remembered.clear()
      this.remembered.set(word, ids)
    }
    return ids
  }

  private merge(symbols: string): number[] {
    const ids: number[] = []
    const starts = Int32Array.from({ length: symbols.length }, (_, i) => i)
    for (const piece of mergePairs(symbols, starts, (left, right) => this.ranks.get(`${left} ${right}`)))
      this.push(piece, ids)
    return ids
  }

  /** A merged piece that is no token falls apart into its bytes. */
  private push(piece: string, ids: number[]): void {
    const id = this.ids.get(piece)
    if (id !== undefined) {
      ids.push(id)
    } else if (piece.length > 1) {
      for (const symbol of piece) this.push(symbol, ids)
    } else {
      const byte = BYTE_SYMBOLS.indexOf(piece)
      throw createError('TOKENIZER_UNSUPPORTED', `the vocabulary has no token for byte ${byte} of the text`, {
        tokenizer: 'gpt2',
        byte,
        supported: 'a byte-level vocabulary with every byte of the text'
      })
    }
  }
}
