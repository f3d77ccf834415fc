/** One text on its way: its turn, its deadlines, and what ends it early. */
import type { EngineError } from '../errors/index.js'
import { createError, errorOf, isEngineError } from '../errors/index.js'
import type { Generator } from '../generation/generator.js'
import type { GenerationItem, Usage } from '../generation/items.js'
import { defaultMaxTokens } from '../generation/options.js'
import type { AdmissionAsk, Ticket } from '../resilience/index.js'
import { Deadline } from '../resilience/index.js'
import type { ServerContext } from './context.js'
import { loadingRefusal } from './health.js'
import type { Caller } from './keys.js'
import { allowedTierSet, checkModel, priorityOf } from './keys.js'
import type { TextRequest } from './openai-request.js'

/** Milliseconds to the first token, where nothing is said and the deadline around it is not less. Source: SEEDS 1.3. */
const longestFirstToken = 30_000

export class TextRun {
  readonly id: string
  readonly #context: ServerContext
  readonly #caller: Caller
  readonly #asked: TextRequest
  /** Aborts with why it is cut: nobody reads it any more, or the server ends. */
  readonly #cut = new AbortController()
  readonly #total: Deadline
  /** Aborts with why the engine has to stop. */
  readonly #ending = new AbortController()
  #generator: Generator
  readonly #begin: () => Generator
  readonly #done: () => void
  #ask: AdmissionAsk | undefined
  #ticket: Ticket | undefined
  #firstTokenLate = false
  #finished = false
  /** Tokens of its text until now, and what the engine says of all when it has ended. */
  #tokens = 0
  #usage: Usage | undefined
  #ended = false

