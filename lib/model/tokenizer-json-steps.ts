/** The steps of a tokenizer.json before its model: what becomes of text, and how it is cut. Only what is known to be linear is taken. */
import { refuseTokenizer } from './encodings.js'
import { GPT2, PUNCTUATION } from './pretokenizer-patterns.js'
import { type Cut, cutAt, knownCut } from './pretokenizers.js'

/** A step as the file has it. */
export interface Step {
  readonly type: string
  readonly [field: string]: unknown
}

const MOST_STEPS = 64
/** Characters that a step may put for one, and all of them together for each of a text. */
const LONGEST_CONTENT = 64

const isShort = (value: unknown): value is string => typeof value === 'string' && value.length <= LONGEST_CONTENT
const isCharacter = (value: unknown): value is string => isShort(value) && Array.from(value).length === 1

function refuse(what: string, supported: readonly string[]): never {
  const shown = what.length > 200 ? `${what.slice(0, 197)}...` : what
  refuseTokenizer(`tokenizer.json with ${shown}`, supported)
}

const isStep = (value: unknown): value is Step =>
  typeof value === 'object' && value !== null && typeof (value as Step).type === 'string'

/** The steps of a step, sequences opened, in order. */
function flatten(step: Step | null | undefined, field: string): Step[] {
  const flat: Step[] = []
  const open = step ? [step] : []
  while (open.length > 0) {
    const next = open.shift()!
    if (next.type !== 'Sequence') flat.push(next)
    else {
      const inner = next[field]
      if (!Array.isArray(inner) || !inner.every(isStep)) refuse(`a Sequence without ${field}`, [`a list of ${field}`])
      if (flat.length + open.length + inner.length > MOST_STEPS)
        refuse(`more than ${MOST_STEPS} ${field}`, [`up to ${MOST_STEPS}`])
      open.unshift(...inner)
    }
  }
  return flat
}

/** Whether tokens are written in the byte-level alphabet. */
export function isByteLevel(step: Step | null | undefined): boolean {
  const inner = step?.type === 'Sequence' && Array.isArray(step.pretokenizers) ? step.pretokenizers : [step]
  return inner.some((one) => isStep(one) && one.type === 'ByteLevel')
}

export type Normalize = (text: string) => string

const FORMS = ['NFC', 'NFD', 'NFKC', 'NFKD'] as const
const NORMALIZERS = [...FORMS, 'Prepend', 'Replace (of a text, or of two spaces and more)']

/** A Replace or Split pattern: a text, or the source of a regular expression. */
function patternOf(step: Step): { text?: string; expression?: string } {
  const { String: text, Regex: expression } = (step.pattern ?? {}) as Record<string, unknown>
  if (typeof text === 'string' && text !== '') return { text }
  return typeof expression === 'string' ? { expression } : {}
}

function normalizerOf(step: Step): Normalize {
  const { type, prepend, content } = step
  const form = FORMS.find((name) => name === type)
  if (form) return (text) => text.normalize(form)
  if (type === 'Prepend' && isShort(prepend)) return (text) => (text === '' ? '' : prepend + text)
  if (type === 'Replace' && isShort(content)) {
    const { text: replaced, expression } = patternOf(step)
    if (replaced !== undefined) return (text) => text.split(replaced).join(content)
    if (expression === ' {2,}') return (text) => text.replace(/ {2,}/g, () => content)
  }
  refuse(`normalizer ${type}`, NORMALIZERS)
}

/** TOKENIZER_UNSUPPORTED. `spaces`: what a space becomes. */
export function readNormalizer(step: Step | null | undefined): { normalize: Normalize | undefined; spaces: string } {
  const steps = flatten(step, 'normalizers').map(normalizerOf)
  if (steps.length === 0) return { normalize: undefined, spaces: ' ' }
  const normalize: Normalize = (text) =>
    steps.reduce((result, next) => {
      const changed = next(result)
      if (changed.length > LONGEST_CONTENT * (text.length + MOST_STEPS)) {
        refuse('normalizers that multiply a text', [`up to ${LONGEST_CONTENT} characters for one`])
      }
      return changed
    }, text)
  const around = normalize('a a')
  return { normalize, spaces: around.slice(around.indexOf('a') + 1, around.lastIndexOf('a')) }
}

