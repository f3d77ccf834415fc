/**
 * SentencePiece BPE (`tokenizer.ggml.model` = llama): characters merge while the merged text is a token, the highest score first, of
 * equal scores the leftmost; spaces are U+2581 and a character without a token becomes its bytes. Source: the SentencePiece BPE model.
 */
import { createError } from '../errors/index.js'
import { mergePairs } from './merge-pairs.js'

const SPACE = '▁'
const encoder = new TextEncoder()

/** A merge never crosses the start of a word where no token does, so words can be remembered one by one; this is their memory. */
const REMEMBERED_WORDS = 20_000
const LONGEST_REMEMBERED = 128

export interface PieceToken {
  text: string
  id: number
  score: number
}

export class SentencePieces {
  private readonly ids = new Map<string, number>()
  /** Order of a token's score: 0 is the highest; equal scores share a rank. */
  private readonly ranks = new Map<string, number>()
  private readonly byteIds: readonly (number | undefined)[]
  private readonly words: RegExp | undefined
  private readonly remembered = new Map<string, readonly number[]>()

  /**
   * @param tokens those that text can become: no control, unknown or byte tokens
   * @param byteIds id of each byte's token
   */
  constructor(tokens: readonly PieceToken[], byteIds: readonly (number | undefined)[]) {
    this.byteIds = byteIds
    const byScore = [...tokens].sort((a, b) => b.score - a.score)
    let rank = -1
    byScore.forEach(({ text, score }, i) => {
      if (i === 0 || score !== byScore[i - 1]!.score) rank = i
      this.ranks.set(text, rank)
    })
    for (const { text, id } of tokens) this.ids.set(text, id)
    // a token with a space after another character would join two words
    const joins = tokens.some(({ text }) => /[^▁]▁/u.test(text))
    this.words = joins ? undefined : /▁*[^▁]+|▁+/gu
  }

  /** TOKENIZER_UNSUPPORTED {byte} where neither a character nor its bytes have a token. */
  encode(text: string): number[] {
    const escaped = text.replaceAll(' ', SPACE)
    const ids: number[] = []
    for (const word of this.words ? (escaped.match(this.words) ?? []) : [escaped]) {
      for (const id of this.encodeWord(word)) ids.push(id)
    }
    return ids
  }

  private encodeWord(word: string): readonly number[] {
    const known = this.remembered.get(word)
    if (known) return known
    const starts: number[] = []
    for (let at = 0; at < word.length; at += word.codePointAt(at)! > 0xffff ? 2 : 1) starts.push(at)
    const ids: number[] = []
    const pieces = mergePairs(word, Int32Array.from(starts), (left, right) => this.ranks.get(left + right))
    for (const piece of pieces) this.push(piece, ids)
    if (word.length <= LONGEST_REMEMBERED) {
      if (this.remembered.size >= REMEMBERED_WORDS) this.remembered.clear()
      this.remembered.set(word, ids)
    }
    return ids
  }

  private push(piece: string, ids: number[]): void {
    const id = this.ids.get(piece)
    if (id !== undefined) {
      ids.push(id)
      return
    }
    for (const byte of encoder.encode(piece)) {
      const byteId = this.byteIds[byte]
      if (byteId === undefined) {
        throw createError('TOKENIZER_UNSUPPORTED', `the vocabulary has no token for byte ${byte} of the text`, {
          tokenizer: 'llama',
          byte,
          supported: 'a vocabulary with every byte of the text'
        })
      }
      ids.push(byteId)
    }
  }
}
