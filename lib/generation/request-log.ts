/** What a generation tells of its way, so that another one can go on from there. */
import type { EngineError } from '../errors/index.js'
import type { FinalItem, FinishReason, TokenItem } from './items.js'

/** Keeps a request from its consumer's first call to its end. No method but `begin` throws or waits. */
export interface RequestLog {
  /**
   * The consumer has asked for the first item. A promise holds items back until it resolves: the request is accepted then; what it
   * rejects with ends the generation. `epoch`: which versions of experts it uses. `end` ends the generation with an error from outside. Throws REQUEST_ALREADY_EXISTS.
   */
  begin(end: (error: EngineError) => Promise<void>, epoch: number): Promise<void> | undefined
  /** The token at a position of the output was computed. */
  produced(position: number, item: TokenItem): void
  /** The consumer has this many tokens. */
  delivered(count: number): void
  finished(item: FinalItem): void
  failed(error: unknown): void
  /** The consumer left before the end. */
  abandoned(): void
}

/** What an earlier generation of the same request produced. */
export interface EarlierTokens {
  tokens: readonly number[]
  /** Of each token, where the request asks for them. */
  logprobs: readonly number[]
  top: readonly { token: number; logprob: number }[][]
  /** Where it had ended, why. */
  finishReason: FinishReason | undefined
  /** Items of earlier positions are not given out again. */
  from: number
  /** Which versions of experts it began with. */
  epoch: number
  /** Where it had ended, the `cachedTokens` of its usage. */
  cachedTokens?: number | undefined
}
