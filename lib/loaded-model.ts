/** One loaded model: its weights, its tokenizer and its scheduler. */
import { randomUUID } from 'node:crypto'
import type { ExpertArchive } from './archive/expert-archive.js'
import type { EngineError } from './errors/index.js'
import type { ExpertMemory } from './expert-budget.js'
import type { ExpertSwaps } from './experts/swaps.js'
import type { Deadlines } from './generation/deadlines.js'
import type { ForwardOptions, ForwardResult } from './generation/forward.js'
import { Forwards } from './generation/forward.js'
import { Generation } from './generation/generation.js'
import type { GenerationObserver } from './generation/items.js'
import { LocalGenerator } from './generation/local-generator.js'
import type { CallOptions, CheckedRequest } from './generation/options.js'
import { promptTokens } from './generation/prompt.js'
import type { EarlierTokens, RequestLog } from './generation/request-log.js'
import { checkReplay } from './generation/routing.js'
import { Scheduler, type StuckOptions } from './generation/scheduler.js'
import { compileGuide } from './guidance/index.js'
import type { ModelDescriptor } from './model/index.js'
import type { Tokenizer } from './model/tokenizer.js'
import type { ExpertStats, ExpertUse, KvType, NativeAddon, NativeModel, PrefixStats } from './native.js'
import type { EventName } from './telemetry/event-catalog.js'
import { Pacing } from './tiers/pacing.js'
import { type PlacementView, viewPlacement } from './tiers/placement-view.js'
import type { Choice, LatencyBudget, SelectionInfo, TierSelection } from './tiers/selection.js'
import type { StarvationOptions } from './tiers/starvation.js'
import { StarvationWatch } from './tiers/starvation.js'
import { nothingSteered, type Steered, type Steering } from './tiers/steering.js'
import type { TierFiles } from './tiers/tier-files.js'
import type { TierSet, TierSetName } from './tiers/tier-sets.js'
import type { Trace } from './tiers/trace.js'
import { validationError } from './validation.js'

export interface LoadedModelOptions {
  id: string
  addon: NativeAddon
  native: NativeModel
  tokenizer: Tokenizer
  descriptor: ModelDescriptor
  vocab: number
  /** Positions that one sequence may hold. */
  contextLength: number
  kvType: KvType
  memory: ExpertMemory
  maxBatchTokens: number
  /** The TierSets of requests. */
  selection: TierSelection
  /** Of a model whose experts are kept under a budget. */
  steering?: Steering | undefined
  /** Of a checkpoint. */
  files?: TierFiles | undefined
  /** Ends the watch over the memory that its experts take. */
  stopGuard?: (() => void) | undefined
  starvation?: StarvationOptions | undefined
  /** Of a checkpoint whose archive tiers are not all here. */
  archive?: ExpertArchive | undefined
  swaps: ExpertSwaps
  onFatal(error: unknown): void
  stuck?: StuckOptions | undefined
  deadlines: Deadlines
  /** Throws where a request that was made earlier may not begin now. */
  admit(method: string): void
  tell(event: EventName, message: string, fields: Readonly<Record<string, unknown>>): void
  /** Called when the consumer of a request asks for its first item. */
  observe(request: RequestStart): GenerationObserver
  /** The log of a request that is about to begin. Throws REQUEST_ALREADY_EXISTS unless it begins `again`. */
  openLog(requestId: string, request: CheckedRequest, prompt: Int32Array, again: boolean): RequestLog
}

/** What is known of a request when it begins. */
export interface RequestStart {
  method: string
  model: string
  requestId: string
  promptTokens: number
  /** Where it was given as text, or as its bytes. */
  prompt?: string | Uint8Array | undefined
}

