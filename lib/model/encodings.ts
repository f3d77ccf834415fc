/** From a vocabulary to what turns a stretch of text into token ids, without its special tokens. */
import { createError } from '../errors/index.js'
import { BytePairs } from './byte-pairs.js'
import { findPretokenizer, SUPPORTED_PRETOKENIZERS, splitWords } from './pretokenizers.js'
import { SentencePieces } from './sentence-pieces.js'
import type { Vocabulary } from './vocabulary.js'

export interface Encoding {
  /** Whether the start token is added where the file does not say. */
  readonly addBos: boolean
  /** `first`: nothing, or a special token, comes before the text. */
  encode(text: string, first: boolean): number[]
}

function refuse(tokenizer: string, supported: readonly string[]): never {
  throw createError(
    'TOKENIZER_UNSUPPORTED',
    `tokenizer ${tokenizer} is not supported; supported: ${supported.join(', ')}. Token ids can be given instead of text`,
    { tokenizer, supported: [...supported] }
  )
}

function byteLevel(vocabulary: Vocabulary): Encoding {
  const { tokens, merges, pretokenizer: name } = vocabulary
  const pretokenizer = findPretokenizer(name) ?? refuse(`gpt2 with pre-tokenizer ${name}`, SUPPORTED_PRETOKENIZERS)
  const pairs = new BytePairs(tokens, merges, pretokenizer.ignoreMerges)
  return {
    addBos: pretokenizer.addBos,
    encode: (text) => {
      const ids: number[] = []
      for (const word of splitWords(text, pretokenizer)) for (const id of pairs.encode(word)) ids.push(id)
      return ids
    }
  }
}

function sentencePieces(vocabulary: Vocabulary): Encoding {
  const pieces = new SentencePieces(vocabulary.pieceTokens(), vocabulary.byteIds())
  return {
    addBos: true,
    // SentencePiece takes text to begin with a word, and words begin with a space
    encode: (text, first) => pieces.encode(first && vocabulary.addSpacePrefix ? ` ${text}` : text)
  }
}

/** TOKENIZER_UNSUPPORTED {tokenizer, supported}. */
export function createEncoding(vocabulary: Vocabulary): Encoding {
  if (vocabulary.model === 'gpt2') return byteLevel(vocabulary)
  if (vocabulary.model === 'llama') return sentencePieces(vocabulary)
  return refuse(vocabulary.model ?? '(none in the file)', ['gpt2 (byte-level BPE)', 'llama (SentencePiece BPE)'])
}