export interface CutForm {
  cuts: Cut[]
  byteLevel: boolean
  /** What goes before a stretch that does not begin with it; before the text's first alone where `firstOnly`. */
  prefix: string
  firstOnly: boolean
  /** What a space becomes. */
  spaces: string
}

const PRETOKENIZERS = [
  'ByteLevel',
  'Split (a text, or a pattern of a published model)',
  'Digits',
  'Punctuation',
  'Metaspace',
  'Sequence'
]

/** A Split, as a cut; undefined where it never cuts. */
function splitCut(step: Step, spaces: string): Cut | undefined {
  const { behavior, invert = false } = step
  const { text, expression } = patternOf(step)
  // what normalization has replaced is not there to be cut at
  if (text === ' ' && spaces !== ' ') return undefined
  const isolates = behavior === 'Isolated' && invert === false
  if (text !== undefined && isolates) return cutAt(text)
  if (expression !== undefined) {
    // a pattern that matches everything leaves nothing to remove between its matches
    const keepsMatches = behavior === 'Removed' && invert === true && expression.endsWith('\\s+')
    const cut = isolates || keepsMatches ? knownCut(expression) : undefined
    if (cut) return cut
  }
  refuse(`pre_tokenizer Split of ${JSON.stringify(text ?? expression ?? step.pattern)} (${behavior})`, PRETOKENIZERS)
}

/** TOKENIZER_UNSUPPORTED. `spaces`: what normalization has made of a space. */
export function readPretokenizer(step: Step | null | undefined, spaces: string): CutForm {
  const form: CutForm = { cuts: [], byteLevel: false, prefix: '', firstOnly: false, spaces }
  const known = (pattern: string) => form.cuts.push(knownCut(pattern)!)
  flatten(step, 'pretokenizers').forEach((next, i) => {
    const { type } = next
    if (form.byteLevel) refuse(`pre_tokenizer ${type} after ByteLevel`, PRETOKENIZERS)
    if (type === 'ByteLevel') {
      form.byteLevel = true
      if (next.add_prefix_space === true) {
        if (i > 0) refuse('pre_tokenizer ByteLevel with add_prefix_space after another', PRETOKENIZERS)
        form.prefix = ' '
      }
      if (next.use_regex !== false) known(GPT2)
    } else if (type === 'Digits') known(next.individual_digits === true ? '\\p{N}' : '\\p{N}+')
    else if (type === 'Punctuation' && (next.behavior === 'Contiguous' || next.behavior === 'Isolated')) {
      known(PUNCTUATION[next.behavior])
    } else if (type === 'Split') {
      const cut = splitCut(next, form.spaces)
      if (cut) form.cuts.push(cut)
    } else if (type === 'Metaspace' && isCharacter(next.replacement) && i === 0) metaspace(form, next)
    else refuse(`pre_tokenizer ${type}`, PRETOKENIZERS)
  })
  return form
}

function metaspace(form: CutForm, { replacement, prepend_scheme, add_prefix_space, split }: Step): void {
  const scheme = prepend_scheme ?? (add_prefix_space === false ? 'never' : 'always')
  form.spaces = replacement as string
  form.prefix = scheme === 'never' ? '' : form.spaces
  form.firstOnly = scheme === 'first'
  // a word begins with its space
  if (split !== false)
    form.cuts.push((piece, give) => {
      let start = 0
      for (let at = piece.indexOf(form.spaces, 1); at >= 0; at = piece.indexOf(form.spaces, at + 1)) {
        give(piece.slice(start, at))
        start = at
      }
      give(piece.slice(start))
    })
}
