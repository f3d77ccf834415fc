/** The tokenizer of a Hugging Face folder, as metadata of a model. */
import { z } from 'zod'
import { createError } from '../errors/index.js'
import type { GgufMetadataValue } from '../native.js'
import { END_IDS, TOKENIZER_JSON } from './tokenizer-json.js'

/** Texts of the files; only the first must be there. */
export interface TokenizerFiles {
  /** tokenizer.json */
  tokenizer: string
  /** tokenizer_config.json: chat template, start and end token, whether they are added. */
  config?: string
  /** generation_config.json: the tokens that end an answer. */
  generation?: string
  /** config.json: start and end token, where the others say nothing. */
  model?: string
  /** chat_template.jinja, which newer folders have beside tokenizer_config.json. */
  chatTemplate?: string
}

const LONGEST_FILE = 16 * 1024 * 1024

const token = z.union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)]).nullish()
const ids = z.union([z.number().int().min(0), z.array(z.number().int().min(0)).max(1000)]).nullish()
const named = z.array(z.object({ name: z.string(), template: z.string() })).max(100)
const configSchema = z.object({
  bos_token: token.describe('a token'),
  eos_token: token.describe('a token'),
  add_bos_token: z.boolean().nullish().describe('true or false'),
  add_eos_token: z.boolean().nullish().describe('true or false'),
  chat_template: z.union([z.string(), named]).nullish().describe('a template, or a list of {name, template}')
})
const idSchema = z.object({
  bos_token_id: ids.describe('an id, or a list of ids'),
  eos_token_id: ids.describe('an id, or a list of ids')
})
const addedSchema = z.object({
  added_tokens: z.array(z.object({ id: z.number(), content: z.string() })).nullish(),
  model: z.object({ vocab: z.custom<Record<string, number>>((value) => typeof value === 'object' && value !== null) })
})

/** METADATA_INVALID {key, found, allowed}. */
function read<Shape extends z.ZodType>(
  file: string,
  text: string | undefined,
  shape: Shape,
  most = LONGEST_FILE
): z.infer<Shape> {
  const refuse = (key: string, found: string, allowed: string): never => {
    throw createError('METADATA_INVALID', `${file} ${key}: found ${found}, allowed is ${allowed}`, {
      key,
      found,
      allowed
    })
  }
  if (text !== undefined && text.length > most) refuse('', `${text.length} characters`, `up to ${most}`)
  let json: unknown = {}
  try {
    if (text !== undefined) json = JSON.parse(text)
  } catch (cause) {
    refuse('', cause instanceof Error ? cause.message.slice(0, 100) : 'no JSON', 'JSON')
  }
  const result = shape.safeParse(json)
  if (result.success) return result.data
  const { path, message } = result.error.issues[0]!
  return refuse(path.join('.'), 'another', message)
}

const list = (given: number | number[] | null | undefined): number[] =>
  Array.isArray(given) ? given : given == null ? [] : [given]

/**
 * Metadata that `createTokenizer` takes: the tokenizer itself, template, start and end tokens. METADATA_INVALID {key, found, allowed} for files
 * that are not of this form; what only encoding needs (TOKENIZER_UNSUPPORTED) is found when text is first encoded.
 */
export function tokenizerMetadata(files: TokenizerFiles): Record<string, GgufMetadataValue> {
  const config = read('tokenizer_config.json', files.config, configSchema)
  const generation = read('generation_config.json', files.generation, idSchema)
  const model = read('config.json', files.model, idSchema)
  const { added_tokens: added, model: lists } = read('tokenizer.json', files.tokenizer, addedSchema, 128 * 1024 * 1024)
  const idOf = (text: string | null | undefined): number | undefined => {
    if (text == null) return undefined
    const id = added?.find(({ content }) => content === text)?.id
    return id ?? (Object.hasOwn(lists.vocab, text) ? lists.vocab[text] : undefined)
  }
  const bos = idOf(config.bos_token) ?? list(generation.bos_token_id)[0] ?? list(model.bos_token_id)[0]
  // the end token of the tokenizer ends texts; a list of the generation's ends answers
  const ends = [idOf(config.eos_token), ...list(generation.eos_token_id), ...list(model.eos_token_id)]
  const [eos, ...others] = new Set(ends.filter((id) => id !== undefined))
  const templates = config.chat_template
  const template = Array.isArray(templates)
    ? (templates.find(({ name }) => name === 'default') ?? templates[0])?.template
    : (templates ?? undefined)
  const entries: [string, GgufMetadataValue | null | undefined][] = [
    [TOKENIZER_JSON, files.tokenizer],
    ['tokenizer.chat_template', files.chatTemplate ?? template],
    ['tokenizer.ggml.bos_token_id', bos],
    ['tokenizer.ggml.eos_token_id', eos],
    [END_IDS, others.length > 0 ? JSON.stringify(others) : undefined],
    ['tokenizer.ggml.add_bos_token', config.add_bos_token],
    ['tokenizer.ggml.add_eos_token', config.add_eos_token]
  ]
  return Object.fromEntries(entries.filter((entry): entry is [string, GgufMetadataValue] => entry[1] != null))
}
