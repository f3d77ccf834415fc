/** What the methods of an engine are called with, checked at the border. */
import { z } from 'zod'
import { changeSchema } from '../experts/changes.js'
import {
  isTokenList,
  latencyBudgetAllowed,
  latencyBudgetSchema,
  replayAllowed,
  textAllowed,
  textSchema,
  tierSetAllowed,
  tierSetSchema
} from '../generation/options.js'
import type { RoutingCapture } from '../generation/routing.js'
import { isRoutingCapture } from '../generation/routing.js'
import type { FreezeOptions } from './maintenance.js'
import { drainAllowed, drainMs, idSchema, largest } from './options.js'

export interface DisposeOptions {
  /** Milliseconds that requests which have begun may go on for. Default: the engine's drainMs. */
  drainMs?: number
}

export interface TokenizeRequest {
  model: string
  /** Text, or its UTF-8; bytes that are none are taken as llama.cpp takes them. */
  text: string | Uint8Array
  /** Add the tokens that the model wants at the beginning. Default true. */
  addSpecial?: boolean
  /** Recognise special tokens written in the text. Default false. */
  parseSpecial?: boolean
}

export interface DetokenizeRequest {
  model: string
  tokens: readonly number[] | Int32Array | Uint32Array
  /** Show control tokens. Default false. */
  special?: boolean
}

export interface TokenBytesRequest {
  model: string
  tokens: readonly number[] | Int32Array | Uint32Array
}

export interface ForwardRequest {
  model: string
  tokens: readonly number[] | Int32Array | Uint32Array
  /** Which positions' logits to give. Default last. */
  logits?: 'last' | 'all'
  /** Give the experts that each token was routed to as well. */
  captureRouting?: boolean
  /** Use these routes from position 0 on instead of the router's. */
  replayRouting?: RoutingCapture
  /** Default: the model's active one. */
  tierSet?: string | readonly string[]
}

const modelId = idSchema.describe('the id of a loaded model')

export const disposeSchema = z.strictObject({ drainMs: drainMs.optional().describe(drainAllowed) })

export const freezeSchema = z.strictObject({
  reason: z.string().min(1).max(200).optional().describe('a string of 1 to 200 characters'),
  drainMs: drainMs.optional().describe(drainAllowed),
  retryAfterSeconds: z.number().min(0).max(largest).optional().describe(`a number of seconds from 0 to ${largest}`)
}) satisfies z.ZodType<FreezeOptions>

const expertIndex = z.number().int().min(0).max(4095)
export const pinSchema = z.strictObject({
  model: modelId,
  experts: z
    .array(z.strictObject({ layer: expertIndex, expert: expertIndex }))
    .max(1_000_000)
    .describe('a list of {layer, expert}, integers from 0 on'),
  pinned: z.boolean().describe('true or false')
})

export const swapSchema = z.strictObject({
  model: modelId,
  changes: z.array(changeSchema).min(1).max(65536).describe('a list of changes, at least one')
})

export const activateSchema = z.strictObject({
  model: modelId,
  tierSet: z
    .union([tierSetSchema, z.strictObject({ latencyBudgetMs: latencyBudgetSchema })])
    .describe(`${tierSetAllowed}, or {latencyBudgetMs: ${latencyBudgetAllowed}}`)
})

const tokenList = z.custom<number[] | Int32Array | Uint32Array>(isTokenList)
const tokensAllowed = 'an array, Int32Array or Uint32Array of token ids'

export const perplexitySchema = z.strictObject({
  model: modelId,
  text: z.string().min(1).optional().describe('a string'),
  tokens: tokenList.optional().describe(tokensAllowed),
  window: z.number().int().min(2).max(largest).default(256).describe(`an integer from 2 to ${largest}`),
  tierSet: tierSetSchema.optional().describe(tierSetAllowed)
})

export const modelSchema = z.strictObject({ model: modelId })

export const tokenizeSchema = z.strictObject({
  model: modelId,
  text: textSchema.describe(textAllowed),
  addSpecial: z.boolean().default(true).describe('true or false'),
  parseSpecial: z.boolean().default(false).describe('true or false')
})

export const detokenizeSchema = z.strictObject({
  model: modelId,
  tokens: tokenList.describe(tokensAllowed),
  special: z.boolean().default(false).describe('true or false')
})

export const tokenBytesSchema = z.strictObject({ model: modelId, tokens: tokenList.describe(tokensAllowed) })

export const forwardSchema = z.strictObject({
  model: modelId,
  tokens: tokenList.describe(tokensAllowed),
  logits: z.enum(['last', 'all']).default('last').describe('last or all'),
  captureRouting: z.boolean().default(false).describe('true or false'),
  replayRouting: z.custom<RoutingCapture>(isRoutingCapture).optional().describe(replayAllowed),
  tierSet: tierSetSchema.optional().describe(tierSetAllowed)
})
