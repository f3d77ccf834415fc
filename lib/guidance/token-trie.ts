/** The tokens of a vocabulary by their bytes, in one order: a node, then all that begin with its bytes. */

/** What a guide needs to know of a tokenizer. */
export interface TokenBytes {
  /** Tokens in the list. */
  readonly vocab: number
  readonly eosIds: ReadonlySet<number>
  /** Marks structure: no text comes of it. */
  isControl(id: number): boolean
  tokenBytes(id: number): Uint8Array
}

const none = -1
/** Bytes of a token that guided text may have: what counts them has 16 bits. */
const longestText = 2 ** 16 - 1

export class TokenTrie {
  /** Of each node: the byte that leads to it, how many bytes its tokens have, and the first node that does not begin with them. */
  readonly bytes: Uint8Array
  readonly depths: Uint16Array
  readonly ends: Int32Array
  /** Of each node a token of exactly its bytes, and of each token the next one of the same bytes; -1 = none. */
  readonly tokens: Int32Array
  readonly twins: Int32Array
  /** Bytes of the longest token. */
  readonly longest: number
  /** Bytes of each token that text can come of, by id; empty for others. */
  readonly texts: readonly Uint8Array[]

  constructor(tokenizer: TokenBytes) {
    const { vocab } = tokenizer
    const texts: Uint8Array[] = []
    let total = 1
    let longest = 0
    for (let id = 0; id < vocab; id++) {
      const silent = tokenizer.isControl(id) || tokenizer.eosIds.has(id)
      const own = silent ? new Uint8Array() : tokenizer.tokenBytes(id)
      const text = own.length > longestText ? new Uint8Array() : own
      texts.push(text)
      total += text.length
      longest = Math.max(longest, text.length)
    }
    this.texts = texts
    this.longest = longest
    // Linked first: every node's first child and next sibling, siblings by byte.
    const bytes = new Uint8Array(total)
    const firsts = new Int32Array(total).fill(none)
    const nexts = new Int32Array(total).fill(none)
    const tokens = new Int32Array(total).fill(none)
    this.twins = new Int32Array(vocab).fill(none)
    let count = 1
    const child = (parent: number, byte: number): number => {
      let before = none
      let at = firsts[parent]!
      for (; at !== none && bytes[at]! < byte; at = nexts[at]!) before = at
      if (at !== none && bytes[at] === byte) return at
      const node = count++
      bytes[node] = byte
      nexts[node] = at
      if (before === none) firsts[parent] = node
      else nexts[before] = node
      return node
    }
    for (const [id, text] of texts.entries()) {
      if (text.length === 0) continue
      let at = 0
      for (const byte of text) at = child(at, byte)
      this.twins[id] = tokens[at]!
      tokens[at] = id
    }
    const nodes = count - 1
    this.bytes = new Uint8Array(nodes)
    this.depths = new Uint16Array(nodes)
    this.ends = new Int32Array(nodes)
    this.tokens = new Int32Array(nodes)
    // Then in order; a node ends where the next one that is not below it begins.
    const open: number[] = []
    let at = 0
    const close = (depth: number): void => {
      while (open.length >= depth) this.ends[open.pop()!] = at
    }
    const waiting: [node: number, depth: number][] = [[firsts[0]!, 1]]
    for (let place = waiting.pop(); place; place = waiting.pop()) {
      const [node, depth] = place
      if (node === none) continue
      close(depth)
      this.bytes[at] = bytes[node]!
      this.depths[at] = depth
      this.tokens[at] = tokens[node]!
      open.push(at++)
      waiting.push([nexts[node]!, depth], [firsts[node]!, depth + 1])
    }
    close(1)
  }

  get nodes(): number {
    return this.bytes.length
  }
}
