/** A model's token list: what each token's bytes are, which tokens are special, where text starts and ends. */
import { bytesOfSymbols } from './byte-level.js'
import { Metadata, type RawMetadata } from './metadata.js'
import { findPretokenizer } from './pretokenizers.js'
import type { Merge } from './ranked-merges.js'
import type { PieceToken } from './sentence-pieces.js'
import type { WholeToken } from './whole-tokens.js'

const TOKENS = 'tokenizer.ggml.tokens'
const TYPES = 'tokenizer.ggml.token_type'
const SCORES = 'tokenizer.ggml.scores'

/** Kinds of tokens, numbered as in `tokenizer.ggml.token_type`. */
export const KIND = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

/** Tokens that end a turn or a text, by the names that published models give them; llama.cpp knows them by the same names. */
const END_NAMES = new Set([
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|im_end|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|end|>',
  '<|return|>',
  '<|call|>',
  '<|calls|>',
  '<|flush|>',
  '<end_of_turn>',
  '<end_of_utterance>',
  '<turn|>',
  '<|tool_response>',
  '<｜end▁of▁sentence｜>',
  '<eos>',
  '</s>',
  '<EOT>',
  '_<EOT>',
  '[EOT]',
  '[EOS]',
  '[e~[',
  // of code: what would follow belongs to another file
  '<|fim_pad|>',
  '<fim-pad>',
  '<fim_pad>',
  '<|fim_repo|>',
  '<|repo_name|>',
  '<fim-repo>',
  '<reponame>',
  '<|file_sep|>'
])
/** Where all of a row are end tokens, the first ends a message and not the answer. */
const NOT_THE_END = [
  ['<|end|>', '<|return|>', '<|call|>'],
  ['<|end|>', '<|calls|>', '<|flush|>'],
  ['</s>', '<|tool_response>']
] as const
/** What marks the parts of a file to be filled in, where the file's list of kinds forgot them. */
const FILL_NAMES = /^(<\|fim_(prefix|suffix|middle)\|>|<fim[-_](prefix|suffix|middle)>|<｜fim▁(begin|hole|end)｜>)$/

const encoder = new TextEncoder()

/** The byte of a token such as `<0x0A>`. */
function byteOfName(token: string): number | undefined {
  const hexadecimal = /^<0x([0-9A-F]{2})>$/i.exec(token)?.[1]
  return hexadecimal === undefined ? undefined : Number.parseInt(hexadecimal, 16)
}

/** What a file says of its tokens. */
export interface VocabularyFacts {
  /** `gpt2` (byte-level BPE), `llama` (SentencePiece), ...; undefined where the file has no tokenizer. */
  readonly model: string | undefined
  readonly tokens: readonly string[]
  /** Those that merges can make, by id; '' where another is. */
  readonly ordinary: readonly string[]
  /** Kinds by id; empty where the file has none. */
  readonly kinds: readonly number[]
  readonly scores: readonly number[]
  readonly merges: readonly Merge[]
  /** `tokenizer.ggml.pre`. */
  readonly pretokenizer: string | undefined
  /** Whether tokens are written in the byte-level alphabet; otherwise U+2581 stands for a space. */
  readonly byteLevel: boolean
  readonly bosId: number | undefined
  /** The id that the file names as the end token. */
  readonly eosId: number | undefined
  /** More that end a turn. */
  readonly endIds: readonly number[]
  readonly unknownId: number | undefined
  /** Whether text gets the start and the end token. */
  readonly addBos: boolean
  readonly addEos: boolean
  /** A space goes before the first word. */
  readonly addSpacePrefix: boolean
  readonly chatTemplate: string | undefined
  /** White space that a token takes with it, on its left and right, by id. */
  readonly strips: ReadonlyMap<number, { left: boolean; right: boolean }>
}

export class Vocabulary {
  /** Any of these ends the text. */
  readonly eosIds: ReadonlySet<number>
  private readonly kinds: number[]
  private readonly bytes = new Map<number, Uint8Array>()

  constructor(readonly facts: VocabularyFacts) {
    const { tokens, kinds, eosId, endIds } = facts
    this.kinds = tokens.map((_, id) => kinds[id] ?? KIND.normal)
    const ends = new Set([eosId, ...endIds].filter((end) => end !== undefined))
    const named = new Map<string, number>()
    tokens.forEach((token, id) => {
      if (END_NAMES.has(token)) named.set(token, id)
      else if (FILL_NAMES.test(token)) this.kinds[id] = KIND.control
    })
    for (const id of named.values()) this.kinds[id] = KIND.control
    for (const [first, ...others] of NOT_THE_END) if (others.every((name) => named.has(name))) named.delete(first)
    for (const id of named.values()) ends.add(id)
    this.eosIds = ends
  }

  get size(): number {
    return this.facts.tokens.length
  }

  /** Tokens that mark structure and are no text of their own. */
  isControl(id: number): boolean {
    return this.kinds[id] === KIND.control || this.kinds[id] === KIND.unknown
  }

