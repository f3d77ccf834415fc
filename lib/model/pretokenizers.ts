/** How text is cut into words before byte pairs are merged. The patterns are in `pretokenizer-patterns.ts`; here they become code. */
import {
  PRETOKENIZER_FORMS,
  type PretokenizerForm,
  PUNCTUATION,
  THREES,
  THREES_EMPTY,
  THREES_TO_BOUNDARY
} from './pretokenizer-patterns.js'

/** Cuts a piece; joined, what comes back is the piece. */
export type Cut = (piece: string) => string[]

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
  return (piece) => {
    const pieces: string[] = []
    let start = 0
    expression.lastIndex = 0
    for (let match = expression.exec(piece); match; match = expression.exec(piece)) {
      if (match.index > start) pieces.push(piece.slice(start, match.index))
      pieces.push(match[0])
      start = match.index + match[0].length
    }
    if (start === 0) return [piece]
    if (start < piece.length) pieces.push(piece.slice(start))
    return pieces
  }
}

/** Runs of digits in groups of three from the right; the look-ahead of the published patterns would read the rest of a run at each group. */
function inThrees(digits: RegExp, { alone, boundary }: { alone: boolean; boundary?: RegExp }): Cut {
  return (piece) => {
    const pieces: string[] = []
    let start = 0
    for (const match of piece.matchAll(digits)) {
      const end = match.index + match[0].length
      if (boundary?.test(String.fromCodePoint(piece.codePointAt(end) ?? 32))) continue
      const run = Array.from(match[0])
      const head = run.length % 3 || 3
      // an empty match cuts between the groups only, and before a run that is all groups of three
      const joined = !alone && head < 3 ? piece.slice(start, match.index) : ''
      if (joined === '' && match.index > start) pieces.push(piece.slice(start, match.index))
      pieces.push(joined + run.slice(0, head).join(''))
      for (let at = head; at < run.length; at += 3) pieces.push(run.slice(at, at + 3).join(''))
      start = end
    }
    if (start < piece.length) pieces.push(piece.slice(start))
    return pieces
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
  return (piece) => piece.split(text).flatMap((part, i) => [...(i > 0 ? [text] : []), ...(part === '' ? [] : [part])])
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

/** The words of a text; joined, they are the text again. */
export function splitWords(text: string, { cuts }: Pick<Pretokenizer, 'cuts'>): string[] {
  let pieces = text === '' ? [] : [text]
  for (const cut of cuts) pieces = pieces.flatMap(cut)
  return pieces
}
