/** OpenAI's requests for a text, checked, as requests of the engine. */
import { z } from 'zod'
import { EngineError, isEngineError } from '../errors/index.js'
import { camelCase } from '../errors/wire.js'
import type { ChatMessage, GenerationRequest } from '../generation/options.js'
import { isTokenList } from '../generation/options.js'
import { validated } from '../schemas.js'
import { validationError } from '../validation.js'

export type Form = 'chat' | 'completion'

export interface TextRequest {
  form: Form
  /** What the engine is asked for, with the defaults that OpenAI's form has. */
  generation: GenerationRequest
  stream: boolean
  /** A stream ends with a chunk that has the usage. */
  includeUsage: boolean
  priority: number | undefined
  /** UTF-8 bytes of a prompt of text; 0 of one of tokens. */
  promptBytes: number
  /** Of a prompt of tokens. */
  promptTokens: number
}

/** Characters of an id: it is in messages and logs, and remembered with failures. */
const longestModel = 200
/** Of OpenAI's completions; its chats may fill the context. */
const completionTokens = 16

/** What this server does not have may be given with the value that changes nothing. */
const neutral = (value: unknown, text: string) =>
  z
    .custom((given) => JSON.stringify(given) === JSON.stringify(value))
    .optional()
    .describe(text)

const number = z.number().optional().describe('a number')
const integer = z.number().int().optional().describe('an integer')
const boolean = z.boolean().optional().describe('true or false')
const text = z.string().optional().describe('a string')

const common = {
  model: z.string().min(1).max(longestModel).describe('the id of a loaded model'),
  max_tokens: integer,
  temperature: number,
  top_p: number,
  stop: z
    .union([z.string(), z.array(z.string())])
    .optional()
    .describe('a string, or a list of strings'),
  seed: integer,
  stream: boolean,
  stream_options: z
    .strictObject({ include_usage: z.boolean().optional(), include_obfuscation: z.literal(false).optional() })
    .optional()
    .describe('{include_usage: true or false}'),
  user: text,
  metadata: z.record(z.string(), z.string()).optional().describe('an object of strings'),
  response_format: z.looseObject({ type: z.string() }).optional().describe('{type: text, json_object or json_schema}'),
  top_k: integer,
  min_p: number,
  repetition_penalty: number,
  tierSet: z
    .union([z.string(), z.array(z.string())])
    .optional()
    .describe('a name, or a list of names'),
  tier_set: z
    .union([z.string(), z.array(z.string())])
    .optional()
    .describe('a name, or a list of names'),
  latencyBudgetMs: number,
  latency_budget_ms: number,
  cache_salt: text,
  priority: z.number().int().min(1).max(10).optional().describe('an integer from 1 to 10'),
  n: neutral(1, '1'),
  presence_penalty: neutral(0, '0'),
  frequency_penalty: neutral(0, '0'),
  logit_bias: neutral({}, '{}')
}

const part = z.strictObject({ type: z.literal('text'), text: z.string() })
const chatSchema = z.strictObject({
  ...common,
  messages: z
    .array(
      z
        .strictObject({ role: z.string().min(1), content: z.union([z.string(), z.array(part)]) })
        .describe('{role: a string, content: a string or a list of {type: text, text}}')
    )
    .min(1)
    .describe('a list of {role, content}, at least one'),
  max_completion_tokens: integer,
  logprobs: boolean,
  top_logprobs: integer,
  tools: neutral([], 'no tools: []'),
  tool_choice: neutral('none', 'none'),
  modalities: neutral(['text'], '[text]'),
  store: neutral(false, 'false')
})

/** Not a list of numbers to zod: there may be a million of them. */
const tokens = z.custom<number[]>((value) => Array.isArray(value) && value.length > 0 && isTokenList(value))
const completionSchema = z.strictObject({
  ...common,
  prompt: z
    .union([z.string(), tokens, z.tuple([z.string()]), z.tuple([tokens])])
    .describe('a string, a list of token ids, or a list of one of these'),
  logprobs: z.number().int().min(0).max(20).optional().describe('an integer from 0 to 20'),
  best_of: neutral(1, '1'),
  echo: neutral(false, 'false'),
  suffix: neutral('', 'an empty string')
})

type Chat = z.output<typeof chatSchema>
type Completion = z.output<typeof completionSchema>

/** Null is as good as nothing in OpenAI's requests. */
function withoutNulls(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== null))
}

/** The name of a field for the engine, of those that differ by more than their spelling. */
const otherNames: Readonly<Record<string, string>> = { max_completion_tokens: 'maxTokens' }

