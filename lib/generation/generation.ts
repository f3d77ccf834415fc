/** One sequence being generated: what it still has to compute, and what its consumer gets. */
import type { EngineError, ErrorDetails } from '../errors/index.js'
import { createError, EngineError as EngineErrorClass, isEngineError } from '../errors/index.js'
import type { EpochHold } from '../experts/versions.js'
import type { GuideState } from '../guidance/index.js'
import type { NativeSequence, PrefixScope, RoutingShape, SamplingParams, StepItem, StepItemResult } from '../native.js'
import type {
  FinalItem,
  FinishReason,
  GenerationItem,
  GenerationObserver,
  GenerationOutcome,
  TokenItem,
  Usage
} from './items.js'
import type { CheckedRequest } from './options.js'
import type { EarlierTokens, RequestLog } from './request-log.js'
import { RoutedToken } from './routed-token.js'
import { SequenceRoutes, sameKind, withReplay } from './routing.js'
import { StopStrings } from './stop-strings.js'

/** What a generation needs to know of its model and of the request. */
export interface GenerationSetup {
  request: CheckedRequest
  requestId: string
  prompt: Int32Array
  /** Positions that the sequence may hold. */
  contextLength: number
  vocab: number
  eosIds: ReadonlySet<number>
  decoder: { push(id: number): string; end(): string }
  /** Keeps the text to the request's form. */
  guide?: GuideState | undefined
  /** `prefix`: with whom it may share the KV cache of a common prefix. */
  createSequence(maxTokens: number, captureRouting: boolean, prefix?: PrefixScope): NativeSequence
  routing: RoutingShape
  /** The request's TierSet: its tiers' names, and its mask [layers][experts] (undefined = all experts). */
  tiers: readonly string[]
  enabled?: Uint8Array | undefined
  log?: RequestLog
  /** A generation that goes on from where an earlier one was. */
  earlier?: EarlierTokens | undefined
  /** Keeps the versions of experts that it uses: those that are current when it begins, or those of an epoch. */
  hold?: (epoch?: number) => EpochHold
  /** Called when the consumer asks for the first item. */
  observe?: () => GenerationObserver
}

interface Waiter {
  /** The consumer's iterator, which must not be collected while a call of it waits. */
  owner: object
  resolve(result: IteratorResult<GenerationItem, undefined>): void
  reject(error: unknown): void
}

export class Generation {
  /** Set while this one runs alone, after a step that it was part of failed as a whole. */
  isolated = false
  readonly requestId: string
  readonly #setup: GenerationSetup
  readonly #stops: StopStrings
  /** Generated tokens at most. */
  readonly #limit: number
  readonly #tokens: number[] = []
  readonly #waiters: Waiter[] = []
  readonly #ready: GenerationItem[] = []
  readonly #endListeners: (() => void)[] = []
  /** What is fed before anything is computed: the prompt, and the tokens of an earlier generation. */
  readonly #feed: Int32Array
  #sequence: NativeSequence | undefined
  /** With `captureRouting`; and the positions whose routes belong to a token already. */
  #routes: SequenceRoutes | undefined
  #routed = 0
  /** Tokens of #feed that were fed, or taken over from others. */
  #fed = 0
  #cached = 0
  /** Tokens that the consumer has. */
  #delivered = 0
  #text = ''
  #finished = false
  #error: unknown
  #observer: GenerationObserver | undefined
  #onFirstStep: (() => void) | undefined
  #steps = 0
  #hold: EpochHold | undefined

  constructor(setup: GenerationSetup) {
    this.#setup = setup
    this.requestId = setup.requestId
    this.#stops = new StopStrings(setup.request.stop)
    // The last token is never fed back, so it needs no position.
    this.#limit = Math.min(setup.request.maxTokens, setup.contextLength - setup.prompt.length + 1)
    this.#feed = setup.earlier ? followedBy(setup.prompt, setup.earlier.tokens) : setup.prompt
    if (setup.earlier) this.#repeat(setup.earlier)
  }

