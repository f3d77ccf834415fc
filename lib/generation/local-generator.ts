/** The iterator that a consumer holds: starts its generation at the first call of next(), and ends it by abort, timeout or return(). */
import { performance } from 'node:perf_hooks'
import { createError, createTimeoutError } from '../errors/index.js'
import type { Deadlines } from './deadlines.js'
import { ended, requestTime } from './deadlines.js'
import type { Generation } from './generation.js'
import { BaseGenerator } from './generator.js'
import type { GenerationItem } from './items.js'
import type { CallOptions } from './options.js'
import type { RequestLog } from './request-log.js'
import type { Scheduler } from './scheduler.js'

/** A generator that its consumer dropped without return() gives its sequence back when it is collected. */
const abandoned = new FinalizationRegistry<{ scheduler: Scheduler; generation: Generation }>(
  ({ scheduler, generation }) => {
    generation.abandon()
    void scheduler.remove(generation, false)
  }
)

/** Ends `generation` when the signal aborts or the time is up. Must not know the Generator, which has to stay collectable. */
function watch(
  scheduler: Scheduler,
  generation: Generation,
  method: string,
  call: CallOptions,
  deadlines: Deadlines
): void {
  const { signal } = call
  let ending = false
  const end = async (makeError: () => unknown): Promise<void> => {
    if (ending) return
    ending = true
    await ended(scheduler.remove(generation, true), deadlines)
    generation.fail(makeError())
  }
  if (signal) {
    const onAbort = (): void => {
      void end(() => cancelled(generation, signal))
    }
    signal.addEventListener('abort', onAbort, { once: true })
    generation.onEnd(() => signal.removeEventListener('abort', onAbort))
  }
  const limit = (deadline: 'request' | 'inference', timeout: number | undefined): void => {
    if (timeout === undefined) return
    const began = performance.now()
    const onTimeout = (): void => {
      const duration = performance.now() - began
      void end(() => {
        const partial = generation.partial()
        const text = `no end after ${Math.round(duration)} ms, of ${timeout} ms allowed; ${partial.tokens.length} tokens generated`
        const details = { ...partial, method, timeout, requestId: generation.requestId, duration, deadline }
        return createTimeoutError('INFERENCE_TIMEOUT', `${method}: ${text}`, details)
      })
    }
    // Native work in progress keeps the process alive; a deadline alone must not.
    const timer = setTimeout(onTimeout, timeout).unref()
    generation.onEnd(() => clearTimeout(timer))
  }
  limit('request', requestTime(call, deadlines))
  generation.onFirstStep(() => limit('inference', deadlines.inferenceMs))
}

function cancelled(generation: Generation, signal: AbortSignal): unknown {
  const partial = generation.partial()
  return createError('CANCELLED', `the caller aborted after ${partial.tokens.length} tokens`, partial, {
    cause: signal.reason
  })
}

export interface GeneratorSetup {
  deadlines: Deadlines
  /** Called when the consumer asks for the first item; what it throws ends the generation. */
  admit?: () => void
  log?: RequestLog | undefined
}

export class LocalGenerator extends BaseGenerator {
  readonly requestId: string
  readonly #scheduler: Scheduler
  readonly #generation: Generation
  readonly #method: string
  readonly #call: CallOptions
  readonly #deadlines: Deadlines
  readonly #admit: (() => void) | undefined
  readonly #log: RequestLog | undefined
  #started = false
  /** While the request is not accepted yet, its items are held back. */
  #acceptance: Promise<void> | undefined
  #refused = false

  constructor(
    scheduler: Scheduler,
    generation: Generation,
    method: string,
    call: CallOptions,
    { deadlines, admit, log }: GeneratorSetup
  ) {
    super()
    this.requestId = generation.requestId
    this.#log = log
    this.#admit = admit
    this.#scheduler = scheduler
    this.#generation = generation
    this.#method = method
    this.#call = call
    this.#deadlines = deadlines
  }

  /** Tokens of the prompt. */
  get promptTokens(): number {
    return this.#generation.promptTokens
  }

  next(): Promise<IteratorResult<GenerationItem, undefined>> {
    if (!this.#started) this.#start()
    const result = this.#generation.next(this)
    this.#scheduler.wake()
    if (!this.#acceptance || this.#refused) return result
    // It may fail before it is accepted.
    result.catch(() => {})
    return this.#acceptance.then(() => result)
  }

  async accepted(): Promise<void> {
    if (!this.#started) this.#start()
    await this.#acceptance
  }

  async return(): Promise<IteratorResult<GenerationItem, undefined>> {
    this.#started = true
    abandoned.unregister(this)
    this.#generation.abandon()
    await this.#scheduler.remove(this.#generation, false)
    return { done: true, value: undefined }
  }

  #start(): void {
    this.#started = true
    const { signal } = this.#call
    const scheduler = this.#scheduler
    const generation = this.#generation
    // One that goes on from an earlier end has nothing to compute.
    if (generation.finished) return
    try {
      this.#admit?.()
    } catch (error) {
      this.#refuse(error)
      return
    }
    generation.begin()
    if (signal?.aborted) {
      this.#refuse(cancelled(generation, signal))
      return
    }
    const end = async (error: unknown): Promise<void> => {
      await scheduler.remove(generation, true)
      generation.fail(error)
    }
    try {
      this.#acceptance = this.#log?.begin(end, generation.epoch)?.then(
        () => {
          this.#acceptance = undefined
        },
        async (error: unknown) => {
          await end(error)
          throw error
        }
      )
    } catch (error) {
      this.#refuse(error)
      return
    }
    this.#acceptance?.catch(() => {})
    scheduler.add(generation)
    abandoned.register(this, { scheduler, generation }, this)
    watch(scheduler, generation, this.#method, this.#call, this.#deadlines)
  }

  #refuse(error: unknown): void {
    this.#generation.fail(error)
    this.#refused = true
    this.#acceptance = Promise.reject(error)
    this.#acceptance.catch(() => {})
  }
}