/** VALIDATION_ERROR {path, found, allowed}. */
export function parseRequest(form: Form, body: unknown): TextRequest {
  const given = withoutNulls(body)
  if (form === 'chat' && Array.isArray((given as Chat | undefined)?.messages)) {
    const { messages } = given as { messages: unknown[] }
    ;(given as { messages: unknown[] }).messages = messages.map(withoutNulls)
  }
  const parsed = form === 'chat' ? chat(given) : completion(given)
  const { stream = false, stream_options: streaming, priority } = parsed.fields
  const { prompt = '', promptTokens, messages = [] } = parsed.source
  let promptBytes = Buffer.byteLength(prompt)
  for (const { role, content } of messages) promptBytes += Buffer.byteLength(role) + Buffer.byteLength(content)
  return {
    form,
    generation: { model: parsed.fields.model, ...parsed.source, ...parsed.logprobs, ...sampling(parsed.fields, form) },
    stream,
    includeUsage: stream && streaming?.include_usage === true,
    priority,
    promptBytes,
    promptTokens: promptTokens?.length ?? 0
  }
}

interface Parsed {
  fields: Chat | Completion
  source: { prompt?: string; promptTokens?: number[]; messages?: ChatMessage[] }
  logprobs: Pick<GenerationRequest, 'logprobs' | 'topLogprobs'>
}

function chat(body: unknown): Parsed {
  const fields = validated(chatSchema, body, 'the request')
  const messages = fields.messages.map(({ role, content }) => ({
    role,
    content: typeof content === 'string' ? content : content.map((own) => own.text).join('')
  }))
  const { logprobs, top_logprobs: topLogprobs } = fields
  return {
    fields,
    source: { messages },
    logprobs: { ...(logprobs && { logprobs }), ...(logprobs && topLogprobs !== undefined && { topLogprobs }) }
  }
}

function completion(body: unknown): Parsed {
  const fields = validated(completionSchema, body, 'the request')
  const { prompt: given, logprobs: topLogprobs } = fields
  const prompt = Array.isArray(given) && typeof given[0] !== 'number' ? given[0] : given
  const source = typeof prompt === 'string' ? { prompt } : { promptTokens: prompt as number[] }
  return { fields, source, logprobs: topLogprobs === undefined ? {} : { logprobs: true, topLogprobs } }
}

function sampling(fields: Chat | Completion, form: Form): Partial<GenerationRequest> {
  for (const [one, other] of [
    ['tierSet', 'tier_set'],
    ['latencyBudgetMs', 'latency_budget_ms']
  ] as const) {
    if (fields[one] === undefined || fields[other] === undefined) continue
    throw validationError('the request', other, fields[other], `one spelling of ${one}, not two`)
  }
  const most = 'max_completion_tokens' in fields ? fields.max_completion_tokens : undefined
  const maxTokens = most ?? fields.max_tokens ?? (form === 'completion' ? completionTokens : undefined)
  const all = {
    maxTokens,
    temperature: fields.temperature,
    topP: fields.top_p,
    topK: fields.top_k,
    minP: fields.min_p,
    repetitionPenalty: fields.repetition_penalty,
    seed: fields.seed,
    stop: fields.stop,
    tierSet: fields.tierSet ?? fields.tier_set,
    latencyBudgetMs: fields.latencyBudgetMs ?? fields.latency_budget_ms,
    cacheSalt: fields.cache_salt,
    responseFormat: responseFormat(fields.response_format)
  }
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined))
}

/** OpenAI puts the schema and what belongs to it one level deeper. */
function responseFormat(format: Chat['response_format']): unknown {
  if (format?.type === 'text') return undefined
  const nested = format?.json_schema
  if (format?.type !== 'json_schema' || typeof nested !== 'object' || nested === null) return format
  const { schema, strict } = nested as { schema?: unknown; strict?: unknown }
  return { type: 'json_schema', schema, ...(typeof strict === 'boolean' && { strict }) }
}

/** What the engine says of a field, with the name that the field has in the request. */
export function inTermsOf(body: unknown, error: unknown): unknown {
  if (!isEngineError(error) || error.code !== 'VALIDATION_ERROR') return error
  const path = String(error.details.path)
  const [head = ''] = path.split(/[.[]/)
  const keys = Object.keys((body as object | null) ?? {})
  const own = keys.find((key) => (otherNames[key] ?? camelCase(key)) === head)
  const name = own ?? (head === 'promptTokens' ? 'prompt' : head)
  if (name === head) return error
  const details = { ...error.details, path: `${name}${path.slice(head.length)}` }
  return new EngineError('VALIDATION_ERROR', error.message.replaceAll(head, name), details, { cause: error.cause })
}