  get promptTokens(): number {
    return this.#setup.prompt.length
  }

  get finished(): boolean {
    return this.#finished
  }

  /** Whether a step is wanted: the consumer waits, or nothing is ready for its next call (one token ahead, once it has begun). */
  get wanting(): boolean {
    return !this.#finished && (this.#waiters.length > 0 || (this.#ready.length === 0 && this.#tokens.length > 0))
  }

  /** The consumer has asked for the first item. */
  begin(): void {
    this.#hold = this.#setup.hold?.(this.#setup.earlier?.epoch)
    this.#observer = this.#setup.observe?.()
  }

  /** Which versions of experts it uses, once it has begun. */
  get epoch(): number {
    return this.#hold?.epoch ?? 0
  }

  /** What was generated up to now, for the details of an error. */
  partial(): ErrorDetails & { text: string; tokens: number[]; usage: Usage } {
    const text = this.#text + this.#stops.end()
    const { request } = this.#setup
    return { requestId: this.requestId, model: request.model, text, tokens: [...this.#tokens], usage: this.#usage() }
  }

  /** The next item for the iterator `owner`; calls may overlap and are served in order. */
  next(owner: object): Promise<IteratorResult<GenerationItem, undefined>> {
    const item = this.#ready.shift()
    if (item) {
      this.#handOut(item)
      this.#settle()
      return Promise.resolve({ done: false, value: item })
    }
    if (this.#error !== undefined) {
      const error = this.#error
      this.#error = undefined
      this.#settle()
      return Promise.reject(error)
    }
    if (this.#finished) return Promise.resolve({ done: true, value: undefined })
    return new Promise((resolve, reject) => this.#waiters.push({ owner, resolve, reject }))
  }

  /** Called once, when nothing more will be computed for this generation. */
  onEnd(listener: () => void): void {
    if (this.#finished) listener()
    else this.#endListeners.push(listener)
  }

  /** Called when the first step begins. */
  onFirstStep(listener: () => void): void {
    this.#onFirstStep = listener
  }

  /** This sequence's part of a step of at most `budget` tokens. Throws what creating the sequence throws. */
  stepItem(budget: number): StepItem {
    const { prompt, request, vocab, enabled } = this.#setup
    this.#sequence ??= this.#createSequence()
    this.#onFirstStep?.()
    this.#onFirstStep = undefined
    this.#reuse(this.#sequence)
    const feed = this.#feed
    const decoding = this.#fed >= feed.length
    const position = decoding ? prompt.length + this.#tokens.length - 1 : this.#fed
    const count = sameKind(position, budget, request.replayRouting)
    const tokens = decoding ? Int32Array.of(this.#tokens.at(-1)!) : feed.subarray(this.#fed, this.#fed + count)
    const last = decoding || this.#fed + tokens.length === feed.length
    const item: StepItem = { sequence: this.#sequence, tokens, logits: last ? 'last' : 'none' }
    if (last) item.sampling = this.#sampling()
    if (last && request.logits) item.logitsOut = new Float32Array(vocab)
    if (enabled) item.enabled = enabled
    if (this.epoch > 0) item.epoch = this.epoch
    withReplay(item, position, request.replayRouting)
    return item
  }

  /** Takes over what a step gave for `item`. Throws what the tokenizer throws. */
  accept(item: StepItem, result: StepItemResult): void {
    this.#steps++
    if (this.#fed < this.#feed.length) this.#fed += item.tokens.length
    if (!item.sampling || this.#finished) return
    const { token } = result
    if (this.#setup.eosIds.has(token)) {
      this.#finish('stop')
      return
    }
    this.#observer?.token()
    const value = this.#tokenItem(token)
    if (result.logprob !== undefined) value.logprob = result.logprob
    if (result.top && item.sampling.topLogprobs > 0) {
      const { ids, logprobs } = result.top
      value.topLogprobs = Array.from(ids, (id, i) => ({ token: id, logprob: logprobs[i]! }))
    }
    if (item.logitsOut) value.logits = item.logitsOut
    this.#setup.log?.produced(this.#tokens.length, value)
    this.#take(value)
  }

  /** Ends with an error, which carries what was generated so far; the consumer's next call (or the waiting one) gets it. */
  fail(error: unknown): void {
    if (this.#finished) return
    this.#error = isEngineError(error) ? this.#withPartial(error) : error
    this.#setup.log?.failed(error)
    // What was computed ahead is in the error's details.
    this.#ready.length = 0
    this.#end({ error: this.#error })
    const waiter = this.#waiters.shift()
    if (waiter) {
      waiter.reject(this.#error)
      this.#error = undefined
    }
    this.#settle()
  }

  /** Ends without a last item: the consumer has lost interest. */
  abandon(): void {
    this.#ready.length = 0
    this.#error = undefined
    if (!this.#finished) {
      this.#setup.log?.abandoned()
      this.#end({})
    }
    this.#settle()
  }

  /** Frees the KV cache. Not while a step that it is part of runs. */
  release(): void {
    this.#routes?.keep()
    this.#routes = undefined
    this.#sequence?.dispose()
    this.#sequence = undefined
  }

  #createSequence(): NativeSequence {
    const { prompt, request, routing, createSequence, enabled } = this.#setup
    const { captureRouting, replayRouting, cacheSalt: salt = '' } = request
    const own = captureRouting || replayRouting !== undefined
    const prefix = { salt, epoch: this.epoch, ...(enabled && { enabled }) }
    const sequence = createSequence(prompt.length + this.#limit - 1, captureRouting, own ? undefined : prefix)
    if (captureRouting) this.#routes = new SequenceRoutes(sequence, routing)
    return sequence
  }

  /** What others have computed of the feed meanwhile. The last token is computed in any case: the next one comes of it. */
  #reuse(sequence: NativeSequence): void {
    const before = this.#fed
    if (before >= this.#feed.length - 1 || !sequence.reuse) return
    this.#fed = sequence.reuse(this.#feed.subarray(0, -1))
    this.#cached += this.#fed - before
  }

  /** A token that was just computed; what else is known of it comes later. */
  #tokenItem(token: number): TokenItem {
    if (!this.#routes) return { text: '', token }
    const from = this.#routed
    this.#routed = this.#setup.prompt.length + this.#tokens.length
    return new RoutedToken(token, this.#routes, from, this.#routed - from)
  }

  /** The tokens of an earlier generation, with the same items. */
  #repeat({ tokens, logprobs, top, finishReason }: EarlierTokens): void {
    for (const [i, token] of tokens.entries()) {
      const value: TokenItem = { text: '', token }
      if (logprobs[i] !== undefined) value.logprob = logprobs[i]
      if (top[i]) value.topLogprobs = top[i]
      this.#take(value)
    }
    // An end-of-text token is not among the tokens.
    if (finishReason && !this.#finished) this.#finish(finishReason)
  }

  /** The next token of the output; `value` gets its text. */
  #take(value: TokenItem): void {
    this.#tokens.push(value.token)
    const { text, stopped } = this.#stops.push(this.#setup.decoder.push(value.token))
    this.#text += text
    value.text = text
    if (this.#tokens.length > (this.#setup.earlier?.from ?? 0)) this.#deliver(value)
    const { guide } = this.#setup
    if (guide && !guide.accept(value.token)) throw this.#offGuide(guide)
    if (stopped) this.#finish('stop', true)
    else if (guide?.ended) this.#finish('stop')
    else if (this.#tokens.length >= this.#limit) this.#finish('length')
  }

  #usage(): Usage {
    const promptTokens = this.#setup.prompt.length
    const completionTokens = this.#tokens.length
    const cachedTokens = this.#setup.earlier?.cachedTokens ?? Math.min(this.#cached, promptTokens)
    return { promptTokens, cachedTokens, completionTokens, totalTokens: promptTokens + completionTokens }
  }

  #sampling(): SamplingParams {
    const { request, eosIds } = this.#setup
    const { temperature, topK, topP, minP, repetitionPenalty, seed, topLogprobs } = request
    const sampling: SamplingParams = { temperature, topK, topP, minP, repetitionPenalty, seed, topLogprobs }
    if (repetitionPenalty !== 1 && request.repetitionWindow > 0)
      sampling.recent = this.#recent(request.repetitionWindow)
    const { guide } = this.#setup
    if (guide) {
      const allowed = guide.mask()
      if (!allowed) throw this.#offGuide(guide)
      sampling.allowed = allowed
    }
    if (request.ignoreEos && eosIds.size > 0) sampling.banned = Int32Array.from(eosIds)
    return sampling
  }

  #offGuide(guide: GuideState): EngineError {
    const [position, state] = [this.#tokens.length, guide.describe()]
    const text = `no token goes on with the text of the response format at token ${position}: ${state}`
    return createError('GUIDANCE_FAILED', text, { position, state, ...this.partial() })
  }

  #recent(window: number): Int32Array {
    const generated = this.#tokens.slice(-window)
    const { prompt } = this.#setup
    const before = prompt.subarray(Math.max(0, prompt.length - (window - generated.length)))
    const recent = new Int32Array(before.length + generated.length)
    recent.set(before)
    recent.set(generated, before.length)
    return recent
  }

  #finish(reason: FinishReason, stopped = false): void {
    let text = ''
    let finishReason = reason
    if (!stopped) {
      const rest = this.#stops.push(this.#setup.decoder.end())
      text = rest.stopped ? rest.text : rest.text + this.#stops.end()
      if (rest.stopped) finishReason = 'stop'
    }
    this.#text += text
    const { request, tiers: tierSet } = this.#setup
    const { requestId } = this
    const item: FinalItem = { text, finishReason, usage: this.#usage(), seed: request.seed, tierSet, requestId }
    this.#setup.log?.finished(item)
    this.#deliver(item)
    this.#end({ finishReason })
    this.#settle()
  }

  #deliver(value: GenerationItem): void {
    const waiter = this.#waiters.shift()
    if (waiter) {
      this.#handOut(value)
      waiter.resolve({ done: false, value })
    } else this.#ready.push(value)
  }

  #handOut(item: GenerationItem): void {
    if (item.finishReason !== undefined) return
    this.#delivered++
    this.#setup.log?.delivered((this.#setup.earlier?.from ?? 0) + this.#delivered)
  }

  #end(outcome: Pick<GenerationOutcome, 'finishReason' | 'error'>): void {
    this.#finished = true
    this.#hold?.release()
    this.#observer?.ended({ ...outcome, usage: this.#usage(), steps: this.#steps })
    for (const listener of this.#endListeners.splice(0)) listener()
  }

  /** After the end: serves who still waits, and tells when nothing is left to take. */
  #settle(): void {
    if (!this.#finished) return
    for (const waiter of this.#waiters.splice(0)) waiter.resolve({ done: true, value: undefined })
    if (this.#ready.length > 0 || this.#error !== undefined) return
    this.#observer?.delivered()
    this.#observer = undefined
  }

  #withPartial(error: EngineError): EngineError {
    if ('tokens' in error.details && 'usage' in error.details) return error
    return new EngineErrorClass(error.code, error.message, { ...error.details, ...this.partial() }, { cause: error })
  }
}

function followedBy(prompt: Int32Array, tokens: readonly number[]): Int32Array {
  const all = new Int32Array(prompt.length + tokens.length)
  all.set(prompt)
  all.set(tokens, prompt.length)
  return all
}
