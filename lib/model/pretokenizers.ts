/**
 * How text is cut into words before byte pairs are merged, per `tokenizer.ggml.pre`. Patterns as published in the models'
 * tokenizer.json files; case-insensitive contractions are spelled out, because only ASCII letters take part in them.
 */

export interface Pretokenizer {
  /** Applied one after the other: each cuts the pieces of the one before; what does not match stays a piece. */
  readonly patterns: readonly string[]
  /** A word that is a token is taken whole, whatever the merges say. */
  readonly ignoreMerges: boolean
  /** Whether the start token is added where the file does not say. */
  readonly addBos: boolean
}

const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
const CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"

/** The pattern family of Llama 3 and Qwen, which differ in how many digits stay together and in what a letter is. */
const modern = (digits: string, letter = '\\p{L}', notWord = '\\p{L}\\p{N}') =>
  `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?${letter}+|${digits}| ?[^\\s${notWord}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`

const plain = (...patterns: string[]): Pretokenizer => ({ patterns, ignoreMerges: false, addBos: false })

const gpt2 = plain(GPT2)
const digitByDigit = plain('\\p{N}', GPT2)
const qwen2 = plain(modern('\\p{N}'))
const llama3: Pretokenizer = { patterns: [modern('\\p{N}{1,3}')], ignoreMerges: true, addBos: true }

const PRETOKENIZERS: ReadonlyMap<string, Pretokenizer> = new Map([
  ['default', plain('[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2, '\\p{N}+', '[0-9][0-9][0-9]')],
  ['gpt-2', gpt2],
  ['olmo', gpt2],
  ['mpt', gpt2],
  ['phi-2', gpt2],
  ['starcoder', digitByDigit],
  ['refact', digitByDigit],
  ['command-r', digitByDigit],
  ['smollm', digitByDigit],
  ['qwen2', qwen2],
  ['deepseek-r1-qwen', qwen2],
  ['stablelm2', qwen2],
  ['megrez', qwen2],
  ['qwen35', plain(modern('\\p{N}', '[\\p{L}\\p{M}]', '\\p{L}\\p{M}\\p{N}'))],
  ['llama-bpe', llama3],
  ['llama3', llama3],
  ['llama-v3', llama3],
  ['dbrx', plain(modern('\\p{N}{1,3}'))],
  ['smaug-bpe', plain(modern('\\p{N}{1,3}'))]
])

export const SUPPORTED_PRETOKENIZERS: readonly string[] = [...PRETOKENIZERS.keys()]

/** The pre-tokenizer of a name; a file that names none gets the default. */
export function findPretokenizer(name: string | undefined): Pretokenizer | undefined {
  return PRETOKENIZERS.get(name ?? 'default')
}
