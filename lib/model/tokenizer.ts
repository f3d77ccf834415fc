/**
 * Text to token ids and back, from a file's own metadata. What encoding needs is built when text is first encoded; decoding needs
 * only the token list, so a model whose tokenizer is not supported still runs on token ids.
 */
import { createError, isEngineError } from '../errors/index.js'
import {
  type ChatMessage,
  type ChatOptions,
  namedTemplate,
  renderChat,
  unusedMark,
  withTexts
} from './chat-template.js'
import { createEncoding, type Encoding } from './encodings.js'
import type { RawMetadata } from './metadata.js'
import type { Room } from './token-room.js'
import { readTokenizerJson, TOKENIZER_JSON } from './tokenizer-json.js'
import { bytesOfLossless, hasEscapes, losslessText } from './utf8.js'
import { readVocabulary, type Vocabulary } from './vocabulary.js'
import { WholeTokens } from './whole-tokens.js'

export type { ChatMessage, ChatOptions } from './chat-template.js'

export interface EncodeOptions {
  /** Adds the start (and end) token where the file asks for it; true where left out. A start token that is there is not doubled. */
  addSpecial?: boolean
  /** Recognises control tokens such as `<|im_start|>` in the text; false where left out, because text may be foreign. */
  parseSpecial?: boolean
  /** How many tokens there may be; what it throws comes as soon as it is sure that there are more, without the cost of the others. */
  room?: Room
}

export interface EncodeChatOptions extends ChatOptions, Pick<EncodeOptions, 'room'> {
  /** Recognises control tokens in the text of messages too; false where left out: who writes a message could end it and write another's. */
  parseSpecial?: boolean
}

export interface DecodeOptions {
  /** Shows control tokens; false where left out. */
  special?: boolean
}

/** Decodes token by token; a character whose bytes are not all there yet is held back. */
export interface DecodeStream {
  push(id: number): string
  /** What is left: an incomplete character becomes U+FFFD. */
  end(): string
}

export interface Tokenizer {
  /** Tokens in the list; 0 where the file has none. */
  readonly vocab: number
  readonly bosId: number | undefined
  readonly eosIds: ReadonlySet<number>
  readonly chatTemplate: string | undefined
  /** Builds what encoding needs, so that the first text need not wait for it. What is not supported, `encode` tells. */
  prepare(): void
  /**
   * Bytes need not be UTF-8: what is none becomes U+FFFD in a byte-level encoding, and bytes in one over characters, as with llama.cpp.
   * TOKENIZER_UNSUPPORTED {tokenizer, supported} where the file's tokenizer is not one that this version has; VALIDATION_ERROR for a word of
   * millions of letters.
   */
  encode(text: string | Uint8Array, options?: EncodeOptions): number[]
  /** VALIDATION_ERROR {id, vocab} for an id that is not in the vocabulary. */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string
  decodeStream(options?: DecodeOptions): DecodeStream
  /** Marks structure: no text comes of it unless it is asked for. */
  isControl(id: number): boolean
  /** The token's bytes, not always whole UTF-8. */
  tokenBytes(id: number): Uint8Array
  /** The text of a conversation, where special tokens of the template and of messages look the same. CHAT_TEMPLATE_INVALID {reason}. */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatOptions): string
  /** Token ids of a conversation: special tokens are those that the template writes. CHAT_TEMPLATE_INVALID {reason}, TOKENIZER_UNSUPPORTED. */
  encodeChat(messages: readonly ChatMessage[], options?: EncodeChatOptions): number[]
}

class FileTokenizer implements Tokenizer {
  private encoding: Encoding | undefined
  private readonly whole = new Map<boolean, WholeTokens>()

  constructor(
    private readonly vocabulary: Vocabulary,
    private readonly makeEncoding: () => Encoding,
    readonly chatTemplate: string | undefined
  ) {}

  get vocab(): number {
    return this.vocabulary.size
  }
  get bosId(): number | undefined {
    return this.vocabulary.facts.bosId
  }
  get eosIds(): ReadonlySet<number> {
    return this.vocabulary.eosIds
  }

  encode(given: string | Uint8Array, { addSpecial = true, parseSpecial = false, room }: EncodeOptions = {}): number[] {
    const { text, valid } = typeof given === 'string' ? { text: given, valid: true } : losslessText(given)
    const ids = this.encodePieces(this.wholeTokens(parseSpecial).split(text), valid, room)
    if (!addSpecial) return ids
    const { bosId, eosId, addBos, addEos } = this.vocabulary.facts
    if (addBos && bosId !== undefined && ids[0] !== bosId) ids.unshift(bosId)
    if (addEos && eosId !== undefined && ids.at(-1) !== eosId) ids.push(eosId)
    return ids
  }

