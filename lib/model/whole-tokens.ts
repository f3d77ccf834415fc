/** Finds the tokens in a text that are matched whole, in one walk whose steps are bounded by the longest of them. */
import { refuseTokenizer } from './encodings.js'
import { PairTable } from './pair-table.js'

export interface WholeToken {
  text: string
  id: number
  /** Whether white space on its left and right goes with it. */
  left: boolean
  right: boolean
}

/** Characters of one such token, and of all: several times what the published models have. Both bound what a foreign list may cost. */
const LONGEST = 256
const MOST = 2 ** 20

const isSpace = (text: string, at: number): boolean => /^\p{White_Space}$/u.test(text.charAt(at))

export class WholeTokens {
  /** A tree of characters: the node that follows one. The root is 0. */
  private readonly next: PairTable
  /** The token that ends at a node. */
  private readonly ends: (WholeToken | undefined)[] = [undefined]

  /** Throws TOKENIZER_UNSUPPORTED {tokenizer, supported}. */
  constructor(tokens: readonly WholeToken[]) {
    const characters = tokens.reduce((sum, { text }) => sum + text.length, 0)
    if (characters > MOST || tokens.some(({ text }) => text.length > LONGEST)) {
      refuseTokenizer(`with special tokens of ${characters} characters`, [
        `special tokens of up to ${LONGEST} characters each, and ${MOST} in all`
      ])
    }
    this.next = new PairTable(characters)
    for (const token of tokens) {
      let node = 0
      for (let i = 0; i < token.text.length; i++) {
        const unit = token.text.charCodeAt(i)
        let next = this.next.get(node, unit)
        if (next === undefined) {
          next = this.ends.push(undefined) - 1
          this.next.set(node, unit, next)
        }
        node = next
      }
      this.ends[node] = token
    }
  }

  /** The longest token that begins at `at`. */
  private longestAt(text: string, at: number): WholeToken | undefined {
    let found: WholeToken | undefined
    let node: number | undefined = 0
    for (let i = at; node !== undefined; i++) {
      found = this.ends[node] ?? found
      node = i < text.length ? this.next.get(node, text.charCodeAt(i)) : undefined
    }
    return found
  }

  /** Cuts text at the tokens: leftmost first, of these the longest. No piece of text is empty, and none follows another. */
  split(text: string): (string | number)[] {
    const pieces: (string | number)[] = []
    let start = 0
    for (let at = 0; at < text.length; ) {
      const match = this.longestAt(text, at)
      if (!match) {
        at++
        continue
      }
      let end = at
      while (match.left && end > start && isSpace(text, end - 1)) end--
      if (end > start) pieces.push(text.slice(start, end))
      pieces.push(match.id)
      at += match.text.length
      while (match.right && isSpace(text, at)) at++
      start = at
    }
    if (start < text.length) pieces.push(text.slice(start))
    return pieces
  }

  /** The text with `mark` behind the first character of each token that `breaks`: none of these is found in it any more. */
  broken(text: string, mark: string, breaks: (id: number) => boolean): string {
    let result = ''
    let start = 0
    for (let at = 0; at < text.length; ) {
      const match = this.longestAt(text, at)
      if (match && breaks(match.id)) {
        result += text.slice(start, at + 1) + mark
        start = at + 1
        at++
      } else at += match?.text.length ?? 1
    }
    return start === 0 ? text : result + text.slice(start)
  }
}
