/** How well a model predicts a text: e to the mean of -ln p(token), over windows that each begin anew. */
import type { z } from 'zod'
import type { CallOptions } from '../generation/options.js'
import { copyTokens } from '../generation/options.js'
import type { LoadedModel } from '../loaded-model.js'
import type { NativeBackend } from '../native.js'
import type { TierSetName } from '../tiers/tier-sets.js'
import { validationError } from '../validation.js'
import type { perplexitySchema } from './calls.js'
import type { EngineParts } from './parts.js'

export interface Perplexity {
  perplexity: number
  /** Mean of -ln p, in nats per token. */
  meanLoss: number
  /** Tokens that were predicted: all but the first of each window. */
  tokens: number
}

export interface PerplexityRequest {
  model: string
  /** Exactly one of text and tokens, at least two tokens. */
  text?: string
  tokens?: readonly number[] | Int32Array | Uint32Array
  /** Tokens that one window holds, at most the context. Default 256. */
  window?: number
  /** Default: the model's active one. */
  tierSet?: TierSetName
}

/** Throws MODEL_NOT_LOADED, what LoadedModel.forward does; VALIDATION_ERROR for less than two tokens, and for not exactly one of text and tokens. */
export async function perplexity(
  { models, requests, backend }: Pick<EngineParts, 'models' | 'requests' | 'backend'>,
  { model, text, tokens, ...rest }: z.output<typeof perplexitySchema>,
  call: CallOptions
): Promise<Perplexity> {
  if ((text === undefined) === (tokens === undefined))
    throw validationError('perplexity', 'text', text, 'exactly one of text and tokens')
  const loaded = models.get(model)
  const own = copyTokens(tokens ?? loaded.tokenizer.encode(text!))
  return requests.track('perplexity', model, own.length, () => measure(loaded, backend, own, rest, call))
}

async function measure(
  model: LoadedModel,
  backend: NativeBackend,
  tokens: Int32Array,
  { window, tierSet }: { window: number; tierSet?: TierSetName | undefined },
  call: CallOptions
): Promise<Perplexity> {
  if (tokens.length < 2) throw validationError('perplexity', 'tokens', tokens, 'at least two tokens')
  const { contextLength, descriptor } = model.info()
  const { vocab } = descriptor
  const size = Math.min(window, contextLength)
  if (size < 2) throw validationError('perplexity', 'window', size, 'at least two tokens, and a context of as many')
  let [loss, predicted] = [0, 0]
  for (let at = 0; at + 1 < tokens.length; at += size) {
    const own = tokens.subarray(at, at + size)
    if (own.length < 2) break
    const forward = { logits: 'all', captureRouting: false, tierSet } as const
    const { logits } = await model.forward(own, forward, call)
    const losses = new Float32Array(own.length - 1)
    await backend.callAsync('logLoss', [logits.subarray(0, losses.length * vocab), own.subarray(1), losses], false)
    for (const value of losses) loss += value
    predicted += losses.length
  }
  const meanLoss = loss / predicted
  return { perplexity: Math.exp(meanLoss), meanLoss, tokens: predicted }
}
