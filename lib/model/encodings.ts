/** From a vocabulary to what turns a stretch of text into token ids, without its special tokens. */
import { createError } from '../errors/index.js'
import { BytePairs } from './byte-pairs.js'
import { CharacterPairs } from './character-pairs.js'
import { type Fallback, pushUnknown } from './fallback.js'
import { findPretokenizer, type Pretokenizer, SUPPORTED_PRETOKENIZERS, splitWords } from './pretokenizers.js'
import { SentencePieces, SPACE } from './sentence-pieces.js'
import { loosenedBytes, stretches, textForPatterns } from './utf8.js'
import type { Vocabulary } from './vocabulary.js'

export interface Encoding {
  /** Text between special tokens. `start`: nothing comes before it. */
  encode(text: string, start: boolean): number[]
  /** The same of bytes that are not UTF-8. */
  encodeBytes(bytes: Uint8Array, start: boolean): number[]
}

/** Throws TOKENIZER_UNSUPPORTED {tokenizer, supported}. */
export function refuseTokenizer(tokenizer: string, supported: readonly string[]): never {
  throw createError(
    'TOKENIZER_UNSUPPORTED',
    `tokenizer ${tokenizer} is not supported; supported: ${supported.join(', ')}. Token ids can be given instead of text`,
    { tokenizer, supported: [...supported] }
  )
}

/** Byte-pair encoding over bytes. `change`: what becomes of text before it is cut. */
export function byteLevelEncoding(
  vocabulary: Vocabulary,
  pretokenizer: Pick<Pretokenizer, 'cuts' | 'ignoreMerges'>,
  change?: (text: string, start: boolean) => string
): Encoding {
  const { ordinary, merges } = vocabulary.facts
  const pairs = new BytePairs(ordinary, merges, pretokenizer.ignoreMerges)
  const encode = (text: string): number[] => {
    const ids: number[] = []
    for (const word of splitWords(text, pretokenizer)) for (const id of pairs.encode(word)) ids.push(id)
    return ids
  }
  return {
    encode: (text, start) => encode(change ? change(text, start) : text),
    encodeBytes(bytes, start) {
      if (change) return encode(change(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes), start))
      const loosened = loosenedBytes(bytes)
      const ids: number[] = []
      let at = 0
      for (const word of splitWords(textForPatterns(loosened), pretokenizer)) {
        const end = at + Buffer.byteLength(word)
        for (const id of pairs.encodeBytes(loosened.subarray(at, end))) ids.push(id)
        at = end
      }
      return ids
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
function encodeStretches(bytes: Uint8Array, fallback: Fallback, encode: (text: string) => readonly number[]): number[] {
  const ids: number[] = []
  for (const stretch of stretches(bytes)) {
    if (typeof stretch !== 'string') pushUnknown(stretch, fallback, ids)
    else for (const id of encode(stretch)) ids.push(id)
  }
  return ids
}

function sentencePieces(vocabulary: Vocabulary): Encoding {
  const fallback = { byteIds: vocabulary.byteIds(), unknownId: vocabulary.facts.unknownId }
  const pieces = new SentencePieces(vocabulary.pieceTokens(), fallback)
  // SentencePiece takes text to begin with a word, and words begin with a space
  const prefix = vocabulary.facts.addSpacePrefix ? ' ' : ''
  return {
    encode: (text) => pieces.encode(prefix + text),
    encodeBytes(bytes) {
      const escaped = escapeSpaces(Buffer.concat([Buffer.from(prefix), bytes]))
      return encodeStretches(escaped, fallback, (text) => pieces.encode(text))
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
}

/** Byte-pair encoding over characters. */
export function characterEncoding(vocabulary: Vocabulary, form: CharacterForm): Encoding {
  const { ordinary, merges, unknownId } = vocabulary.facts
  const fallback = { byteIds: form.byteFallback ? vocabulary.byteIds() : [], unknownId }
  const pairs = new CharacterPairs(ordinary, merges, {
    ...fallback,
    isWhole: (word) => form.pretokenizer.ignoreMerges || (form.whole?.test(word) ?? false)
  })
  const encode = (text: string): number[] => {
    const ids: number[] = []
    for (const word of splitWords(text, form.pretokenizer)) {
      for (const id of pairs.encode(word)) if (id !== unknownId || ids.at(-1) !== id) ids.push(id)
    }
    return ids
  }
  return {
    encode: (text, start) => encode(form.normalize(text, start)),
    encodeBytes(bytes, start) {
      let first = start
      return encodeStretches(loosenedBytes(bytes), fallback, (text) => {
        const ids = encode(form.normalize(text, first))
        first = false
        return ids
      })
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
    byteFallback: true
  })
}
