/** A generation request: its options, their defaults and their OpenAI spellings, checked once at the border. */
import { randomInt } from 'node:crypto'
import { z } from 'zod'
import { isEngineError } from '../errors/index.js'
import type { ResponseFormat } from '../guidance/index.js'
import { ownFormat, responseFormatAllowed, responseFormatSchema } from '../guidance/index.js'
import { callFields, validated } from '../schemas.js'
import { unreadable, validationError } from '../validation.js'
import type { RoutingCapture } from './routing.js'
import { isRoutingCapture } from './routing.js'

export interface ChatMessage {
  /** system, user, assistant, or another role that the model's template knows. */
  role: string
  content: string
}

/** What to generate. Exactly one of prompt, promptTokens and messages. */
export interface GenerationRequest {
  /** Id of a loaded model. */
  model: string
  /** Text, or its UTF-8; bytes that are none are taken as llama.cpp takes them. */
  prompt?: string | Uint8Array
  /** Token ids, taken as they are (no beginning-of-text token is added). */
  promptTokens?: readonly number[] | Int32Array | Uint32Array
  /** Rendered with the model's chat template. */
  messages?: readonly ChatMessage[]
  /** At most this many tokens; the context's end is the other bound. Default 512. */
  maxTokens?: number
  /** 0 = greedy. Default 0.8. */
  temperature?: number
  /** The k most likely tokens only; 0 = off. Default 40. */
  topK?: number
  /** The most likely tokens that together have this probability; 1 = off. Default 0.95. */
  topP?: number
  /** Only tokens at least this fraction as likely as the most likely one; 0 = off. Default 0.05. */
  minP?: number
  /** Divides or multiplies the logits of recent tokens; 1 = off (default). */
  repetitionPenalty?: number
  /** How many recent tokens, of the prompt too, the penalty looks at. Default 64. */
  repetitionWindow?: number
  /** Same seed, same text: sampling depends on (seed, position) only. Random by default; the last item tells it. */
  seed?: number
  /** Text that ends the generation; it is not part of the output. */
  stop?: string | readonly string[]
  /**
   * Keeps the text to a form: JSON, or JSON that a schema accepts. The text is whole unless maxTokens, the context's end or a stop string
   * ends it before. Default: free text.
   */
  responseFormat?: ResponseFormat
  /** Never choose an end-of-text token. */
  ignoreEos?: boolean
  /** Report the log probability of each token. */
  logprobs?: boolean
  /** Report the n most likely tokens at each position as well, 0 to 20. */
  topLogprobs?: number
  /** Hand out the logits that each token was chosen from (a Float32Array of the vocabulary's size). */
  logits?: boolean
  /** Give each token the experts that its step was routed to; the first token's has those of the whole prompt. */
  captureRouting?: boolean
  /** Use these routes from position 0 on instead of the router's; positions that it does not hold are routed. */
  replayRouting?: RoutingCapture
  /** The tiers to use: a mode (fast, balanced, deep, max), an alias, a tier's name, or a list of names. Default: the model's active one. */
  tierSet?: string | readonly string[]
  /** Milliseconds that one token may take: without a tierSet, the largest one that is predicted to hold it is used. Default: the model's. */
  latencyBudgetMs?: number
  /**
   * Only requests with the same text share the KV cache of a common prefix. `cachedTokens`, and how soon a first token comes, tell whether the
   * prompt's beginning was there: give each client its own to keep that between its own requests. Default: shared by all that say nothing.
   */
  cacheSalt?: string
  /** Recognise special tokens (such as `<|im_start|>`) written in `prompt` or in the text of messages. Default false: there they are text. */
  parseSpecial?: boolean
  /** A name for the request in errors; random by default. */
  requestId?: string
}

/** OpenAI's spelling of each option that has another one there. */
const aliases: Readonly<Record<string, string>> = {
  max_tokens: 'maxTokens',
  max_completion_tokens: 'maxTokens',
  prompt_tokens: 'promptTokens',
  top_k: 'topK',
  top_p: 'topP',
  min_p: 'minP',
  repetition_penalty: 'repetitionPenalty',
  repetition_window: 'repetitionWindow',
  response_format: 'responseFormat',
  ignore_eos: 'ignoreEos',
  top_logprobs: 'topLogprobs',
  capture_routing: 'captureRouting',
  replay_routing: 'replayRouting',
  tier_set: 'tierSet',
  latency_budget_ms: 'latencyBudgetMs',
  cache_salt: 'cacheSalt',
  parse_special: 'parseSpecial',
  request_id: 'requestId'
}

/** Of a request that does not say. */
export const defaultMaxTokens = 512

const stopText = z.string().min(1).max(1000)
const stopAllowed = 'a string, or up to 16 strings, of 1 to 1000 characters each'

export const maxTokenId = 2 ** 31 - 1
export const isTokenList = (value: unknown): value is number[] | Int32Array | Uint32Array =>
  value instanceof Int32Array ||
  value instanceof Uint32Array ||
  (Array.isArray(value) && value.every((id) => Number.isInteger(id) && id >= 0 && id <= maxTokenId))

/** An own copy. A detached array has length 0 and cannot be iterated. */
export const copyTokens = (tokens: ArrayLike<number>): Int32Array =>
  tokens.length === 0 ? new Int32Array(0) : Int32Array.from(tokens)

export const replayAllowed = 'a capture: {tokens, layers, k, ids: Int32Array, weights: Float32Array}'

