/** A file's token list: what each token's bytes are, which tokens are special, where text starts and ends. */
import { bytesOfSymbols } from './byte-level.js'
import { Metadata, type RawMetadata } from './metadata.js'
import type { PieceToken } from './sentence-pieces.js'

const TOKENS = 'tokenizer.ggml.tokens'
const TYPES = 'tokenizer.ggml.token_type'
const SCORES = 'tokenizer.ggml.scores'

/** Kinds of tokens, numbered as in `tokenizer.ggml.token_type`. */
const KIND = { unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

/** Tokens that end a turn or a text, by the names that published models give them; llama.cpp knows them by the same names. */
const END_NAMES = new Set([
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|im_end|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|end|>',
  '<end_of_turn>',
  '</s>',
  '<EOT>'
])

const encoder = new TextEncoder()

/** The byte of a token such as `<0x0A>`. */
function byteOfName(token: string): number | undefined {
  const hexadecimal = /^<0x([0-9A-F]{2})>$/i.exec(token)?.[1]
  return hexadecimal === undefined ? undefined : Number.parseInt(hexadecimal, 16)
}

export class Vocabulary {
  /** `gpt2` (byte-level BPE), `llama` (SentencePiece), ...; undefined where the file has no tokenizer. */
  readonly model: string | undefined
  readonly tokens: readonly string[]
  readonly merges: readonly string[]
  /** `tokenizer.ggml.pre`. */
  readonly pretokenizer: string | undefined
  readonly bosId: number | undefined
  /** Any of these ends the text. */
  readonly eosIds: ReadonlySet<number>
  /** What the file says about adding the start and end token; undefined: nothing. */
  readonly addBos: boolean | undefined
  readonly addEos: boolean
  readonly chatTemplate: string | undefined
  /** The id that the file names as the end token. */
  readonly eosId: number | undefined
  /** SentencePiece: a space goes before the first word. */
  readonly addSpacePrefix: boolean
  private readonly types: readonly number[]
  private readonly scores: readonly number[]
  private readonly bytes = new Map<number, Uint8Array>()

  /** METADATA_INVALID {key, found, allowed} for lists of the wrong type or length, and ids outside of the vocabulary. */
  constructor(raw: RawMetadata) {
    const m = new Metadata(raw)
    this.model = m.optionalString('tokenizer.ggml.model')
    this.tokens = m.has(TOKENS) ? m.strings(TOKENS) : []
    this.merges = m.has('tokenizer.ggml.merges') ? m.strings('tokenizer.ggml.merges') : []
    this.types = m.has(TYPES) ? m.numbers(TYPES) : []
    if (this.types.length > 0 && this.types.length !== this.tokens.length) {
      m.refuse(TYPES, `one type for each of the ${this.tokens.length} tokens`)
    }
    this.scores = m.has(SCORES) ? m.numbers(SCORES) : []
    if (this.scores.length > 0 && this.scores.length !== this.tokens.length) {
      m.refuse(SCORES, `one score for each of the ${this.tokens.length} tokens`)
    }
    this.addSpacePrefix = this.model === 'llama' && m.boolean('tokenizer.ggml.add_space_prefix', true)
    this.pretokenizer = m.optionalString('tokenizer.ggml.pre')
    this.chatTemplate = m.optionalString('tokenizer.chat_template')
    this.addBos = m.has('tokenizer.ggml.add_bos_token') ? m.boolean('tokenizer.ggml.add_bos_token', false) : undefined
    this.addEos = m.boolean('tokenizer.ggml.add_eos_token', false)

    const id = (name: string): number | undefined => {
      const key = `tokenizer.ggml.${name}_token_id`
      if (!m.has(key) || this.tokens.length === 0) return undefined
      return m.integer(key, { min: 0, max: this.tokens.length - 1 })
    }
    this.bosId = id('bos')
    this.eosId = id('eos')
    const ends = new Set([this.eosId, id('eot'), id('eom')].filter((end) => end !== undefined))
    this.tokens.forEach((token, index) => {
      if (END_NAMES.has(token)) ends.add(index)
    })
    this.eosIds = ends
  }

  get size(): number {
    return this.tokens.length
  }

  /** Tokens that mark structure and are no text of their own. */
  isControl(id: number): boolean {
    return this.types[id] === KIND.control || this.types[id] === KIND.unknown
  }

  /** Texts that are found whole, with their ids. Control tokens only where the caller trusts the text. */
  wholeTokens(withControl: boolean): [string, number][] {
    const found: [string, number][] = []
    this.tokens.forEach((token, id) => {
      const type = this.types[id]
      if (token !== '' && (type === KIND.userDefined || (withControl && this.isControl(id)))) found.push([token, id])
    })
    return found
  }

  /** The bytes of a token, special ones too; none for an id outside of the vocabulary. */
  tokenBytes(id: number): Uint8Array {
    let bytes = this.bytes.get(id)
    if (!bytes) {
      bytes = this.computeBytes(id)
      this.bytes.set(id, bytes)
    }
    return bytes
  }

  /** Tokens that ordinary text can become, with the scores that order their merging. */
  pieceTokens(): PieceToken[] {
    const kept: PieceToken[] = []
    this.tokens.forEach((text, id) => {
      const type = this.types[id]
      if (this.isControl(id) || type === KIND.unused || type === KIND.byte) return
      kept.push({ text, id, score: this.scores[id] ?? 0 })
    })
    return kept
  }

  /** Id of the token of each byte, where there is one. */
  byteIds(): (number | undefined)[] {
    const ids: (number | undefined)[] = new Array(256).fill(undefined)
    this.types.forEach((type, id) => {
      const byte = type === KIND.byte ? byteOfName(this.tokens[id]!) : undefined
      if (byte !== undefined) ids[byte] = id
    })
    return ids
  }

  private computeBytes(id: number): Uint8Array {
    const token = this.tokens[id] ?? ''
    const type = this.types[id]
    if (type === KIND.control || type === KIND.unknown || type === KIND.userDefined) return encoder.encode(token)
    if (this.model === 'gpt2') return bytesOfSymbols(token)
    const byte = type === KIND.byte ? byteOfName(token) : undefined
    if (byte !== undefined) return Uint8Array.of(byte)
    return encoder.encode(token.replaceAll('▁', ' '))
  }
}
