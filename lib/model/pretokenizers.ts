/** How text is cut into words before byte pairs are merged. The patterns are in `pretokenizer-patterns.ts`; here they become code. */
import {
  PRETOKENIZER_FORMS,
  type PretokenizerForm,
  PUNCTUATION,
  THREES,
  THREES_EMPTY,
  THREES_TO_BOUNDARY
} from './pretokenizer-patterns.js'
import { WordMemory } from './word-memory.js'

/** Gives the parts of a piece, in order; joined, they are the piece. One after the other: whoever has seen enough of a long text may throw. */
export type Cut = (piece: string, give: (part: string) => void) => void

export interface Pretokenizer {
  /** Applied one after the other: each cuts the pieces of the one before. */
  readonly cuts: readonly Cut[]
  readonly ignoreMerges: boolean
  /** Whether the start token is added where the file does not say. */
  readonly addBos: boolean
  /** Merges run over characters, with U+2581 for spaces, and not over the byte-level alphabet. */
  readonly characters: boolean
}

/** `(?i:…)` of ASCII text, spelled out: JavaScript folds more letters than Oniguruma's ASCII ones here. */
const anyCase = (body: string): string =>
  body.replace(/\[([a-z]+)\]|[a-z]/g, (one, set?: string) =>
    set === undefined ? `[${one}${one.toUpperCase()}]` : `[${set}${set.toUpperCase()}]`
  )

/**
 * A published pattern as JavaScript reads it with the flag `u`. White space is Unicode's (JavaScript's differs in U+0085 and U+FEFF).
 * A possessive quantifier becomes a greedy one: no pattern here has what could follow it and match what it took. At the end of a piece
 * `\s+$` may only begin where white space does: tried from each of its characters, it would take quadratic time.
 */
export function regularExpression(published: string): RegExp {
  const source = published
    .replace(/\(\?i:([^()]*)\)/g, (_, body: string) => `(?:${anyCase(body)})`)
    .replace(/\[([^[\]]*)&&\[\^\\p\{Han\}\]\]/g, '(?:(?!\\p{Script=Han})[$1])')
    .replaceAll('\\p{Han}', '\\p{Script=Han}')
    .replace(/([?+])\+/g, '$1')
    .replace(/^\\s\+\$$/, '(?<!\\s)\\s+$')
    .replaceAll('\\s', '\\p{White_Space}')
    .replaceAll('\\S', '\\P{White_Space}')
  return new RegExp(source, 'gu')
}

/** Where the pattern matches, which is never an empty text; both matches and what lies between them stay, in order. */
function byPattern(published: string): Cut {
  const expression = regularExpression(published)
  return (piece, give) => {
    let start = 0
    expression.lastIndex = 0
    for (let match = expression.exec(piece); match; match = expression.exec(piece)) {
      if (match.index > start) give(piece.slice(start, match.index))
      give(match[0])
      start = match.index + match[0].length
    }
    if (start < piece.length) give(start === 0 ? piece : piece.slice(start))
  }
}

/** Runs of digits in groups of three from the right; the look-ahead of the published patterns would read the rest of a run at each group. */
function inThrees(digits: RegExp, { alone, boundary }: { alone: boolean; boundary?: RegExp }): Cut {
  return (piece, give) => {
    let start = 0
    for (const match of piece.matchAll(digits)) {
      const end = match.index + match[0].length
      if (boundary?.test(String.fromCodePoint(piece.codePointAt(end) ?? 32))) continue
      const run = Array.from(match[0])
      const head = run.length % 3 || 3
      // an empty match cuts between the groups only, and before a run that is all groups of three
      const joined = !alone && head < 3 ? piece.slice(start, match.index) : ''
      if (joined === '' && match.index > start) give(piece.slice(start, match.index))
      give(joined + run.slice(0, head).join(''))
      for (let at = head; at < run.length; at += 3) give(run.slice(at, at + 3).join(''))
      start = end
    }
    if (start < piece.length) give(piece.slice(start))
  }
}

const LINEAR: ReadonlyMap<string, () => Cut> = new Map([
  [THREES, () => inThrees(/\p{N}+/gu, { alone: true })],
  [THREES_TO_BOUNDARY, () => inThrees(/\p{Nd}+/gu, { alone: true, boundary: /[\p{L}\p{M}\p{N}\p{Pc}]/u })],
  [THREES_EMPTY, () => inThrees(/\p{Nd}+/gu, { alone: false })]
])