const tierText = z.string().min(1).max(64)
export const tierSetSchema = z.union([tierText, z.array(tierText).min(1).max(256)])
export const tierSetAllowed = 'fast, balanced, deep, max, an alias, the name of a tier, or a list of names'
export const latencyBudgetSchema = z.number().positive().max(1e9)
export const latencyBudgetAllowed = 'a number of milliseconds above 0, up to 1e9'

export const textSchema = z.union([z.string(), z.instanceof(Uint8Array)])
export const textAllowed = 'a string, or a Uint8Array of UTF-8'

const requestSchema = z.strictObject({
  model: z.string().min(1).describe('the id of a loaded model'),
  prompt: textSchema.optional().describe(textAllowed),
  promptTokens: z.custom<number[]>(isTokenList).optional().describe('an array, Int32Array or Uint32Array of token ids'),
  messages: z
    .array(z.strictObject({ role: z.string().min(1), content: z.string() }))
    .min(1)
    .optional()
    .describe('a list of {role: string, content: string}, at least one'),
  maxTokens: z
    .number()
    .int()
    .min(1)
    .max(maxTokenId)
    .default(defaultMaxTokens)
    .describe(`an integer from 1 to ${maxTokenId}`),
  temperature: z.number().min(0).max(100).default(0.8).describe('a number from 0 (greedy) to 100'),
  topK: z.number().int().min(0).max(maxTokenId).default(40).describe(`an integer from 0 (off) to ${maxTokenId}`),
  topP: z.number().gt(0).max(1).default(0.95).describe('a number above 0, up to 1 (off)'),
  minP: z.number().min(0).max(1).default(0.05).describe('a number from 0 (off) to 1'),
  repetitionPenalty: z.number().gt(0).max(100).default(1).describe('a number above 0, up to 100; 1 is off'),
  repetitionWindow: z.number().int().min(0).max(65536).default(64).describe('an integer from 0 to 65536'),
  seed: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER).optional().describe('an integer from 0 to 2^53 - 1'),
  stop: z
    .union([stopText, z.array(stopText).max(16)])
    .optional()
    .describe(stopAllowed),
  responseFormat: responseFormatSchema.optional().describe(responseFormatAllowed),
  ignoreEos: z.boolean().default(false).describe('true or false'),
  logprobs: z.boolean().optional().describe('true or false'),
  topLogprobs: z.number().int().min(0).max(20).optional().describe('an integer from 0 to 20'),
  logits: z.boolean().default(false).describe('true or false'),
  captureRouting: z.boolean().default(false).describe('true or false'),
  replayRouting: z.custom<RoutingCapture>(isRoutingCapture).optional().describe(replayAllowed),
  tierSet: tierSetSchema.optional().describe(tierSetAllowed),
  latencyBudgetMs: latencyBudgetSchema.optional().describe(latencyBudgetAllowed),
  cacheSalt: z
    .string()
    .min(1)
    .max(256)
    // As UTF-8 all lone surrogates are the same.
    .refine((salt) => !/[\0\p{Surrogate}]/u.test(salt))
    .optional()
    .describe('a string of 1 to 256 characters'),
  parseSpecial: z.boolean().default(false).describe('true or false'),
  requestId: z.string().min(1).max(200).optional().describe('a string of 1 to 200 characters')
})

const callSchema = z.strictObject(callFields)

export type CheckedRequest = Omit<z.output<typeof requestSchema>, 'stop' | 'seed' | 'topLogprobs'> & {
  stop: string[]
  seed: number
  /** -1 = no log probability. */
  topLogprobs: number
}

/** How long and until when a call may run. */
export interface CallOptions {
  signal?: AbortSignal
  /** Milliseconds from the first call of next(). */
  timeoutMs?: number
}

/** The request under its own spellings. Throws VALIDATION_ERROR where both spellings are there. */
function withoutAliases(subject: string, request: unknown): unknown {
  if (typeof request !== 'object' || request === null || Array.isArray(request)) return request
  const result: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(request)) {
    const name = (Object.hasOwn(aliases, key) && aliases[key]) || key
    if (value === undefined) continue
    if (Object.hasOwn(result, name)) throw validationError(subject, key, value, `one spelling of ${name}, not two`)
    result[name] = value
  }
  return result
}

/** Checks a request and fills in defaults. Throws VALIDATION_ERROR. */
export function checkRequest(subject: string, request: unknown): CheckedRequest {
  let own: unknown = request
  try {
    own = withoutAliases(subject, request)
  } catch (error) {
    throw isEngineError(error) ? error : unreadable(subject, error)
  }
  const checked = validated(requestSchema, own, subject)
  const sources = (['prompt', 'promptTokens', 'messages'] as const).filter((key) => checked[key] !== undefined)
  if (sources.length !== 1) {
    const found = sources.length === 0 ? undefined : sources.join(' and ')
    throw validationError(subject, 'the prompt', found, 'exactly one of prompt, promptTokens and messages')
  }
  const { stop, seed, logprobs, topLogprobs, responseFormat } = checked
  return {
    ...checked,
    ...(responseFormat && { responseFormat: ownFormat(subject, responseFormat) }),
    stop: stop === undefined ? [] : typeof stop === 'string' ? [stop] : stop,
    // Greedy decoding uses no random numbers.
    seed: seed ?? (checked.temperature === 0 ? 0 : randomInt(2 ** 32)),
    topLogprobs: topLogprobs ?? (logprobs ? 0 : -1)
  }
}

/** Checks the second argument of a call. Throws VALIDATION_ERROR. */
export function checkCall(subject: string, options: unknown): CallOptions {
  const { signal, timeoutMs } = validated(callSchema, options ?? {}, subject)
  return { ...(signal && { signal }), ...(timeoutMs !== undefined && { timeoutMs }) }
}