/** What a caller sees of a loaded model. */
export interface ModelInfo extends SelectionInfo {
  id: string
  descriptor: ModelDescriptor
  contextLength: number
  kvType: KvType
  /** Bytes of its weights in memory. */
  weightBytes: number
  /** Bytes that the KV cache takes for each position of a sequence. */
  kvBytesPerToken: number
  /** Who gets how much of the memory that the model may take. */
  memory: ExpertMemory
  /** Whether `messages` can be given. */
  hasChatTemplate: boolean
  /** Generations in progress. */
  activeSequences: number
  /** Bytes of its prefix cache that no request uses: whoever needs memory gets them. */
  idlePrefixBytes: number
}

/** What activating a TierSet changed; experts are counted where they are kept under a budget. */
export interface TierSetChange extends Steered {
  previous: { name: string; tiers: readonly string[] }
  active: { name: string; tiers: readonly string[] }
  /** Of a latency budget: the milliseconds that a token is predicted to take with the active one now, and whether they are within it. */
  predictedMs?: number
  withinBudget?: boolean
}

/** What a loaded model has done since its load. */
export interface ModelStats {
  id: string
  activeSequences: number
  /** How often each expert was used, and those that are starved where `starvation` is watched. */
  use: ExpertUse & { starved: { layer: number; expert: number }[] }
  /** Where its experts are kept under a budget. */
  experts?: ExpertStats
  /** Where its requests share the KV cache of common prefixes. */
  prefixCache?: PrefixStats
}

/** What was asked of the expert cache since the load. */
export interface ExpertTrace extends Trace {
  /** Recording has ended, because there was no room for more. */
  truncated: boolean
}

export class LoadedModel {
  readonly tokenizer: Tokenizer
  readonly swaps: ExpertSwaps
  readonly #options: LoadedModelOptions
  readonly #scheduler: Scheduler
  readonly #pacing: Pacing<Generation>
  readonly #starvation: StarvationWatch | undefined
  readonly #forwards: Forwards
  #closed: EngineError | undefined

