/**
 * The merges of a byte-pair vocabulary, over numbers instead of texts: a token is its id, and what only merges pass through is numbered behind.
 * A pair is looked up by its texts when it first comes up, and by its numbers from then on: a table of all pairs takes several times as long
 * to make, on the thread that serves requests.
 */
import type { Merges } from './merge-pairs.js'
import { PairMemory } from './pair-table.js'

/** Two texts, or one with a space between them as GGUF files have it: the second space where the first character is one. */
export type Merge = string | readonly [string, string]

/** Differs from pair to pair: mostly what the file has. Pairs with spaces of their own are told apart by how long the left part is. */
const keyOf = (left: string, right: string, spaces: boolean): string =>
  spaces && (left.includes(' ') || right.includes(' ')) ? `${left.length} ${left} ${right}` : `${left} ${right}`

export class RankedMerges implements Merges {
  private readonly pieces = new Map<string, number>()
  /** Texts of the pieces that are no token. */
  private readonly between: string[] = []
  /** A pair's rank is its place in the list. */
  private readonly ranks = new Map<string, number>()
  /** Whether there are pairs with spaces of their own. */
  private spaces = false
  private readonly known = new PairMemory()
  /** The piece that the merge of each rank makes, once it came up. */
  private readonly made: Int32Array

  constructor(
    private readonly tokens: readonly string[],
    merges: readonly Merge[]
  ) {
    tokens.forEach((token, id) => {
      this.pieces.set(token, id)
    })
    this.made = new Int32Array(merges.length).fill(-1)
    // of equal pairs the first counts
    for (let rank = merges.length - 1; rank >= 0; rank--) this.rank(merges[rank]!, rank)
  }

  /** A text that is no merge counts for nothing. */
  private rank(merge: Merge, rank: number): void {
    const space = typeof merge === 'string' ? merge.indexOf(' ', 1) : 0
    if (space < 0) return
    // most are their own keys, and are not taken apart
    if (typeof merge === 'string' && merge[0] !== ' ' && merge.indexOf(' ', space + 1) < 0) {
      const after = merge.length - space - 1
      if (after === 0) return
      this.ranks.set(merge, rank)
      if (space <= 2) this.internCharacter(merge.slice(0, space))
      if (after <= 2) this.internCharacter(merge.slice(space + 1))
      return
    }
    const [left, right] = typeof merge === 'string' ? [merge.slice(0, space), merge.slice(space + 1)] : merge
    if (left === '' || right === '') return
    this.spaces ||= left.includes(' ') || right.includes(' ')
    this.ranks.set(keyOf(left, right, true), rank)
    this.internCharacter(left)
    this.internCharacter(right)
  }

  /** Characters are what text begins with: those that are no token have a number too. */
  private internCharacter(text: string): void {
    if (text.length === 1 || (text.length === 2 && text.codePointAt(0)! > 0xffff)) this.intern(text)
  }

  private intern(text: string): number {
    let piece = this.pieces.get(text)
    if (piece === undefined) {
      piece = this.tokens.length + this.between.push(text) - 1
      this.pieces.set(text, piece)
    }
    return piece
  }

  find(left: number, right: number): number {
    return this.known.get(left, right) ?? this.known.keep(left, right, this.look(this.textOf(left), this.textOf(right)))
  }

  private look(left: string, right: string): number {
    const rank = this.ranks.get(keyOf(left, right, this.spaces))
    if (rank === undefined) return -1
    this.made[rank] = this.intern(left + right)
    return rank
  }

  rankOf(merge: number): number {
    return merge
  }
  pieceOf(merge: number): number {
    return this.made[merge]!
  }

  /** The number of a text; undefined where no token has it, and no merge made it or begins with it. */
  pieceNamed(text: string): number | undefined {
    return this.pieces.get(text)
  }

  /** The id of a token; undefined for other texts. */
  idOf(text: string): number | undefined {
    const piece = this.pieces.get(text)
    return piece !== undefined && piece < this.tokens.length ? piece : undefined
  }

  isToken(piece: number): boolean {
    return piece >= 0 && piece < this.tokens.length
  }

  /** The text of a piece. */
  textOf(piece: number): string {
    return this.tokens[piece] ?? this.between[piece - this.tokens.length]!
  }
}
