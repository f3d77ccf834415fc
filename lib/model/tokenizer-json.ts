/**
 * Hugging Face's tokenizer.json as a vocabulary: byte-pair models, over bytes and over characters, with added tokens, normalizers and
 * pre-tokenizers. The text is foreign: its shape and sizes are checked here. A model's metadata carries it under the key of the GGUF
 * specification, `tokenizer.huggingface.json`.
 */
import { z } from 'zod'
import { createError } from '../errors/index.js'
import { byteLevelEncoding, characterEncoding, type Encoding, refuseTokenizer } from './encodings.js'
import { Metadata, type RawMetadata } from './metadata.js'
import type { Merge } from './ranked-merges.js'
import { isByteLevel, readNormalizer, readPretokenizer, type Step } from './tokenizer-json-steps.js'
import { KIND, Vocabulary } from './vocabulary.js'

export const TOKENIZER_JSON = 'tokenizer.huggingface.json'
/** Ids that end an answer beside the end token: a list in JSON, because a header has no lists of them. */
export const END_IDS = 'tokenizer.huggingface.end_token_ids'

/** Characters of the whole text, tokens, merges and characters of a token: several times what the largest published models have. */
const LONGEST_TEXT = 128 * 1024 * 1024
const MOST_TOKENS = 2_000_000
const MOST_MERGES = 4_000_000
const LONGEST_TOKEN = 4096

const isTokenText = (value: unknown): value is string => typeof value === 'string' && value.length <= LONGEST_TOKEN
const isTokenId = (value: unknown): value is number =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) < MOST_TOKENS

/** Zod would make an object of each of hundreds of thousands. */
function isVocabulary(value: unknown): value is Record<string, number> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  const entries = Object.entries(value)
  return entries.length <= MOST_TOKENS && entries.every(([text, id]) => isTokenText(text) && isTokenId(id))
}

const isMerge = (value: unknown): value is Merge =>
  isTokenText(value) || (Array.isArray(value) && value.length === 2 && value.every(isTokenText))
const isMerges = (value: unknown): value is Merge[] =>
  Array.isArray(value) && value.length <= MOST_MERGES && value.every(isMerge)

const step = z.custom<Step>(
  (value) => typeof value === 'object' && value !== null && typeof (value as Step).type === 'string'
)
const flag = z.boolean().nullish()
const affix = z.string().max(LONGEST_TOKEN).nullish()

const schema = z.object({
  added_tokens: z
    .array(
      z.object({
        id: z
          .number()
          .int()
          .min(0)
          .max(MOST_TOKENS - 1)
          .describe('an id'),
        content: z.string().min(1).max(LONGEST_TOKEN).describe('a text'),
        special: flag.describe('true or false'),
        single_word: flag.describe('true or false'),
        lstrip: flag.describe('true or false'),
        rstrip: flag.describe('true or false')
      })
    )
    .max(200_000)
    .nullish()
    .describe('a list of added tokens'),
  normalizer: step.nullish().describe('a normalizer'),
  pre_tokenizer: step.nullish().describe('a pre-tokenizer'),
  post_processor: step.nullish().describe('a post-processor'),
  decoder: step.nullish().describe('a decoder'),
  model: z.object({
    type: z.string().max(100).nullish().describe('a type'),
    vocab: z.unknown(),
    merges: z.unknown(),
    unk_token: affix.describe('a token'),
    fuse_unk: flag.describe('true or false'),
    byte_fallback: flag.describe('true or false'),
    ignore_merges: flag.describe('true or false'),
    continuing_subword_prefix: affix.describe('a text'),
    end_of_word_suffix: affix.describe('a text'),
    dropout: z.number().nullish().describe('a number')
  })
})
type TokenizerJson = z.infer<typeof schema>
type Model = TokenizerJson['model']

function refuse(path: string, found: string, allowed: string): never {
  const key = path === '' ? TOKENIZER_JSON : `${TOKENIZER_JSON} ${path}`
  throw createError('METADATA_INVALID', `metadata ${key}: found ${found}, allowed is ${allowed}`, {
    key,
    found,
    allowed
  })
}

/** Short, for messages. */
function show(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing'
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}

