/** Finds the tokens in a text that are matched whole, in one walk whose steps are bounded by the longest of them. */

export interface WholeToken {
  text: string
  id: number
  /** Whether white space on its left and right goes with it. */
  left: boolean
  right: boolean
}

/** A tree of characters: what follows, and the token that ends here. */
interface Node {
  next: Map<number, Node>
  token?: WholeToken
}

const isSpace = (text: string, at: number): boolean => /^\s$/.test(text.charAt(at))

/** Cuts text at the tokens: leftmost first, of these the longest. No piece of text is empty, and none follows another. */
export function createSplitter(tokens: readonly WholeToken[]): (text: string) => (string | number)[] {
  const root: Node = { next: new Map() }
  for (const token of tokens) {
    let node = root
    for (let i = 0; i < token.text.length; i++) {
      const unit = token.text.charCodeAt(i)
      let next = node.next.get(unit)
      if (!next) {
        next = { next: new Map() }
        node.next.set(unit, next)
      }
      node = next
    }
    node.token = token
  }
  const longestAt = (text: string, at: number): WholeToken | undefined => {
    let found: WholeToken | undefined
    let node: Node | undefined = root
    for (let i = at; node; i++) {
      found = node.token ?? found
      node = node.next.get(text.charCodeAt(i))
    }
    return found
  }
  return (text) => {
    if (tokens.length === 0) return text === '' ? [] : [text]
    const pieces: (string | number)[] = []
    let start = 0
    for (let at = 0; at < text.length; ) {
      const match = longestAt(text, at)
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
}