  prepare(): void {
    try {
      this.wholeTokens(false)
      this.encoding ??= this.makeEncoding()
    } catch (error) {
      if (!isEngineError(error)) throw error
    }
  }

  /** `valid`: no piece has bytes that are no UTF-8. */
  private encodePieces(pieces: readonly (string | number)[], valid: boolean, room: Room | undefined): number[] {
    this.encoding ??= this.makeEncoding()
    const ids: number[] = []
    for (const [i, piece] of pieces.entries()) {
      if (typeof piece === 'number') ids.push(piece)
      else for (const id of this.encodePiece(this.encoding, piece, i === 0, valid, room)) ids.push(id)
      if (room && ids.length > room.tokens) room.exceeded()
    }
    return ids
  }

  /** Tokens that are found in text as they are, the control tokens among them where it is trusted. */
  private wholeTokens(withControl: boolean): WholeTokens {
    let whole = this.whole.get(withControl)
    if (!whole) {
      whole = new WholeTokens(this.vocabulary.wholeTokens(withControl))
      this.whole.set(withControl, whole)
    }
    return whole
  }

  private encodePiece(encoding: Encoding, piece: string, start: boolean, valid: boolean, room?: Room): number[] {
    try {
      const isText = valid || !hasEscapes(piece)
      return isText ? encoding.encode(piece, start, room) : encoding.encodeBytes(bytesOfLossless(piece), start, room)
    } catch (cause) {
      // V8 matches with a stack of 64 MiB
      if (!(cause instanceof RangeError) || !cause.message.includes('call stack')) throw cause
      const text = `a text of ${piece.length} characters has a word that is too long to be found`
      throw createError('VALIDATION_ERROR', text, { path: 'text', allowed: 'shorter words' }, { cause })
    }
  }

  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const stream = this.decodeStream(options)
    let text = ''
    for (let i = 0; i < ids.length; i++) text += stream.push(ids[i]!)
    text += stream.end()
    // the space that encoding put before the first word
    return this.vocabulary.facts.addSpacePrefix && text.startsWith(' ') ? text.slice(1) : text
  }

  decodeStream({ special = false }: DecodeOptions = {}): DecodeStream {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
    return {
      push: (id) => {
        this.checkId(id)
        return !special && this.vocabulary.isControl(id) ? '' : decoder.decode(this.tokenBytes(id), { stream: true })
      },
      end: () => decoder.decode()
    }
  }

  isControl(id: number): boolean {
    return this.vocabulary.isControl(id)
  }

  tokenBytes(id: number): Uint8Array {
    return this.vocabulary.tokenBytes(id)
  }

  private checkId(id: number): void {
    const { vocab } = this
    if (Number.isInteger(id) && id >= 0 && (id < vocab || vocab === 0)) return
    throw createError('VALIDATION_ERROR', `token id ${id} is not in the vocabulary of ${vocab} tokens`, {
      path: 'tokens',
      id,
      vocab
    })
  }

  applyChatTemplate(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    const { bosId, eosId, tokens } = this.vocabulary.facts
    const text = (id: number | undefined) => (id === undefined ? '' : (tokens[id] ?? ''))
    return renderChat(this.chatTemplate, messages, { bos: text(bosId), eos: text(eosId) }, options)
  }

  encodeChat(messages: readonly ChatMessage[], options: EncodeChatOptions = {}): number[] {
    const { parseSpecial = false, room, ...rendering } = options
    const whole = this.wholeTokens(true)
    const mark = unusedMark(messages, this.chatTemplate)
    const guarded = parseSpecial
      ? messages
      : withTexts(messages, (text) => whole.broken(text, mark, (id) => this.isControl(id)))
    const pieces = whole
      .split(this.applyChatTemplate(guarded, rendering))
      .map((piece) => (typeof piece === 'string' ? piece.replaceAll(mark, '') : piece))
    return this.encodePieces(
      pieces.filter((piece) => piece !== ''),
      true,
      room
    )
  }
}

/**
 * A tokenizer from a file's metadata, with another chat template where one is given. METADATA_INVALID where the token list contradicts
 * itself.
 */
export function createTokenizer(metadata: RawMetadata, chatTemplate?: string): Tokenizer {
  const fromJson = !Object.hasOwn(metadata, 'tokenizer.ggml.model') && Object.hasOwn(metadata, TOKENIZER_JSON)
  const { vocabulary, createEncoding: create } = fromJson ? readTokenizerJson(metadata) : readGguf(metadata)
  return new FileTokenizer(vocabulary, create, namedTemplate(chatTemplate) ?? vocabulary.facts.chatTemplate)
}

function readGguf(metadata: RawMetadata): { vocabulary: Vocabulary; createEncoding: () => Encoding } {
  const vocabulary = readVocabulary(metadata)
  return { vocabulary, createEncoding: () => createEncoding(vocabulary) }
}
