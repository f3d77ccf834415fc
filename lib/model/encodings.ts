/** From a vocabulary to what turns a stretch of text into token ids, without its special tokens. */
import { createError } from '../errors/index.js'
import { BytePairs } from './byte-pairs.js'
import { CharacterPairs } from './character-pairs.js'
import { type Fallback, pushUnknown } from './fallback.js'
import { findPretokenizer, type Pretokenizer, SUPPORTED_PRETOKENIZERS, WordSplitter } from './pretokenizers.js'
import { SentencePieces, SPACE } from './sentence-pieces.js'
import type { Room } from './token-room.js'
import { loosenedBytes, stretches, textForPatterns } from './utf8.js'
import type { Vocabulary } from './vocabulary.js'

export interface Encoding {
  /** Text between special tokens. `start`: nothing comes before it. What `room` throws comes as soon as it is sure. */
  encode(text: string, start: boolean, room?: Room): number[]
  /** The same of bytes that are not UTF-8. */
  encodeBytes(bytes: Uint8Array, start: boolean, room?: Room): number[]
}

/** Throws TOKENIZER_UNSUPPORTED {tokenizer, supported}. */
export function refuseTokenizer(tokenizer: string, supported: readonly string[]): never {
  throw createError(
    'TOKENIZER_UNSUPPORTED',
    `tokenizer ${tokenizer} is not supported; supported: ${supported.join(', ')}. Token ids can be given instead of text`,
    { tokenizer, supported: [...supported] }
  )
}

/** Characters of a text, for each token that there is room for, that are looked at before it is cut: enough for most tokens of a vocabulary. */
const LONGEST_TOKENS = 32

/** Byte-pair encoding over bytes. `change`: what becomes of text before it is cut. */
export function byteLevelEncoding(
  vocabulary: Vocabulary,
  pretokenizer: Pick<Pretokenizer, 'cuts' | 'ignoreMerges'>,
  change?: (text: string, start: boolean) => string
): Encoding {
  const { ordinary, merges } = vocabulary.facts
  const pairs = new BytePairs(ordinary, merges, pretokenizer.ignoreMerges)
  const splitter = new WordSplitter(pretokenizer.cuts)
  const encodeWords = (text: string, room: Room | undefined, encodeWord: (word: string) => readonly number[]) => {
    const ids: number[] = []
    splitter.split(text, (word) => {
      for (const id of encodeWord(word)) ids.push(id)
      if (room && ids.length > room.tokens) room.exceeded()
    })
    return ids
  }
  const encode = (text: string, start: boolean, room: Room | undefined): number[] => {
    const changed = change ? change(text, start) : text
    // without the last bytes: the slice may have ended within a character
    if (room) pairs.checkRoom(Buffer.from(changed.slice(0, LONGEST_TOKENS * (room.tokens + 1))).subarray(0, -3), room)
    return encodeWords(changed, room, (word) => pairs.encode(word, room))
  }
  return {
    encode,
    encodeBytes(bytes, start, room) {
      if (change) return encode(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes), start, room)
      const loosened = loosenedBytes(bytes)
      let at = 0
      return encodeWords(textForPatterns(loosened), room, (word) => {
        const from = at
        at += Buffer.byteLength(word)
        return pairs.encodeBytes(loosened.subarray(from, at), room)
      })
    }
  }
}

/** A space is U+2581 in the vocabulary; where bytes are no text, what their lead bytes take with them may be one. */
function escapeSpaces(bytes: Uint8Array): Uint8Array {
  const parts: Uint8Array[] = []
  const space = Buffer.from(SPACE)
  for (let start = 0; start <= bytes.length; ) {
    const at = bytes.indexOf(0x20, start)
    const end = at < 0 ? bytes.length : at
    parts.push(bytes.subarray(start, end))
    if (at >= 0) parts.push(space)
    start = end + 1
  }
  return Buffer.concat(parts)
}