  /** FORBIDDEN, and what Engine.createGenerator throws. */
  constructor(
    context: ServerContext,
    caller: Caller,
    asked: TextRequest,
    { id, method }: { id: string; method: string }
  ) {
    const { engine, settings, runs } = context
    const { generation, stream } = asked
    checkModel(caller, generation.model)
    const tierSet = allowedTierSet(caller, generation.tierSet, generation.latencyBudgetMs)
    this.id = id
    this.#context = context
    this.#caller = caller
    this.#asked = asked
    const { requestMs, streamMs } = settings.deadlines
    const total = Deadline.after(stream ? streamMs : requestMs, {
      method,
      code: 'INFERENCE_TIMEOUT',
      signal: this.#cut.signal
    })
    this.#total = total
    total.signal.addEventListener('abort', () => this.#ending.abort(total.error()), { once: true })
    this.#done = runs.begin((error) => this.cut(error))
    const request = { ...generation, requestId: id, ...(tierSet !== undefined && { tierSet }) }
    this.#begin = () => {
      try {
        return engine.createGenerator(request, { signal: this.#ending.signal })
      } catch (error) {
        throw loadingRefusal(error) ?? error
      }
    }
    try {
      // Before it waits: what is wrong with it is known then.
      this.#generator = this.#begin()
    } catch (error) {
      this.end()
      throw error
    }
  }

  cut(error: EngineError): void {
    this.#cut.abort(error)
  }

  /** Nobody reads it any more. */
  readonly abandon = (): void => {
    this.cut(createError('CANCELLED', 'the client has closed the connection', { requestId: this.id }))
  }

  /** Waits for its turn: what AdmissionControl.admit throws. Resolves with the milliseconds that it took. */
  async admit(): Promise<number> {
    const { admission, metrics, telemetry } = this.#context
    const ask = this.#estimate()
    const admitted = admission.admit(ask)
    this.#ask = ask
    const position = this.position()
    if (position > 0) {
      const fields = { requestId: this.id, client: ask.client, position }
      telemetry.event('request_queued', `request ${this.id} waits, ${position} in line`, fields)
    }
    this.#ticket = await admitted.catch((error: unknown) => {
      throw this.#explained(error)
    })
    metrics.queueTime.observe(this.#ticket.queuedMs / 1000)
    // Its model may be another one now.
    if (position > 0) this.#generator = this.#begin()
    return this.#ticket.queuedMs
  }

  /** Its place among those that wait; 0 where it does not. */
  position(): number {
    return this.#ask ? this.#context.admission.position(this.#ask) : 0
  }

  /** What Generator throws; INFERENCE_TIMEOUT {deadline: request, first_token}, and why it was cut, each with the text until then. */
  async *items(): AsyncGenerator<GenerationItem, undefined, undefined> {
    const { meter, settings } = this.#context
    const { requestMs, streamMs, firstTokenMs = longestFirstToken } = settings.deadlines
    const { promptTokens } = this.#ask!
    const idle = meter.run()
    const first = Deadline.after(Math.min(firstTokenMs, requestMs, streamMs), { parent: this.#total })
    first.signal.addEventListener('abort', () => this.#late(first), { once: true })
    try {
      for await (const item of this.#generator) {
        if (item.finishReason !== undefined) this.#usage = item.usage
        else {
          if (this.#tokens === 0) first[Symbol.dispose]()
          meter.computed(this.#tokens === 0 ? promptTokens + 1 : 1)
          this.#ticket!.used(promptTokens + ++this.#tokens)
        }
        yield item
      }
      this.#finished = true
      if (this.#usage) meter.read(this.#asked.promptBytes, this.#usage.promptTokens)
      return undefined
    } catch (error) {
      this.#finished = true
      if (isEngineError(error) && this.#computed) this.#usage = error.details.usage as Usage | undefined
      throw this.#explained(error)
    } finally {
      first[Symbol.dispose]()
      idle()
    }
  }

  /** Aborts when it ends before its time, with why. */
  get ending(): AbortSignal {
    return this.#ending.signal
  }

  /** Releases everything; a second time does nothing. */
  end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#total[Symbol.dispose]()
    this.#count()
    this.#ticket?.release()
    this.#done()
    if (!this.#finished) (this.#generator as Generator | undefined)?.return().catch(() => {})
  }

  /** What it will take at the most, as far as that is known before its prompt is read. */
  #estimate(): AdmissionAsk {
    const { engine, meter, inHostMemory } = this.#context
    const { generation, promptBytes, promptTokens: given, priority } = this.#asked
    const model = engine.listModels().find(({ id }) => id === generation.model)
    const promptTokens = given || meter.tokensOf(promptBytes)
    const room = Math.max(0, (model?.contextLength ?? Number.POSITIVE_INFINITY) - promptTokens)
    const maxTokens = Math.min(generation.maxTokens ?? defaultMaxTokens, room)
    // A device has memory of its own, which its backend watches; under a budget KV caches take theirs from the experts.
    const beside = inHostMemory && model?.memory.kept === 'all'
    const perToken = beside ? model.kvBytesPerToken : 0
    return {
      client: this.#caller.client,
      priority: priorityOf(this.#caller, priority),
      promptTokens,
      maxTokens,
      kvBytes: (promptTokens + maxTokens) * perToken,
      deadline: this.#total
    }
  }

  #late(first: Deadline): void {
    if (this.#ending.signal.aborted) return
    this.#firstTokenLate = true
    this.#ending.abort(first.error())
  }

  /** Whether work was done for its client: a prompt at which the engine failed is none, one for which the client did not wait is. */
  get #computed(): boolean {
    return this.#tokens > 0 || this.#cut.signal.aborted
  }

  /** What its client has used, however it ended. */
  #count(): void {
    if (!this.#ticket) return
    const { metrics, quotas } = this.#context
    const { client, key } = this.#caller
    const guess = this.#computed ? this.#ask!.promptTokens + this.#tokens : 0
    const tokens = this.#usage?.totalTokens ?? guess
    quotas.used(client, tokens)
    if (key) metrics.keyTokens.add(tokens, { key: key.id })
    this.#ticket.used(tokens)
  }

  /** The engine knows that it was told to stop, not why; the admission not of which request it is the deadline. */
  #explained(error: unknown): unknown {
    const { aborted, reason } = this.#ending.signal
    if (!aborted || !isEngineError(error) || !isEngineError(reason)) return error
    if (error !== reason && error.code !== 'CANCELLED') return error
    const { text, tokens, usage } = error.details
    const deadline = this.#firstTokenLate ? 'first_token' : 'request'
    const timed = reason.code === 'INFERENCE_TIMEOUT' && { deadline, requestId: this.id }
    return errorOf(reason.code, reason.message, { ...reason.details, ...timed, text, tokens, usage }, { cause: error })
  }
}
