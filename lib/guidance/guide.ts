/** Keeps a text to its format: which tokens may come next, and when it is whole. */
import { createError } from '../errors/index.js'
import type { State } from './automaton.js'
import { Masks } from './masks.js'
import type { ResponseFormat } from './response-format.js'
import { grammarOf, schemaText } from './schema.js'
import type { TokenBytes } from './token-trie.js'
import { TokenTrie } from './token-trie.js'

/** What the text of one request may be, by the tokens of one model. */
export class Guide {
  readonly #masks: Masks

  constructor(masks: Masks) {
    this.#masks = masks
  }

  /** What it remembers, about. */
  get bytes(): number {
    return this.#masks.rememberedBytes
  }

  start(): GuideState {
    return new GuideState(this.#masks)
  }
}

/** Where one text is. */
export class GuideState {
  readonly #masks: Masks
  #state: State
  #length = 0

  constructor(masks: Masks) {
    this.#masks = masks
    this.#state = masks.start
  }

  /** The text is whole: it may end here. */
  get complete(): boolean {
    return this.#state.complete
  }

  /** Nothing may follow, and the text is whole. */
  get ended(): boolean {
    return this.complete && !this.#masks.goesOn(this.#state)
  }

  /**
   * A bit for each token that may come next, the least bit first; end-of-text tokens where the text is whole. Not to be changed. Of a text that
   * is not whole and that no token goes on: undefined.
   */
  mask(): Uint32Array | undefined {
    return this.complete || this.#masks.goesOn(this.#state) ? this.#masks.of(this.#state) : undefined
  }

  /** Takes a token; false where it may not come next, and then nothing changes. */
  accept(token: number): boolean {
    const text = this.#masks.trie.texts[token]
    const next = text && text.length > 0 ? this.#masks.after(this.#state, text) : undefined
    if (!next) return false
    this.#state = next
    this.#length += text!.length
    return true
  }

  /** Where the text is, in words: for an error. */
  describe(): string {
    const next = this.#masks.bytes(this.#state).map((byte) => JSON.stringify(String.fromCharCode(byte)))
    return `after ${this.#length} bytes, ${next.length} of the 256 bytes may follow: ${next.slice(0, 8).join(' ')}`
  }
}

/** Guides that a tokenizer keeps for the requests to come, and what they may remember together. */
const mostGuides = 16
const mostBytes = 2 ** 26
const longestKey = 10_000

interface Kept {
  trie: TokenTrie
  /** Least recently used first. */
  guides: Map<string, Guide>
}

const kept = new WeakMap<TokenBytes, Kept>()

/**
 * The guide of a format; `vocab`: rows of the model's logits, at least as many as the tokenizer has tokens. Undefined where the text is
 * free. GUIDANCE_SCHEMA_UNSUPPORTED {path, reason, keyword}, TOKENIZER_UNSUPPORTED where there are no tokens to go by.
 */
export function compileGuide(format: ResponseFormat, tokenizer: TokenBytes, vocab: number): Guide | undefined {
  if (format.type === 'text') return undefined
  if (tokenizer.vocab === 0) {
    const text = 'a response format needs a tokenizer, and the file of the model has none'
    throw createError('TOKENIZER_UNSUPPORTED', text, { tokenizer: '(none in the file)', supported: [] })
  }
  let own = kept.get(tokenizer)
  const key = `${vocab} ${schemaText(format)}`
  let guide = own?.guides.get(key)
  if (!guide) {
    const grammar = grammarOf(format)
    own ??= { trie: new TokenTrie(tokenizer), guides: new Map() }
    kept.set(tokenizer, own)
    guide = new Guide(new Masks(grammar, own.trie, vocab, tokenizer.eosIds))
  }
  const { guides } = own!
  guides.delete(key)
  if (key.length <= longestKey) guides.set(key, guide)
  leaveOut(guides)
  return guide
}

/** Of what is kept the least recently used, as far as it is too much; the last one stays. */
function leaveOut(guides: Map<string, Guide>): void {
  let bytes = 0
  for (const guide of guides.values()) bytes += guide.bytes
  for (const [key, oldest] of guides) {
    if (guides.size === 1 || (guides.size <= mostGuides && bytes <= mostBytes)) break
    guides.delete(key)
    bytes -= oldest.bytes
  }
}
