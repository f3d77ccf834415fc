/**
 * How text is cut into words before byte pairs are merged, per `tokenizer.ggml.pre`. Patterns as published in the models'
 * tokenizer.json files; white space is Unicode's, and case-insensitive contractions are spelled out, because only ASCII letters
 * take part in them.
 */

export interface Pretokenizer {
  /** Applied one after the other: each cuts the pieces of the one before; what does not match stays a piece. */
  readonly patterns: readonly RegExp[]
  /** A word that is a token is taken whole, whatever the merges say. */
  readonly ignoreMerges: boolean
  /** Whether the start token is added where the file does not say. */
  readonly addBos: boolean
}

/** A pattern in the usual notation, with `\s` and `\S` as Unicode has them (JavaScript's differ in U+0085 and U+FEFF). */
function pattern(source: string): RegExp {
  return new RegExp(source.replaceAll('\\s', '\\p{White_Space}').replaceAll('\\S', '\\P{White_Space}'), 'gu')
}

const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
const CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"

/** The pattern family of Llama 3 and Qwen, which differ in how many digits stay together and in what a letter is. */
const modern = (digits: string, letter = String.raw`\p{L}`, inWord = String.raw`\p{L}\p{N}`) =>
  CONTRACTIONS + String.raw`|[^\r\n\p{L}\p{N}]?${letter}+|${digits}| ?[^\s${inWord}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

const plain = (...sources: string[]): Pretokenizer => ({
  patterns: sources.map(pattern),
  ignoreMerges: false,
  addBos: false
})

const gpt2 = plain(GPT2)
const digitByDigit = plain(String.raw`\p{N}`, GPT2)
const qwen2 = plain(modern(String.raw`\p{N}`))
const threeDigits = plain(modern(String.raw`\p{N}{1,3}`))
const llama3: Pretokenizer = { ...threeDigits, ignoreMerges: true, addBos: true }

const PRETOKENIZERS: ReadonlyMap<string, Pretokenizer> = new Map([
  ['default', plain(String.raw`[\p{P}\$\+<=>\^~\|]+`, GPT2, String.raw`\p{N}+`, '[0-9][0-9][0-9]')],
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
  ['qwen35', plain(modern(String.raw`\p{N}`, String.raw`[\p{L}\p{M}]`, String.raw`\p{L}\p{M}\p{N}`))],
  ['llama-bpe', llama3],
  ['llama3', llama3],
  ['llama-v3', llama3],
  ['dbrx', threeDigits],
  ['smaug-bpe', threeDigits]
])

export const SUPPORTED_PRETOKENIZERS: readonly string[] = [...PRETOKENIZERS.keys()]

/** The pre-tokenizer of a name; a file that names none gets the default. */
export function findPretokenizer(name: string | undefined): Pretokenizer | undefined {
  return PRETOKENIZERS.get(name ?? 'default')
}

/** Cuts every piece where the pattern matches; both matches and what lies between them stay, in order. */
function cut(pieces: readonly string[], by: RegExp): string[] {
  const result: string[] = []
  for (const piece of pieces) {
    let start = 0
    for (const match of piece.matchAll(by)) {
      if (match.index > start) result.push(piece.slice(start, match.index))
      if (match[0] !== '') result.push(match[0])
      start = match.index + match[0].length
    }
    if (start < piece.length) result.push(piece.slice(start))
  }
  return result
}

/** The words of a text; joined, they are the text again. */
export function splitWords(text: string, { patterns }: Pretokenizer): string[] {
  return patterns.reduce<string[]>(cut, [text])
}