const BY_NAME: ReadonlyMap<string, PretokenizerForm> = new Map(
  PRETOKENIZER_FORMS.flatMap((form) => form.names.map((name) => [name, form] as const))
)

export const SUPPORTED_PRETOKENIZERS: readonly string[] = [...BY_NAME.keys()]

const cutOf = (published: string): Cut => LINEAR.get(published)?.() ?? byPattern(published)

/** What a pattern is in JavaScript, however a file writes it: a character may be written as itself or by its number. */
const keyOf = (published: string): string =>
  regularExpression(published)
    .source.replace(/\\u([0-9a-f]{4})/gi, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16)))
    .replace(/\\u\{([0-9a-f]{1,6})\}/gi, (_, code: string) => String.fromCodePoint(Number.parseInt(code, 16)))

/** Every known pattern. */
const BY_EXPRESSION = new Map(
  ['\\p{N}+', PUNCTUATION.Isolated, ...PRETOKENIZER_FORMS.flatMap(({ patterns }) => patterns)].map(
    (pattern) => [keyOf(pattern), pattern] as const
  )
)

/** The cut of a file's pattern, where it is one of those above: a foreign expression could take for ever. */
export function knownCut(published: string): Cut | undefined {
  if (published.length > 4000) return undefined
  try {
    const pattern = BY_EXPRESSION.get(keyOf(published))
    return pattern === undefined ? undefined : cutOf(pattern)
  } catch {
    // no expression of JavaScript's
    return undefined
  }
}

/** At each place where a text is. */
export function cutAt(text: string): Cut {
  return (piece, give) => {
    let start = 0
    for (let at = piece.indexOf(text); at >= 0; at = piece.indexOf(text, start)) {
      if (at > start) give(piece.slice(start, at))
      give(text)
      start = at + text.length
    }
    if (start < piece.length) give(piece.slice(start))
  }
}

/** A cut has the state of its expression, and is made once. */
const made = new Map<PretokenizerForm, Pretokenizer>()

function pretokenizerOf(form: PretokenizerForm): Pretokenizer {
  let pretokenizer = made.get(form)
  if (!pretokenizer) {
    const { patterns, ignoreMerges = false, addBos = false, characters = false } = form
    const cuts = patterns.map(cutOf)
    pretokenizer = { cuts, ignoreMerges, addBos, characters }
    made.set(form, pretokenizer)
  }
  return pretokenizer
}

/** The pre-tokenizer of a name; a file that names none gets the default. */
export function findPretokenizer(name: string | undefined): Pretokenizer | undefined {
  const form = BY_NAME.get(name ?? 'default')
  return form && pretokenizerOf(form)
}

/** Characters of a piece whose words are remembered. A part of a text that is longer keeps the whole text in memory. */
const SHORT = 12

/** Cuts texts into words, one cut after the other. */
export class WordSplitter {
  /** Of each cut, what becomes of a short piece from there on: the same ones come up again and again. */
  private readonly remembered: readonly WordMemory<readonly string[]>[]

  constructor(private readonly cuts: readonly Cut[]) {
    this.remembered = cuts.map(() => new WordMemory())
  }

  /** Gives the words in order; joined, they are the text again. */
  split(text: string, give: (word: string) => void): void {
    if (text !== '') this.cutFrom(0, text, give)
  }

  private cutFrom(at: number, piece: string, give: (word: string) => void): void {
    const cut = this.cuts[at]
    if (!cut) give(piece)
    // one cut more is as fast as a look into the memory
    else if (piece.length > SHORT || at >= this.cuts.length - 1) cut(piece, (part) => this.cutFrom(at + 1, part, give))
    else for (const word of this.remembered[at]!.recall(piece, () => this.wordsFrom(at, piece))) give(word)
  }

  private wordsFrom(at: number, piece: string): string[] {
    let words = [piece]
    for (const cut of this.cuts.slice(at)) {
      const parts: string[] = []
      for (const word of words) cut(word, (part) => parts.push(part))
      words = parts
    }
    return words
  }
}

/** The words of a text; joined, they are the text again. */
export function splitWords(text: string, { cuts }: Pick<Pretokenizer, 'cuts'>): string[] {
  const words: string[] = []
  new WordSplitter(cuts).split(text, (word) => words.push(word))
  return words
}
