/** The merges of a byte-pair vocabulary, over numbers instead of texts: a token is its id, and what only merges pass through is numbered behind. */
import type { Merges } from './merge-pairs.js'
import { PairTable } from './pair-table.js'

/** Two texts, or one with a space between them as GGUF files have it. */
export type Merge = string | readonly [string, string]

/** The second space where the first character is one; undefined for a text that is no merge. */
function partsOf(merge: Merge): readonly [string, string] | undefined {
  if (typeof merge !== 'string') return merge
  const space = merge.indexOf(' ', 1)
  return space < 0 ? undefined : [merge.slice(0, space), merge.slice(space + 1)]
}

export class RankedMerges implements Merges {
  private readonly pieces = new Map<string, number>()
  /** Texts of the pieces that are no token. */
  private readonly between: string[] = []
  private readonly table: PairTable
  private readonly made: Int32Array

  constructor(
    private readonly tokens: readonly string[],
    merges: readonly Merge[]
  ) {
    tokens.forEach((token, id) => {
      this.pieces.set(token, id)
    })
    this.table = new PairTable(merges.length)
    this.made = new Int32Array(merges.length)
    // a pair's rank is its place in the list; of equal pairs the first counts
    merges.forEach((merge, rank) => {
      const parts = partsOf(merge)
      if (!parts || parts[0] === '' || parts[1] === '') return
      const [left, right] = [this.intern(parts[0]), this.intern(parts[1])]
      if (this.table.get(left, right) !== undefined) return
      this.made[rank] = this.intern(parts[0] + parts[1])
      this.table.set(left, right, rank)
    })
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
    return this.table.get(left, right) ?? -1
  }
  rankOf(merge: number): number {
    return merge
  }
  pieceOf(merge: number): number {
    return this.made[merge]!
  }

  /** The number of a text; undefined where neither a token nor a merge has it. */
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

  /** The text of a piece that is no token. */
  textBetween(piece: number): string {
    return this.between[piece - this.tokens.length]!
  }
}