  /** Tokens whose text is found whole. Control tokens only where the caller trusts the text. */
  wholeTokens(withControl: boolean): WholeToken[] {
    const found: WholeToken[] = []
    this.facts.tokens.forEach((text, id) => {
      if (text === '' || !(this.kinds[id] === KIND.userDefined || (withControl && this.isControl(id)))) return
      const { left = false, right = false } = this.facts.strips.get(id) ?? {}
      found.push({ text, id, left, right })
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
    this.facts.tokens.forEach((text, id) => {
      const kind = this.kinds[id]
      if (this.isControl(id) || kind === KIND.unused || kind === KIND.byte) return
      kept.push({ text, id, score: this.facts.scores[id] ?? 0 })
    })
    return kept
  }

  /** Id of the token of each byte, where there is one. */
  byteIds(): (number | undefined)[] {
    const ids: (number | undefined)[] = new Array(256).fill(undefined)
    this.kinds.forEach((kind, id) => {
      const byte = kind === KIND.byte ? byteOfName(this.facts.tokens[id]!) : undefined
      if (byte !== undefined) ids[byte] = id
    })
    return ids
  }

  private computeBytes(id: number): Uint8Array {
    const token = this.facts.tokens[id] ?? ''
    const kind = this.kinds[id]
    if (this.isControl(id) || kind === KIND.userDefined) return encoder.encode(token)
    const byte = kind === KIND.byte ? byteOfName(token) : undefined
    if (byte !== undefined) return Uint8Array.of(byte)
    return this.facts.byteLevel ? bytesOfSymbols(token) : encoder.encode(token.replaceAll('▁', ' '))
  }
}

/**
 * White space around special tokens, which GGUF files do not tell: Phi-3's take what follows them. Tokens by id; the names of those that do
 * not.
 */
function stripsOf(name: string | undefined, tokens: readonly string[], kinds: readonly number[]) {
  const strips = new Map<number, { left: boolean; right: boolean }>()
  if (name === undefined || !/phi-?3/i.test(name)) return strips
  const special: ReadonlySet<number> = new Set([KIND.unknown, KIND.control, KIND.userDefined])
  tokens.forEach((token, id) => {
    const isSpecial = token === '</s>' || special.has(kinds[id]!)
    if (isSpecial && !['<unk>', '<s>', '<|endoftext|>'].includes(token)) strips.set(id, { left: false, right: true })
  })
  return strips
}

/** The vocabulary of a GGUF file. METADATA_INVALID {key, found, allowed} for lists of the wrong type or length, and ids outside of it. */
export function readVocabulary(raw: RawMetadata): Vocabulary {
  const m = new Metadata(raw)
  const model = m.optionalString('tokenizer.ggml.model')
  const tokens = m.has(TOKENS) ? m.strings(TOKENS) : []
  const numbers = (key: string, what: string): number[] => {
    const list = m.has(key) ? m.numbers(key) : []
    if (list.length > 0 && list.length !== tokens.length)
      m.refuse(key, `one ${what} for each of the ${tokens.length} tokens`)
    return list
  }
  const kinds = numbers(TYPES, 'type')
  const scores = numbers(SCORES, 'score')
  const id = (name: string): number | undefined => {
    const key = `tokenizer.ggml.${name}_token_id`
    if (!m.has(key) || tokens.length === 0) return undefined
    return m.integer(key, { min: 0, max: tokens.length - 1 })
  }
  const pretokenizer = model === 'gemma4' ? 'gemma4' : m.optionalString('tokenizer.ggml.pre')
  const form = model === 'llama' ? undefined : findPretokenizer(pretokenizer)
  const overCharacters = model === 'llama' || form?.characters === true
  const unknown = kinds.indexOf(KIND.unknown)
  return new Vocabulary({
    model: model === 'gemma4' ? 'gpt2' : model,
    tokens,
    ordinary: tokens,
    kinds,
    scores,
    merges: m.has('tokenizer.ggml.merges') ? m.strings('tokenizer.ggml.merges') : [],
    pretokenizer,
    byteLevel: model === 'gpt2' && !overCharacters,
    bosId: id('bos'),
    eosId: id('eos'),
    endIds: ['eot', 'eom', 'fim_pad', 'fim_rep', 'fim_sep'].map(id).filter((end) => end !== undefined),
    unknownId: id('unknown') ?? (unknown < 0 ? undefined : unknown),
    // SentencePiece adds it unless the file says no; over characters a file says no where the model wants it
    addBos:
      overCharacters && form?.addBos
        ? true
        : m.boolean('tokenizer.ggml.add_bos_token', form?.addBos ?? model === 'llama'),
    addEos: m.boolean('tokenizer.ggml.add_eos_token', false),
    addSpacePrefix: model === 'llama' && m.boolean('tokenizer.ggml.add_space_prefix', true),
    chatTemplate: m.optionalString('tokenizer.chat_template'),
    strips: stripsOf(m.optionalString('general.name'), tokens, kinds)
  })
}
