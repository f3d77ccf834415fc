/** What a generation gives its consumer, and what it tells of itself. */
import type { RoutingCapture } from './routing.js'

export interface Usage {
  promptTokens: number
  /** Of these, the ones whose KV cache was there from an earlier request. */
  cachedTokens: number
  completionTokens: number
  totalTokens: number
}

/** stop: an end-of-text token or a stop string. length: maxTokens or the context's end. */
export type FinishReason = 'stop' | 'length'

/** One generated token. `text` may be empty (an unfinished character, or what may become a stop string) or hold several tokens' text. */
export interface TokenItem {
  text: string
  token: number
  /** Natural log of its probability, of the whole vocabulary at temperature 1; with `logprobs` only. */
  logprob?: number
  /** The most likely tokens, most likely first; with `topLogprobs` only. */
  topLogprobs?: { token: number; logprob: number }[]
  /** With `logits` only: the vocabulary's size. */
  logits?: Float32Array
  /**
   * With `captureRouting` only: the experts of the positions computed for this token (the first token's: of the whole prompt). Copied when
   * it is first looked at.
   */
  readonly routing?: RoutingCapture
  finishReason?: undefined
  usage?: undefined
}

/** The last item. `text` is what had been held back, often empty. */
export interface FinalItem {
  text: string
  finishReason: FinishReason
  usage: Usage
  /** Give it with the same request to get the same text. */
  seed: number
  /** The tiers that the request could use. */
  tierSet: readonly string[]
  requestId: string
  token?: undefined
  logprob?: undefined
  topLogprobs?: undefined
  logits?: undefined
  routing?: undefined
}

export type GenerationItem = TokenItem | FinalItem

/** How a generation ended; one that its consumer left has neither finishReason nor error. */
export interface GenerationOutcome {
  finishReason?: FinishReason
  error?: unknown
  usage: Usage
  /** Steps that it was part of. */
  steps: number
}

/** Sees a generation from its consumer's first call to its end. Must not throw. */
export interface GenerationObserver {
  token(): void
  ended(outcome: GenerationOutcome): void
  /** The consumer has taken the last item or the error, or has left: nothing is owed to it. */
  delivered(): void
}