  constructor(options: LoadedModelOptions) {
    this.tokenizer = options.tokenizer
    this.swaps = options.swaps
    this.#options = options
    const { native, starvation, tell } = options
    const watch = starvation && new StarvationWatch(native.routing, starvation, () => native.expertUse())
    watch?.onStarved((expert) => {
      const { layer, expert: index, tokens, idleSteps } = expert
      const text = `expert ${index} of layer ${layer} had ${tokens} tokens in ${starvation!.windowSteps} steps`
      tell('expert_starved', text, { ...expert, tokens, idleSteps })
    })
    this.#starvation = watch
    this.#forwards = new Forwards(options)
    const pacing = new Pacing<Generation>(options.selection)
    this.#pacing = pacing
    this.#scheduler = new Scheduler({
      model: options.native,
      maxBatchTokens: options.maxBatchTokens,
      archive: options.archive,
      createCancel: () => options.addon.createCancel(),
      onStep: (members, items, ms) => {
        pacing.stepped(members, items, ms)
        this.#starvation?.stepped(items)
      },
      onFatal: options.onFatal,
      stuck: options.stuck
    })
  }

  info(): ModelInfo {
    const { id, descriptor, contextLength, kvType, native, memory, selection } = this.#options
    return {
      id,
      descriptor,
      contextLength,
      kvType,
      weightBytes: native.weightBytes,
      kvBytesPerToken: native.kvBytesPerToken[kvType],
      memory,
      hasChatTemplate: this.tokenizer.chatTemplate !== undefined,
      activeSequences: this.#scheduler.size,
      idlePrefixBytes: this.idlePrefixBytes,
      ...selection.info()
    }
  }

  /** For later requests that do not say. Throws CONFIG_UNKNOWN_TIER, ROUTING_TOO_FEW_EXPERTS. */
  async activateTierSet(asked: TierSetName | LatencyBudget): Promise<TierSetChange> {
    const { id, selection, steering, tell } = this.#options
    const { previous, choice } = selection.activate(asked)
    const { tierSet: active, budgetMs, predictedMs, withinBudget } = choice
    const shown = ({ name, tiers }: TierSet) => ({ name, tiers })
    const steered = (await steering?.activate(active.tiers)) ?? nothingSteered
    const predicted = budgetMs !== undefined && { predictedMs: predictedMs!, withinBudget: withinBudget! }
    tell('tierset_activated', `TierSet ${active.name} is the one of ${id} now`, {
      tierSet: active.tiers,
      previous: previous.tiers,
      ...(budgetMs !== undefined && { latencyBudgetMs: budgetMs }),
      ...predicted,
      ...steered
    })
    return { previous: shown(previous), active: shown(active), ...predicted, ...steered }
  }

  trace(): ExpertTrace {
    const { id, native } = this.#options
    const trace = native.expertTrace()
    if (!trace) {
      throw validationError('expertTrace', 'model', id, 'a model that was loaded with `memory` and `recordTrace: true`')
    }
    return { ...trace, model: id }
  }

  /** Throws VALIDATION_ERROR for experts that do not exist, RESOURCE_BUDGET_TOO_SMALL. */
  async pinExperts(experts: readonly { layer: number; expert: number }[], pinned: boolean): Promise<Steered> {
    const { id, native, steering, tell } = this.#options
    const { layers, experts: each } = native.routing
    for (const [i, { layer, expert }] of experts.entries()) {
      if (layer >= layers) throw validationError('pinExperts', `experts[${i}].layer`, layer, `0 to ${layers - 1}`)
      if (expert >= each) throw validationError('pinExperts', `experts[${i}].expert`, expert, `0 to ${each - 1}`)
    }
    const steered = (await steering?.pin(experts, pinned)) ?? nothingSteered
    const text = `${experts.length} experts of ${id} are ${pinned ? 'pinned' : 'not pinned any more'}`
    tell('experts_pinned', text, { experts, pinned })
    return steered
  }

  /**
   * Goes on as another load of the same model, which has ended: with its pins and its changed experts. RESOURCE_BUDGET_TOO_SMALL where memory is
   * shorter now, the errors of ExpertVersions.takeOver.
   */
  async takeOver(before: LoadedModel): Promise<void> {
    await this.swaps.versions.takeOver(before.swaps.versions)
    const pins = before.#options.steering?.plan.pinned() ?? []
    if (pins.length > 0) await this.#options.steering?.pin(pins, true)
  }

  /** The tiers of a checkpoint whose files were elsewhere. */
  get files(): TierFiles | undefined {
    return this.#options.files
  }

  /** Of a checkpoint whose archive tiers are not all here. */
  get archive(): ExpertArchive | undefined {
    return this.#options.archive
  }

  placement(): PlacementView {
    const { id, native, selection, descriptor, archive, steering } = this.#options
    const { expertBytes } = descriptor
    const whereabouts = native.whereabouts()
    return viewPlacement({
      model: id,
      tiers: selection.model,
      whereabouts,
      told: steering?.map,
      expertBytes,
      archive
    })
  }

  stats(): ModelStats {
    const { id, native } = this.#options
    const experts = native.expertStats()
    const use = { ...native.expertUse(), starved: this.#starvation?.starved() ?? [] }
    const prefixCache = native.prefixStats?.()
    const parts = { ...(experts && { experts }), ...(prefixCache && { prefixCache }) }
    return { id, activeSequences: this.#scheduler.size, use, ...parts }
  }

  /** See ModelInfo. */
  get idlePrefixBytes(): number {
    return this.#closed ? 0 : (this.#options.native.prefixStats?.()?.idleBytes ?? 0)
  }

  /** Gives all of them back. */
  dropPrefixes(): void {
    if (!this.#closed) this.#options.native.evictPrefixes?.(this.idlePrefixBytes)
  }

  /** `earlier`: goes on with a request of the journal. Throws REQUEST_ALREADY_EXISTS, CONTEXT_LENGTH_EXCEEDED, TOKENIZER_UNSUPPORTED, CHAT_TEMPLATE_INVALID, GUIDANCE_SCHEMA_UNSUPPORTED, VALIDATION_ERROR. */
  createGenerator(method: string, request: CheckedRequest, call: CallOptions, earlier?: EarlierTokens): LocalGenerator {
    const { openLog, native, contextLength, kvType, vocab, id, observe, selection } = this.#options
    const prompt = promptTokens(method, request, this.tokenizer, { model: id, vocab, contextLength })
    const { replayRouting } = request
    if (replayRouting) request = { ...request, replayRouting: checkReplay(method, replayRouting, native.routing) }
    const choice = selection.select(request)
    const { tiers, enabled } = choice.tierSet
    const { tokenizer } = this
    const { responseFormat } = request
    const guide = responseFormat && compileGuide(responseFormat, tokenizer, vocab)?.start()
    const decoder = tokenizer.decodeStream()
    const requestId = request.requestId ?? randomUUID()
    // What decides the TierSet changes with time: a request that goes on keeps the one that it got.
    const log = openLog(requestId, { ...request, tierSet: [...tiers] }, prompt, earlier !== undefined)
    const generation = new Generation({
      request,
      requestId,
      prompt,
      contextLength,
      vocab,
      eosIds: tokenizer.eosIds,
      decoder: {
        // A model's matrix may have more rows than its vocabulary has tokens.
        push: (token) => (token < tokenizer.vocab ? decoder.push(token) : ''),
        end: () => decoder.end()
      },
      guide,
      createSequence: (maxTokens, captureRouting, prefix) =>
        native.createSequence({ kvType, maxTokens, captureRouting, ...(prefix && { prefix }) }),
      routing: native.routing,
      observe: () => observe({ method, model: id, requestId, promptTokens: prompt.length, prompt: request.prompt }),
      tiers,
      enabled,
      log,
      earlier,
      hold: (epoch) => this.swaps.versions.hold(epoch)
    })
    this.#followBudget(generation, choice, requestId)
    const { deadlines, admit } = this.#options
    return new LocalGenerator(this.#scheduler, generation, method, call, { deadlines, admit: () => admit(method), log })
  }

  /**
   * Logits of `tokens` as one sequence from position 0: Float32Array [vocab] of the last position, or [tokens, vocab] of all.
   * Throws CONTEXT_LENGTH_EXCEEDED, RESOURCE_MEMORY_EXHAUSTED, RUNTIME_NAN_DETECTED, CANCELLED, INFERENCE_TIMEOUT.
   */
  async forward(tokens: Int32Array, request: ForwardOptions, call: CallOptions): Promise<ForwardResult> {
    if (this.#closed) throw this.#closed
    return this.#forwards.forward(tokens, request, call)
  }

  /** Ends every generation and forward call of this model with an error; the model stays. */
  async endRequests(error: unknown): Promise<void> {
    const forwards = this.#forwards.end(error)
    await this.#scheduler.close(() => error, false)
    await forwards
  }

  /** Ends what runs with the error, waits until nothing does, and frees everything. */
  async close(makeError: () => EngineError): Promise<void> {
    this.#closed = makeError()
    this.#options.stopGuard?.()
    const forwards = this.#forwards.end(this.#closed)
    await this.#scheduler.close(makeError)
    await forwards
    await this.#options.archive?.close()
    await this.#options.native.dispose()
  }

  /** Tells where a request's latency budget cannot be held, and where it was not. */
  #followBudget(generation: Generation, choice: Choice, requestId: string): void {
    const { tell } = this.#options
    const { budgetMs, predictedMs, withinBudget, tierSet } = choice
    const fields = { requestId, budgetMs, predictedMs, tierSet: tierSet.tiers }
    if (withinBudget === false) {
      const text = `no TierSet is predicted to take ${budgetMs} ms a token: ${tierSet.tiers.join(', ')} take ${predictedMs!.toFixed(1)}`
      tell('latency_budget_unmet', text, fields)
    }
    this.#pacing.follow(generation, choice, ({ msPerToken, tokens }) => {
      const text = `request ${requestId} took ${msPerToken.toFixed(1)} ms a token of ${budgetMs} allowed`
      tell('latency_budget_overrun', text, { ...fields, msPerToken, tokens })
    })
  }
}
