/** A generation in another process: what has come of it, and who waits for more. It outlives the process. */
import type { EngineError, ErrorDetails } from '../errors/index.js'
import { errorOf, isEngineError } from '../errors/index.js'
import type { FinalItem, GenerationItem, TokenItem } from '../generation/items.js'
import { protocolError } from './frames.js'
import type { KeepAlive } from './keep-alive.js'
import type { OpenParams } from './protocol.js'
import { window } from './protocol.js'
import { asToldOf } from './values.js'

type Result = IteratorResult<GenerationItem, undefined>

interface Waiter {
  /** The consumer's iterator, which must not be collected while a call of it waits. */
  owner: object
  resolve(result: Result): void
  reject(error: unknown): void
}

/** The worker that a stream is on. */
export interface StreamLink {
  credit(stream: RemoteStream, items: number): void
  /** Resolves when nothing of it is computed any more, or the process that did is gone. */
  cancel(stream: RemoteStream): Promise<void>
  accepted(stream: RemoteStream): Promise<void>
}

export interface StreamSetup {
  id: number
  requestId: string
  model: string
  method: string
  kind: 'create' | 'resume'
  /** Of create: in the form that createGenerator takes. */
  request: Record<string, unknown>
  /** Of resume: the position that it begins at. */
  from: number
  /** Tokens of the prompt, where they are known before it is open. */
  promptTokens: number
  keepAlive: KeepAlive
  /** Hears of the error that it ends with. */
  told(error: unknown): void
}

export class RemoteStream {
  readonly setup: StreamSetup
  link: StreamLink | undefined
  #promptTokens: number
  #text = ''
  readonly #tokens: number[] = []
  readonly #ready: GenerationItem[] = []
  readonly #waiters: Waiter[] = []
  readonly #endListeners: (() => void)[] = []
  /** Items taken since the worker was told. */
  #taken = 0
  #ended = false
  /** The consumer has asked for the first item. */
  #begun = false
  /** What the consumer is still to be told. */
  #error: unknown
  #failure: unknown
  #opened: PromiseWithResolvers

  constructor(setup: StreamSetup) {
    this.setup = setup
    this.#promptTokens = setup.promptTokens
    this.#opened = withResolvers()
  }

  get ended(): boolean {
    return this.#ended
  }

  /** The error that it ended with, whether its consumer has had it or not. */
  get failure(): unknown {
    return this.#failure
  }

  /** Whether nothing has come yet. */
  get untouched(): boolean {
    return this.#tokens.length === 0
  }

  /** What opens it, or opens it again where it was when its worker died. */
  openParams(kind: 'create' | 'resume'): OpenParams {
    const { id, method, request, requestId } = this.setup
    this.#taken = 0
    return {
      stream: id,
      kind,
      method,
      request,
      requestId,
      from: this.#position,
      credit: this.#begun ? window - this.#ready.length : 0
    }
  }

  /** The consumer asks for the first item: its worker, where there is one, may send. */
  begin(): void {
    this.#begun = true
    this.link?.credit(this, window)
  }

  /** The worker has it. */
  opened(promptTokens: number): void {
    this.#promptTokens = promptTokens
    this.#opened.resolve()
  }

