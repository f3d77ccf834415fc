/** The options of the engine's own methods, checked at the border. */
import { z } from 'zod'
import { isTokenList, replayAllowed } from '../generation/options.js'
import type { RoutingCapture } from '../generation/routing.js'
import { isRoutingCapture } from '../generation/routing.js'
import type { Transition } from '../lifecycle.js'
import type { Isa, KvType, LoadProgress } from '../native.js'
import { callback, callFields } from '../validation.js'

export type BackendName = 'cpu' | 'webgpu' | 'cuda'

export interface EngineOptions {
  /** What runs the model. Default cpu, the only one of this version. */
  backend?: BackendName
  /** Worker threads. Default: as many as this process may use at once. */
  threads?: number
  /** Instruction set; it changes speed, never a bit of the result. Default auto: the fastest that this CPU has. */
  isa?: Isa | 'auto'
  /** Tokens that one forward call takes at most, of all sequences together. Default 512. */
  maxBatchTokens?: number
  /** Context of models that are loaded without a contextLength, at most. Default: as long as the model supports. */
  maxContextTokens?: number
  /** Called after each change of the engine's state. */
  onTransition?: (transition: Transition) => void
}

export interface LoadModelRequest {
  /** Path of a GGUF file, or the name of an embedded model. Default: the embedded `tiny-shakespeare`. */
  model?: string
  /** Name for this model in later calls. Default: the file's name without its extension. */
  id?: string
  /** Type of the KV cache. Default f16. */
  kvType?: KvType
  /** Positions that one sequence may hold. Default: what the model supports. */
  contextLength?: number
}

export interface LoadModelOptions {
  signal?: AbortSignal
  timeoutMs?: number
  /** Called for each tensor; an error that it throws ends the load. */
  onProgress?: (progress: LoadProgress) => void
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
}

const largest = 2 ** 31 - 1
const idSchema = z.string().min(1).max(200)
const modelId = idSchema.describe('the id of a loaded model')

export const engineSchema = z.strictObject({
  backend: z.enum(['cpu', 'webgpu', 'cuda']).default('cpu').describe('cpu, webgpu or cuda'),
  threads: z.number().int().min(1).max(1024).optional().describe('an integer from 1 to 1024'),
  isa: z
    .enum(['auto', 'scalar', 'avx2', 'avx512', 'neon'])
    .default('auto')
    .describe('auto, scalar, avx2, avx512 or neon'),
  maxBatchTokens: z.number().int().min(1).max(65536).default(512).describe('an integer from 1 to 65536'),
  maxContextTokens: z.number().int().min(1).max(largest).optional().describe('an integer from 1 on'),
  onTransition: callback<(transition: Transition) => void>().describe('a function')
})

export const loadSchema = z.strictObject({
  model: z
    .string()
    .min(1)
    .refine((path) => !path.includes('\0'))
    .optional()
    .describe('the path of a GGUF file, or the name of an embedded model'),
  id: idSchema.optional().describe('a string of 1 to 200 characters'),
  kvType: z.enum(['f16', 'f32']).default('f16').describe('f16 or f32'),
  contextLength: z.number().int().min(1).max(largest).optional().describe('an integer from 1 on')
})

export const loadCallSchema = z.strictObject({
  ...callFields,
  onProgress: callback<(progress: LoadProgress) => void>().describe('a function')
})

export const modelSchema = z.strictObject({ model: modelId })

export const tokenizeSchema = z.strictObject({
  model: modelId,
  text: z.string().describe('a string'),
  addSpecial: z.boolean().default(true).describe('true or false'),
  parseSpecial: z.boolean().default(false).describe('true or false')
})

const tokenList = z.custom<number[] | Int32Array | Uint32Array>(isTokenList)
const tokensAllowed = 'an array, Int32Array or Uint32Array of token ids'

export const detokenizeSchema = z.strictObject({
  model: modelId,
  tokens: tokenList.describe(tokensAllowed),
  special: z.boolean().default(false).describe('true or false')
})

export const forwardSchema = z.strictObject({
  model: modelId,
  tokens: tokenList.describe(tokensAllowed),
  logits: z.enum(['last', 'all']).default('last').describe('last or all'),
  captureRouting: z.boolean().default(false).describe('true or false'),
  replayRouting: z.custom<RoutingCapture>(isRoutingCapture).optional().describe(replayAllowed)
})

/** The engine's options with their defaults. */
export type CheckedOptions = z.output<typeof engineSchema>
/** What to load, with its defaults. */
export type CheckedLoad = z.output<typeof loadSchema>
