/** Tokens of both kinds of tokenizers, and texts written with them. */
import { compileGuide, type GuideState, type JsonSchema, type TokenBytes } from '../../lib/guidance/index.js'
import { createTokenizer } from '../../lib/model/tokenizer.js'
import { readGgufHeader } from '../fixtures/gguf.js'

/** Byte-level BPE: the embedded model's 512 tokens. */
export const byteLevel = createTokenizer(readGgufHeader('models/tiny-shakespeare-moe-q8_0.gguf').metadata)

const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).padStart(2, '0').toUpperCase()}>`)
const pieces =
  '▁ ▁▁ ▁{ {" "} ":▁" "▁: ", ," ▁" "▁ ]} }} }, [[ [" "] ▁true null fals 12 007 -1 .5 e+ 9e name ▁the é 漢字 \\u00 \\n \\" ▁▁▁▁▁▁ age " , : } ] 1'
const words = pieces.split(' ')

/** SentencePiece with a token for each byte, pieces that reach over the ends of strings, two of the same text, and one that is unused. */
export const sentencePieces = createTokenizer({
  'tokenizer.ggml.model': 'llama',
  'tokenizer.ggml.tokens': ['<unk>', '<s>', '</s>', ...bytes, ...words, '▁{', ''],
  'tokenizer.ggml.token_type': [2, 3, 3, ...bytes.map(() => 6), ...words.map(() => 1), 1, 5],
  'tokenizer.ggml.scores': [0, 0, 0, ...bytes.map(() => 0), ...words.map((_, i) => -i), -99, -99],
  'tokenizer.ggml.eos_token_id': 2
})

export const vocabularies = { 'byte-level': byteLevel, SentencePiece: sentencePieces }

/** Every byte is a token. */
export const everyByte: TokenBytes = {
  vocab: 257,
  eosIds: new Set([256]),
  isControl: (id) => id === 256,
  tokenBytes: (id) => Uint8Array.of(id)
}

/** `undefined` is the format json_object. */
export function begin(schema: JsonSchema | undefined, tokens: TokenBytes = everyByte): GuideState {
  const format = schema === undefined ? ({ type: 'json_object' } as const) : ({ type: 'json_schema', schema } as const)
  return compileGuide(format, tokens, tokens.vocab)!.start()
}

/** Whether a text may be written, and may end there. */
export function accepts(schema: JsonSchema | undefined, text: string | Uint8Array): boolean {
  const state = begin(schema)
  return Array.from(Buffer.from(text)).every((byte) => state.accept(byte)) && state.complete
}

/** The tokens of a mask. */
export const tokensOf = (mask: Uint32Array, vocab: number): number[] =>
  Array.from({ length: vocab }, (_, id) => id).filter((id) => (mask[id >> 5]! >>> (id & 31)) & 1)

/** Writes a text of random tokens, with a liking for what ends it; undefined where it is not whole after `most`. */
export function write(state: GuideState, tokens: TokenBytes, next: () => number, most = 300): string | undefined {
  const written: number[] = []
  const ends = new Set([...'"}]0'].map((char) => char.charCodeAt(0)))
  for (let i = 0; i < most; i++) {
    if (state.ended || (state.complete && next() < 0.3)) return Buffer.from(written).toString()
    const mask = state.mask()
    if (!mask) throw new TypeError(`no token: ${state.describe()}`)
    const allowed = tokensOf(mask, tokens.vocab).filter((id) => !tokens.eosIds.has(id))
    const ending = allowed.filter((id) => ends.has(tokens.tokenBytes(id)[0]!))
    const from = ending.length > 0 && next() < (i < 30 ? 0.4 : 0.9) ? ending : allowed
    const token = from[Math.floor(next() * from.length)]!
    if (!state.accept(token)) throw new TypeError(`token ${token} is in the mask: ${state.describe()}`)
    written.push(...tokens.tokenBytes(token))
  }
  return undefined
}
