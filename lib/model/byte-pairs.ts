/**
 * Byte-pair encoding of words over the byte-level alphabet: the adjacent pair with the lowest rank merges first, of equal ranks the
 * leftmost (Sennrich et al. 2016; ranks are the order of the file's merges). Our own because it is ready in tens of milliseconds for
 * 150,000 merges, where the usual package blocks the event loop for most of a second.
 */
import { createError } from '../errors/index.js'
import { BYTE_SYMBOLS } from './byte-level.js'

/** Words whose ids are remembered; the memory is emptied when it is full. */
const REMEMBERED_WORDS = 20_000
const LONGEST_REMEMBERED = 128

const encoder = new TextEncoder()

/** A heap of numbers, smallest first. */
class MinHeap {
  private readonly items: number[] = []

  push(value: number): void {
    const { items } = this
    let at = items.push(value) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (items[parent]! <= value) break
      items[at] = items[parent]!
      at = parent
    }
    items[at] = value
  }

  pop(): number | undefined {
    const { items } = this
    const least = items[0]
    const value = items.pop()
    if (value === undefined || items.length === 0) return least
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= items.length) break
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child++
      if (items[child]! >= value) break
      items[at] = items[child]!
      at = child
    }
    items[at] = value
    return least
  }
}

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

  /** Pieces are ranges of `symbols`, linked both ways and named by where they start; every symbol is one UTF-16 unit. */
  private merge(symbols: string): number[] {
    const n = symbols.length
    const next = Int32Array.from({ length: n + 1 }, (_, i) => i + 1)
    const previous = Int32Array.from({ length: n + 1 }, (_, i) => i - 1)
    /** Rank of the pair that starts here; -1 where there is none or the piece is gone. */
    const rankAt = new Int32Array(n).fill(-1)
    const queue = new MinHeap()
    const rankPair = (start: number): void => {
      const middle = next[start]!
      const pair = middle < n && `${symbols.slice(start, middle)} ${symbols.slice(middle, next[middle]!)}`
      const rank = pair ? this.ranks.get(pair) : undefined
      rankAt[start] = rank ?? -1
      if (rank !== undefined) queue.push(rank * n + start)
    }
    for (let start = 0; start + 1 < n; start++) rankPair(start)
    for (let key = queue.pop(); key !== undefined; key = queue.pop()) {
      const start = key % n
      // a pair that has changed since it was queued has another rank, or none
      if (rankAt[start] !== (key - start) / n) continue
      const gone = next[start]!
      rankAt[gone] = -1
      next[start] = next[gone]!
      previous[next[gone]!] = start
      rankPair(start)
      if (previous[start]! >= 0) rankPair(previous[start]!)
    }
    const ids: number[] = []
    for (let start = 0; start < n; start = next[start]!) this.push(symbols.slice(start, next[start]!), ids)
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