const at = (value: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>((inner, name) => (inner as Record<PropertyKey, unknown> | undefined)?.[name], value)

function parse(text: string): TokenizerJson {
  if (text.length > LONGEST_TEXT) refuse('', `${text.length} characters`, `up to ${LONGEST_TEXT}`)
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (cause) {
    refuse('', cause instanceof Error ? cause.message.slice(0, 100) : 'no JSON', 'JSON')
  }
  const result = schema.safeParse(json)
  if (result.success) return result.data
  const { path, message } = result.error.issues[0]!
  refuse(path.join('.'), show(at(json, path)), message)
}

/** Ids of the vocabulary, from a list in JSON. */
function readEndIds(m: Metadata, vocab: number): number[] {
  let ids: unknown
  try {
    ids = JSON.parse(m.optionalString(END_IDS) ?? '[]')
  } catch {
    // refused below
  }
  const isId = (id: unknown): id is number => isTokenId(id) && id < vocab
  if (!Array.isArray(ids) || !ids.every(isId)) m.refuse(END_IDS, `a list of ids from 0 to ${vocab - 1}`)
  return ids
}

/** Texts with their ids, and merges, of a model of whatever type. */
function listsOf({ vocab, merges: given }: Model): { vocab: Record<string, number>; merges: Merge[] } {
  const merges = given ?? []
  if (!isVocabulary(vocab)) refuse('model.vocab', show(vocab), `an object of up to ${MOST_TOKENS} texts and their ids`)
  if (!isMerges(merges)) refuse('model.merges', show(merges), `a list of up to ${MOST_MERGES} merges`)
  return { vocab, merges }
}

/** Texts by id; where no token is, ''. */
function listTokens(vocab: Record<string, number>, added: TokenizerJson['added_tokens']) {
  const ordinary: string[] = []
  const tokens: string[] = []
  const put = (list: string[], id: number, text: string): void => {
    while (list.length <= id) list.push('')
    if (list[id] !== '' && list[id] !== text) refuse(`id ${id}`, `${show(list[id])} and ${show(text)}`, 'one token')
    list[id] = text
  }
  for (const [text, id] of Object.entries(vocab)) {
    put(ordinary, id, text)
    put(tokens, id, text)
  }
  for (const { id, content } of added ?? []) put(tokens, id, content)
  while (ordinary.length < tokens.length) ordinary.push('')
  return { tokens, ordinary }
}

/** Tokens that a text gets at its start and end. */
interface TemplateTokens {
  start: string[]
  end: string[]
  /** What else the file does to ids: ByteLevel changes offsets only. */
  others: string[]
}

function templateTokens(post: Step | null | undefined): TemplateTokens {
  const found: TemplateTokens = { start: [], end: [], others: [] }
  const steps = post?.type === 'Sequence' && Array.isArray(post.processors) ? (post.processors as unknown[]) : [post]
  const isTemplate = (one: unknown): one is Step => (one as Step | null | undefined)?.type === 'TemplateProcessing'
  const template = steps.find(isTemplate)
  for (const one of steps) {
    const type = (one as Step | null | undefined)?.type
    if (one !== template && one != null && type !== 'ByteLevel') found.others.push(String(type))
  }
  let side = found.start
  for (const item of Array.isArray(template?.single) ? (template.single as unknown[]) : []) {
    const { SpecialToken: special, Sequence: text } = (item ?? {}) as Record<string, { id?: unknown } | undefined>
    if (text !== undefined) side = found.end
    else if (typeof special?.id === 'string') side.push(special.id)
  }
  return found
}

/** Whether decoding takes away the space that encoding put before the first word. */
function dropsFirstSpace(decoder: Step | null | undefined): boolean {
  const steps =
    decoder?.type === 'Sequence' && Array.isArray(decoder.decoders) ? (decoder.decoders as unknown[]) : [decoder]
  return steps.some((one) => {
    const { type, content, start, prepend_scheme, add_prefix_space } = (one ?? {}) as Step
    if (type === 'Strip') return content === ' ' && typeof start === 'number' && start > 0
    return type === 'Metaspace' && prepend_scheme !== 'never' && add_prefix_space !== false
  })
}

const isByteName = /^<0x[0-9A-F]{2}>$/

/** The vocabulary of a model's tokenizer.json, and what makes its encoding: TOKENIZER_UNSUPPORTED there. METADATA_INVALID {key, found, allowed}. */
export function readTokenizerJson(raw: RawMetadata): { vocabulary: Vocabulary; createEncoding: () => Encoding } {
  const m = new Metadata(raw)
  const json = parse(m.string(TOKENIZER_JSON))
  const { model, added_tokens: added, post_processor: post } = json
  const { vocab, merges } = listsOf(model)
  const { tokens, ordinary } = listTokens(vocab, added)
  // a model may have more rows than its tokenizer has tokens
  const size = Math.min(Number(raw[`${raw['general.architecture']}.vocab_size`] ?? 0), MOST_TOKENS)
  while (tokens.length < size) {
    tokens.push('')
    ordinary.push('')
  }
  const kinds = ordinary.map((text) => {
    if (text === '') return KIND.unused as number
    return model.byte_fallback && isByteName.test(text) ? KIND.byte : KIND.normal
  })
  const strips = new Map<number, { left: boolean; right: boolean }>()
  for (const { id, special, lstrip, rstrip } of added ?? []) {
    kinds[id] = special ? KIND.control : KIND.userDefined
    if (lstrip || rstrip) strips.set(id, { left: lstrip === true, right: rstrip === true })
  }
  const idOf = (text: string | null | undefined): number | undefined => {
    const id = text == null ? -1 : tokens.lastIndexOf(text)
    return id < 0 ? undefined : id
  }
  const unknownId = idOf(model.unk_token)
  if (unknownId !== undefined) kinds[unknownId] = KIND.unknown
  const id = (name: string): number | undefined => {
    const key = `tokenizer.ggml.${name}_token_id`
    return m.has(key) ? m.integer(key, { min: 0, max: tokens.length - 1 }) : undefined
  }
  const says = (key: string) => (m.has(key) ? m.boolean(key, false) : undefined)
  const template = templateTokens(post)
  const bosId = idOf(template.start[0]) ?? id('bos')
  const eosId = id('eos') ?? idOf(template.end[0])
  const facts = {
    model: 'BPE',
    tokens,
    ordinary,
    kinds,
    scores: [],
    merges,
    pretokenizer: undefined,
    byteLevel: isByteLevel(json.pre_tokenizer),
    bosId,
    eosId,
    // checkpoints of earlier versions have up to two more under the names of GGUF
    endIds: [...readEndIds(m, tokens.length), id('eot'), id('eom')].filter((end) => end !== undefined),
    unknownId,
    addBos: says('tokenizer.ggml.add_bos_token') ?? template.start.length > 0,
    addEos: says('tokenizer.ggml.add_eos_token') ?? template.end.length > 0,
    addSpacePrefix: dropsFirstSpace(json.decoder),
    chatTemplate: m.optionalString('tokenizer.chat_template'),
    strips
  }
  const vocabulary = new Vocabulary(facts)
  return { vocabulary, createEncoding: () => createEncoding(json, vocabulary, template) }
}

/** TOKENIZER_UNSUPPORTED {tokenizer, supported}: what the file asks for and this version has not. */
function createEncoding({ model, ...json }: TokenizerJson, vocabulary: Vocabulary, template: TemplateTokens): Encoding {
  if ((model.type ?? 'BPE') !== 'BPE') refuseTokenizer(`tokenizer.json with model ${model.type}`, ['BPE'])
  for (const field of ['continuing_subword_prefix', 'end_of_word_suffix', 'dropout'] as const) {
    if (model[field]) refuseTokenizer(`tokenizer.json with ${field} ${show(model[field])}`, ['BPE without it'])
  }
  if (template.others.length > 0) {
    refuseTokenizer(`tokenizer.json with post_processor ${show(template.others)}`, ['TemplateProcessing', 'ByteLevel'])
  }
  if (template.start.length > 1 || template.end.length > 1) {
    refuseTokenizer(`tokenizer.json with a template of ${show([template.start, template.end])}`, [
      'one token at each end'
    ])
  }
  if (json.added_tokens?.some((token) => token.single_word)) {
    refuseTokenizer('tokenizer.json with single_word tokens', ['tokens that are found inside of words too'])
  }
  const { normalize, spaces } = readNormalizer(json.normalizer)
  const { cuts, byteLevel, prefix, firstOnly, spaces: space } = readPretokenizer(json.pre_tokenizer, spaces)
  const pretokenizer = { cuts, ignoreMerges: model.ignore_merges === true }
  const prefixed = (text: string, start: boolean): string => {
    const changed = normalize ? normalize(text) : text
    const escaped = space === ' ' ? changed : changed.replaceAll(' ', space)
    return prefix === '' || escaped === '' || escaped.startsWith(prefix) || (firstOnly && !start)
      ? escaped
      : prefix + escaped
  }
  const changes = normalize !== undefined || prefix !== '' || space !== ' '
  if (byteLevel) return byteLevelEncoding(vocabulary, pretokenizer, changes ? prefixed : undefined)
  return characterEncoding(vocabulary, {
    pretokenizer,
    normalize: prefixed,
    byteFallback: model.byte_fallback === true,
    fuseUnknown: model.fuse_unk === true
  })
}