/** The ids of valid text and of what is none, in order. */
function encodeStretches(
  bytes: Uint8Array,
  fallback: Fallback,
  encode: (text: string) => readonly number[],
  room: Room | undefined
): number[] {
  const ids: number[] = []
  for (const stretch of stretches(bytes)) {
    if (typeof stretch !== 'string') pushUnknown(stretch, fallback, ids)
    else for (const id of encode(stretch)) ids.push(id)
    if (room && ids.length > room.tokens) room.exceeded()
  }
  return ids
}

function sentencePieces(vocabulary: Vocabulary): Encoding {
  const fallback = { byteIds: vocabulary.byteIds(), unknownId: vocabulary.facts.unknownId, fuseUnknown: true }
  const pieces = new SentencePieces(vocabulary.pieceTokens(), fallback)
  // SentencePiece takes text to begin with a word, and words begin with a space
  const prefix = vocabulary.facts.addSpacePrefix ? ' ' : ''
  return {
    encode: (text, _, room) => pieces.encode(prefix + text, room),
    encodeBytes(bytes, _, room) {
      const escaped = escapeSpaces(Buffer.concat([Buffer.from(prefix), bytes]))
      return encodeStretches(escaped, fallback, (text) => pieces.encode(text, room), room)
    }
  }
}

export interface CharacterForm {
  pretokenizer: Pick<Pretokenizer, 'cuts' | 'ignoreMerges'>
  /** What becomes of text before it is cut. */
  normalize(text: string, start: boolean): string
  /** Words besides that are taken whole where they are a token. */
  whole?: RegExp
  byteFallback: boolean
  /** Whether unknown neighbours of one word are one token. */
  fuseUnknown: boolean
}

/** Byte-pair encoding over characters. */
export function characterEncoding(vocabulary: Vocabulary, form: CharacterForm): Encoding {
  const { ordinary, merges, unknownId } = vocabulary.facts
  const { fuseUnknown } = form
  const fallback = { byteIds: form.byteFallback ? vocabulary.byteIds() : [], unknownId, fuseUnknown }
  const pairs = new CharacterPairs(ordinary, merges, {
    ...fallback,
    isWhole: (word) => form.pretokenizer.ignoreMerges || (form.whole?.test(word) ?? false)
  })
  const splitter = new WordSplitter(form.pretokenizer.cuts)
  const encode = (text: string, start: boolean, room: Room | undefined): number[] => {
    const ids: number[] = []
    splitter.split(form.normalize(text, start), (word) => {
      for (const id of pairs.encode(word, room)) ids.push(id)
      if (room && ids.length > room.tokens) room.exceeded()
    })
    return ids
  }
  return {
    encode,
    encodeBytes(bytes, start, room) {
      let first = start
      const encodeNext = (text: string): number[] => {
        const ids = encode(text, first, room)
        first = false
        return ids
      }
      return encodeStretches(loosenedBytes(bytes), fallback, encodeNext, room)
    }
  }
}

/** TOKENIZER_UNSUPPORTED {tokenizer, supported}. */
export function createEncoding(vocabulary: Vocabulary): Encoding {
  const { model, pretokenizer: name } = vocabulary.facts
  if (model === 'llama') return sentencePieces(vocabulary)
  if (model !== 'gpt2') {
    refuseTokenizer(model ?? '(none in the file)', [
      'gpt2 (byte-level BPE)',
      'gemma4 (BPE over characters)',
      'llama (SentencePiece BPE)'
    ])
  }
  const pretokenizer =
    findPretokenizer(name) ?? refuseTokenizer(`gpt2 with pre-tokenizer ${name}`, SUPPORTED_PRETOKENIZERS)
  if (!pretokenizer.characters) return byteLevelEncoding(vocabulary, pretokenizer)
  return characterEncoding(vocabulary, {
    pretokenizer,
    normalize: (text) => text.replaceAll(' ', SPACE),
    // runs of line breaks are tokens that no merge makes
    whole: /^\n+$/,
    byteFallback: true,
    fuseUnknown: true
  })
}
