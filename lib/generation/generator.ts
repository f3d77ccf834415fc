import type { GenerationItem } from './items.js'

/**
 * An async iterator of TokenItems that ends with one FinalItem. Throws CANCELLED, INFERENCE_TIMEOUT, RUNTIME_NAN_DETECTED,
 * GUIDANCE_FAILED, RESOURCE_MEMORY_EXHAUSTED, MODEL_NOT_LOADED (unloaded meanwhile), ENGINE_DISPOSED, each with details {text, tokens, usage}.
 */
export interface Generator extends AsyncIterableIterator<GenerationItem, undefined, undefined>, AsyncDisposable {
  readonly requestId: string

  /**
   * With a journal: resolves when the request is durable there, which is when it may be acknowledged to whoever sent it; next() waits
   * for that too. Rejects with JOURNAL_WRITE_FAILED, REQUEST_ALREADY_EXISTS, and what else ends a generation before it begins.
   */
  accepted(): Promise<void>

  /** Ends the generation and frees its sequence; resolves when that is done. A waiting next() gets `done`. */
  return(): Promise<IteratorResult<GenerationItem, undefined>>

  throw(error?: unknown): Promise<IteratorResult<GenerationItem, undefined>>
}

/** What every generator does alike: it is its own iterator, and whatever leaves it is a return(). */
export abstract class BaseGenerator implements Generator {
  abstract readonly requestId: string
  abstract next(): Promise<IteratorResult<GenerationItem, undefined>>
  abstract accepted(): Promise<void>
  abstract return(): Promise<IteratorResult<GenerationItem, undefined>>

  async throw(error?: unknown): Promise<IteratorResult<GenerationItem, undefined>> {
    await this.return()
    throw error
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }
}