  /** Resolves when the request is where its worker's journal keeps it, or rejects with what ended it before. */
  async accepted(): Promise<void> {
    await this.setup.keepAlive.during(async () => {
      await this.#opened.promise
      if (!this.#ended) await this.link?.accepted(this)
    })
  }

  /** For the details of an error. */
  partial(): ErrorDetails {
    const { requestId, model, from } = this.setup
    const [promptTokens, completionTokens] = [this.#promptTokens, from + this.#tokens.length]
    // Only the process that is gone knew what it had found.
    const usage = { promptTokens, cachedTokens: 0, completionTokens, totalTokens: promptTokens + completionTokens }
    return { requestId, model, text: this.#text, tokens: [...this.#tokens], usage }
  }

  next(owner: object): Promise<Result> {
    const item = this.#ready.shift()
    if (item) {
      this.#take()
      return Promise.resolve({ done: false, value: item })
    }
    if (this.#error !== undefined) {
      const error = this.#error
      this.#error = undefined
      return Promise.reject(error)
    }
    if (this.#ended) return Promise.resolve({ done: true, value: undefined })
    this.setup.keepAlive.enter()
    return new Promise((resolve, reject) => this.#waiters.push({ owner, resolve, reject }))
  }

  /** Called once, when nothing more comes. */
  onEnd(listener: () => void): void {
    if (this.#ended) listener()
    else this.#endListeners.push(listener)
  }

  /** Items from a position on: one that is there already is the same again. Throws WORKER_PROTOCOL_ERROR where some are missing. */
  receive(from: number, items: readonly TokenItem[]): void {
    for (const [i, item] of items.entries()) {
      if (this.#ended || from + i < this.#position) continue
      if (from + i > this.#position) throw protocolError('items of a stream are missing', 2, null)
      this.#text += item.text
      this.#tokens.push(item.token)
      this.#handOut(item)
    }
  }

  finish(item: FinalItem): void {
    if (this.#ended) return
    this.#handOut(item)
    this.#end()
  }

  /** Ends it with an error, which gets what came up to now where it does not say so itself. */
  fail(error: unknown): void {
    if (this.#ended) return
    this.#error = isEngineError(error) ? withPartial(error, this.partial()) : error
    this.#failure = this.#error
    this.setup.told(this.#error)
    this.#opened.reject(this.#error)
    this.#end()
  }

  /** The consumer has left: it gets nothing more. */
  async abandon(): Promise<void> {
    this.#dropReady()
    await this.cancel()
    this.#dropReady()
  }

  /** The consumer has left, or what runs is to end with an error. */
  async cancel(makeError?: () => unknown): Promise<void> {
    if (this.#ended) return
    await this.setup.keepAlive.during(async () => this.link?.cancel(this))
    if (this.#ended) return
    if (makeError) this.fail(makeError())
    else this.#end()
  }

  #dropReady(): void {
    this.#ready.length = 0
    this.#error = undefined
  }

  get #position(): number {
    return this.setup.from + this.#tokens.length
  }

  #take(): void {
    if (++this.#taken < window / 2 || this.#ended) return
    this.link?.credit(this, this.#taken)
    this.#taken = 0
  }

  #handOut(item: GenerationItem): void {
    const waiter = this.#waiters.shift()
    if (!waiter) {
      this.#ready.push(item)
      return
    }
    this.setup.keepAlive.leave()
    this.#take()
    waiter.resolve({ done: false, value: item })
  }

  #end(): void {
    this.#ended = true
    this.#opened.resolve()
    for (const listener of this.#endListeners) listener()
    for (const waiter of this.#waiters.splice(0)) {
      this.setup.keepAlive.leave()
      const error = this.#error
      this.#error = undefined
      if (error === undefined) waiter.resolve({ done: true, value: undefined })
      else waiter.reject(error)
    }
  }
}

function withPartial(error: EngineError, partial: ErrorDetails): EngineError {
  if ('text' in error.details) return error
  const { code, message, details, cause, timestamp } = error
  const options = { timestamp, ...(cause !== undefined && { cause }) }
  return asToldOf(errorOf(code, message, { ...details, ...partial }, options), error)
}

interface PromiseWithResolvers {
  promise: Promise<void>
  resolve(): void
  reject(error: unknown): void
}

function withResolvers(): PromiseWithResolvers {
  let [resolve, reject]: [() => void, (error: unknown) => void] = [() => {}, () => {}]
  const promise = new Promise<void>((settle, refuse) => {
    resolve = settle
    reject = refuse
  })
  // Only whoever asks for it wants to know.
  promise.catch(() => {})
  return { promise, resolve, reject }
}
