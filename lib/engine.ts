/** The engine's public face: checks what it is given, and hands it to the pieces in engine/. */
import type { BackendInfo } from './engine/backend-info.js'
import { backendInfo } from './engine/backend-info.js'
import type { DetokenizeRequest, DisposeOptions, ForwardRequest, TokenizeRequest } from './engine/calls.js'
import {
  activateSchema,
  detokenizeSchema,
  disposeSchema,
  forwardSchema,
  freezeSchema,
  modelSchema,
  perplexitySchema,
  pinSchema,
  swapSchema,
  tokenizeSchema
} from './engine/calls.js'
import type { ExpandRequest, Expansion } from './engine/expand.js'
import { expand, expandSchema } from './engine/expand.js'
import { loadModel, unloadModel } from './engine/load-model.js'
import type { FreezeOptions } from './engine/maintenance.js'
import { freeze, thaw } from './engine/maintenance.js'
import type { LoadModelOptions, LoadModelRequest } from './engine/options.js'
import type { EngineParts } from './engine/parts.js'
import { checkOpen, checkServing } from './engine/parts.js'
import type { Perplexity, PerplexityRequest } from './engine/perplexity.js'
import { perplexity } from './engine/perplexity.js'
import { Recovery } from './engine/recovery.js'
import type { ResumeRequest } from './engine/resume.js'
import { acknowledgeSchema, Resumption, resumeSchema } from './engine/resume.js'
import { Shutdown } from './engine/shutdown.js'
import { handleSignals } from './engine/signals.js'
import type { ExpertChange } from './experts/changes.js'
import type { PersistedExpert } from './experts/persist.js'
import type { ExpertSwap } from './experts/swaps.js'
import type { ForwardResult } from './generation/forward.js'
import type { Generator } from './generation/generator.js'
import type { CallOptions, GenerationRequest } from './generation/options.js'
import { checkCall, checkRequest, copyTokens } from './generation/options.js'
import type { RoutingCapture } from './generation/routing.js'
import type { GenerationResult } from './generation/whole-text.js'
import { wholeText } from './generation/whole-text.js'
import type { Recovered } from './journal/index.js'
import type { EngineState } from './lifecycle.js'
import type { ExpertTrace, LoadedModel, ModelInfo, ModelStats, TierSetChange } from './loaded-model.js'
import type { ModelDescriptor } from './model/index.js'
import type { Counters } from './native.js'
import { validated } from './schemas.js'
import type { MetricFamily } from './telemetry/metrics.js'
import type { PlacementView } from './tiers/placement-view.js'
import type { LatencyBudget } from './tiers/selection.js'
import { isLatencyBudget } from './tiers/selection.js'
import type { Steered } from './tiers/steering.js'
import { validationError } from './validation.js'

/** Made by createEngine. Every method throws (or rejects with) an EngineError: VALIDATION_ERROR, ENGINE_DISPOSED, and those it names. */
export class Engine implements AsyncDisposable {
  readonly #parts: EngineParts
  readonly #recovery: Recovery
  readonly #resumption: Resumption
  readonly #shutdown: Shutdown
  #ignoreSignals: (() => void) | undefined

  /** @internal Use createEngine. */
  constructor(parts: EngineParts) {
    this.#parts = parts
    this.#recovery = new Recovery(parts)
    this.#resumption = new Resumption(parts, (request) => this.loadModel(request))
    this.#shutdown = new Shutdown(parts, this.#recovery)
    if (parts.options.signals) this.handleSignals()
  }

  /** What the journal held when the engine began: requests that were running or had ended, and models that were loaded. */
  get recovered(): Recovered {
    return this.#resumption.recovered
  }

  get state(): EngineState {
    return this.#parts.lifecycle.state
  }

  get backend(): BackendInfo {
    checkOpen(this.#parts, 'backend')
    return backendInfo(this.#parts)
  }

  /** What the addon holds now, in this process. */
  counters(): Counters {
    return this.#parts.addon.counters()
  }

  /** 32 hexadecimal digits that break ties between experts; they never change. */
  get routingSeed(): string {
    return this.#parts.routingSeed.text
  }

  /** Counters, gauges and histograms, as plain data. */
  metrics(): MetricFamily[] {
    return this.#parts.telemetry.metrics.read()
  }

  /**
   * Loads a model; weights are read and repacked on all threads. MODEL_NOT_FOUND, MODEL_ALREADY_LOADED, MODEL_FILE_INVALID and the
   * other codes of bad files, RESOURCE_MEMORY_EXHAUSTED and RESOURCE_BUDGET_TOO_SMALL {resourceInfo, alternatives}, CANCELLED,
   * MODEL_LOAD_TIMEOUT.
   */
  async loadModel(
    request: LoadModelRequest = {},
    options: LoadModelOptions = {}
  ): Promise<{ id: string; descriptor: ModelDescriptor & { id: string } }> {
    return this.#open('loadModel', async () => {
      if (this.#recovery.rebuilding) await this.#recovery.rebuilding.catch(() => {})
      checkOpen(this.#parts, 'loadModel')
      return loadModel(this.#parts, request, options, this.#recovery)
    })
  }

  /** Ends the model's generations (they throw MODEL_NOT_LOADED) and frees it. MODEL_NOT_LOADED. */
  async unloadModel(model: string | { model: string }): Promise<void> {
    return this.#open('unloadModel', () => {
      const { model: id } = validated(modelSchema, typeof model === 'string' ? { model } : model, 'unloadModel')
      return unloadModel(this.#parts, id)
    })
  }

  /**
   * Makes another TierSet the one of later requests that do not say; those under way keep theirs. With {latencyBudgetMs} each of them gets the
   * largest that is predicted to take at most so many milliseconds a token, and the one that is now decides what is kept in memory. MODEL_NOT_LOADED,
   * CONFIG_UNKNOWN_TIER {tier, known, tierSets}, ROUTING_TOO_FEW_EXPERTS {tierSet, layer, enabled, k}.
   */
  async activateTierSet(model: string, tierSet: string | readonly string[] | LatencyBudget): Promise<TierSetChange> {
    return this.#open('activateTierSet', async () => {
      const { models, ledger } = this.#parts
      const checked = validated(activateSchema, { model, tierSet }, 'activateTierSet')
      const change = await models.get(checked.model).activateTierSet(checked.tierSet)
      const budgetMs = isLatencyBudget(checked.tierSet) ? checked.tierSet.latencyBudgetMs : undefined
      ledger.tierSetActivated(checked.model, change.active.tiers, budgetMs)
      return change
    })
  }

  /**
   * Keeps experts in memory whatever their tier (those that starve, for one), or (`pinned: false`) no longer. Where every expert is in memory
   * anyway nothing changes. MODEL_NOT_LOADED, RESOURCE_BUDGET_TOO_SMALL {required, available, slotBytes}; then nothing changes.
   */
  async pinExperts(
    model: string,
    experts: readonly { layer: number; expert: number }[],
    pinned = true
  ): Promise<Steered> {
    return this.#open('pinExperts', () => {
      const checked = validated(pinSchema, { model, experts, pinned }, 'pinExperts')
      return this.#parts.models.get(checked.model).pinExperts(checked.experts, checked.pinned)
    })
  }

  /**
   * Adds tiers to a model that was loaded from a checkpoint without their files, or with these in the archive only, from the folder of another
   * checkpoint of the same model; requests go on, and later ones can use the tiers. The engine is `expanding` until then, then active.
   * LIFECYCLE_INVALID_TRANSITION where it is not active, MODEL_NOT_LOADED, CONFIG_UNKNOWN_TIER, MODEL_NOT_FOUND, CHECKPOINT_INVALID,
   * MODEL_CORRUPTED, CHECKPOINT_MISMATCH {expected, actual}, JOURNAL_WRITE_FAILED, CANCELLED, MODEL_LOAD_TIMEOUT; then nothing changes.
   */
  async expand(model: string, request: ExpandRequest, options: CallOptions = {}): Promise<Expansion> {
    return this.#open('expand', () => {
      const { model: id } = validated(modelSchema, { model }, 'expand')
      return expand(this.#parts, id, validated(expandSchema, request, 'expand'), checkCall('expand', options))
    })
  }

  /**
   * Gives experts of a model other weights while it serves, all of the list or none. Requests that began before keep what they began with.
   * MODEL_NOT_LOADED, TENSOR_SHAPE_MISMATCH {expected, actual}, TENSOR_TYPE_UNSUPPORTED {type}, MODEL_NOT_FOUND and the other errors of opening a
   * model, EXPERT_UNAVAILABLE, RUNTIME_NAN_DETECTED, RESOURCE_MEMORY_EXHAUSTED, GPU_VRAM_EXHAUSTED, RESOURCE_DISK_EXHAUSTED, FILE_WRITE_FAILED,
   * JOURNAL_WRITE_FAILED.
   */
  async swapExperts(model: string, changes: readonly ExpertChange[]): Promise<ExpertSwap> {
    return this.#open('swapExperts', () => {
      const checked = validated(swapSchema, { model, changes }, 'swapExperts')
      return this.#parts.models.get(checked.model).swaps.swap(checked.changes)
    })
  }

  /**
   * Writes a model's changed experts into its checkpoint's manifest; dispose() does it too. Empty where there is nothing to write.
   * MODEL_NOT_LOADED, VALIDATION_ERROR of a model that is not a checkpoint, MODEL_CHANGED where the manifest is another one now,
   * JOURNAL_LOCKED, JOURNAL_WRITE_FAILED, FILE_WRITE_FAILED.
   */
  async persistExperts(model: string): Promise<PersistedExpert[]> {
    return this.#open('persistExperts', () => {
      const { swaps } = this.#loaded('persistExperts', model)
      if (swaps.isCheckpoint) return swaps.persist()
      throw validationError('persistExperts', 'model', model, 'a model that was loaded from a tiered checkpoint')
    })
  }

  /** The loaded models. */
  listModels(): ModelInfo[] {
    return this.#parts.models.all().map((model) => model.info())
  }

  /** Hits, misses, bytes and residency of a model's experts since its load. MODEL_NOT_LOADED. */
  modelStats(model: string): ModelStats {
    return this.#loaded('modelStats', model).stats()
  }

  /** Where every tier's experts are now, hot, warm, cold or archive, and each expert on demand (docs/placement.md). MODEL_NOT_LOADED. */
  placement(model: string): PlacementView {
    return this.#loaded('placement', model).placement()
  }

  /**
   * What was asked of a model's expert cache since its load, as `writeTrace` keeps it and `tiered-moe simulate` replays it (docs/traces.md).
   * MODEL_NOT_LOADED; VALIDATION_ERROR where the model was not loaded with `recordTrace`.
   */
  expertTrace(model: string): ExpertTrace {
    return this.#loaded('expertTrace', model).trace()
  }

  /** Text to token ids. MODEL_NOT_LOADED, TOKENIZER_UNSUPPORTED. */
  async tokenize(request: TokenizeRequest): Promise<{ tokens: number[] }> {
    return this.#open('tokenize', () => {
      const { model, text, addSpecial, parseSpecial } = validated(tokenizeSchema, request, 'tokenize')
      return { tokens: this.#parts.models.get(model).tokenizer.encode(text, { addSpecial, parseSpecial }) }
    })
  }

  /** Token ids to text. MODEL_NOT_LOADED. */
  async detokenize(request: DetokenizeRequest): Promise<{ text: string }> {
    return this.#open('detokenize', () => {
      const { model, tokens, special } = validated(detokenizeSchema, request, 'detokenize')
      return { text: this.#parts.models.get(model).tokenizer.decode(tokens, { special }) }
    })
  }

  /**
   * Begins a generation: an async iterator of tokens whose last item has finishReason and usage. Nothing is computed before the first
   * next(), and never more than one token ahead of the consumer; leaving the loop frees the sequence. Throws at once
   * MODEL_NOT_LOADED, CONTEXT_LENGTH_EXCEEDED, TOKENIZER_UNSUPPORTED, CHAT_TEMPLATE_INVALID; the iterator throws what Generator names.
   */
  createGenerator(request: GenerationRequest, options: CallOptions = {}): Generator {
    return this.#createGenerator('createGenerator', request, options)
  }

  /**
   * Goes on with a request of the journal, of this engine or of one before it: the items from position `from` on, the same as without
   * an interruption. Its model is loaded again where it is not loaded. Whoever has its iterator now gets CANCELLED. REQUEST_NOT_FOUND,
   * MODEL_CHANGED {expected, actual}, and what loadModel throws.
   */
  async resumeGenerator(request: ResumeRequest, options: CallOptions = {}): Promise<Generator> {
    return this.#call('resumeGenerator', () => {
      checkServing(this.#parts, 'resumeGenerator')
      const checked = validated(resumeSchema, request, 'resumeGenerator')
      return this.#resumption.generator(checked, checkCall('resumeGenerator', options))
    })
  }

  /** Takes a request out of the journal: its client has the text, or wants it no more (then it ends). REQUEST_NOT_FOUND, JOURNAL_WRITE_FAILED. */
  async acknowledgeRequest(request: { requestId: string }): Promise<void> {
    return this.#open('acknowledgeRequest', async () => {
      const { requestId } = validated(acknowledgeSchema, request, 'acknowledgeRequest')
      await this.#parts.ledger.acknowledge(requestId)
      // It may have been the last one that needed an expert's earlier version.
      for (const { swaps } of this.#parts.models.all()) await swaps.versions.settle()
    })
  }

  /** The whole text of a generation. Errors as createGenerator and its iterator. */
  async generate(request: GenerationRequest, options: CallOptions = {}): Promise<GenerationResult> {
    return wholeText(this.#createGenerator('generate', request, options))
  }

  /**
   * Logits of given tokens, from position 0: Float32Array [vocab] of the last position, or [tokens, vocab] of all; with
   * `captureRouting` {logits, routing}. ROUTING_INVALID_EXPERT {token, slot, expertId, layer} of a replay, MODEL_NOT_LOADED,
   * CONTEXT_LENGTH_EXCEEDED, RESOURCE_MEMORY_EXHAUSTED, RUNTIME_NAN_DETECTED, CANCELLED, INFERENCE_TIMEOUT.
   */
  async forward(
    request: ForwardRequest & { captureRouting: true },
    options?: CallOptions
  ): Promise<{ logits: Float32Array; routing: RoutingCapture }>
  async forward(request: ForwardRequest, options?: CallOptions): Promise<Float32Array>
  async forward(request: ForwardRequest, options: CallOptions = {}): Promise<Float32Array | ForwardResult> {
    return this.#call('forward', async () => {
      checkServing(this.#parts, 'forward')
      const { model, tokens, ...rest } = validated(forwardSchema, request, 'forward')
      const loaded = this.#parts.models.get(model)
      const call = checkCall('forward', options)
      const copy = copyTokens(tokens)
      const result = await this.#parts.requests.track('forward', model, copy.length, () =>
        loaded.forward(copy, rest, call)
      )
      return rest.captureRouting ? result : result.logits
    })
  }

  /**
   * How well the model predicts a text: {perplexity, meanLoss (nats per token), tokens}, over windows that each begin anew. Exactly one of
   * text and tokens. Errors as forward.
   */
  async perplexity(request: PerplexityRequest, options: CallOptions = {}): Promise<Perplexity> {
    return this.#call('perplexity', async () => {
      checkServing(this.#parts, 'perplexity')
      const checked = validated(perplexitySchema, request, 'perplexity')
      return perplexity(this.#parts, checked, checkCall('perplexity', options))
    })
  }

  /**
   * For maintenance: new requests throw ENGINE_FROZEN {retryAfterSeconds} from now on. Resolves when those that had begun have ended, by
   * themselves or, after `drainMs`, with ENGINE_FROZEN and their partial text. LIFECYCLE_INVALID_TRANSITION where it is not active.
   */
  async freeze(options: FreezeOptions = {}): Promise<void> {
    return this.#open('freeze', () => freeze(this.#parts, validated(freezeSchema, options, 'freeze')))
  }

  /** Ends the maintenance: requests are taken again. LIFECYCLE_INVALID_TRANSITION where the engine is not frozen. */
  async thaw(): Promise<void> {
    return this.#open('thaw', () => thaw(this.#parts))
  }

  /**
   * Releases everything. Requests that have begun may go on for `drainMs` (default: the engine's own, or 0); what is not done by then
   * throws ENGINE_DISPOSED with its partial text, as do loads at once. Called again with `drainMs: 0`, it ends the draining at once.
   */
  dispose(options: DisposeOptions = {}): Promise<void> {
    return this.#dispose(options, 'dispose')
  }

  /**
   * SIGINT and SIGTERM drain this engine and end the process with 0; a second one ends it at once (130, 143). Until dispose().
   */
  handleSignals(options: DisposeOptions = {}): void {
    checkOpen(this.#parts, 'handleSignals')
    this.#ignoreSignals ??= handleSignals({
      drain: (signal) => {
        this.#parts.telemetry.event('signal_received', `${signal}: draining`, { signal })
        return this.#dispose(options, signal)
      }
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  /** @internal Loads the models that were loaded when the engine before this one ended. */
  restore(): Promise<void> {
    return this.#resumption.loadModels()
  }

  /**
   * Of webgpu, after GPU_DEVICE_LOST or GPU_SUBMIT_TIMEOUT: opens the device again and loads the models that were on it, with the TierSets that
   * were active, their pins and swapped experts. Requests under way end with GPU_DEVICE_LOST; those of a journal go on with `resumeGenerator`. Loads
   * under way end first, as they do. Throws what createEngine does of a device (the engine is closed then), and the first failure of a load.
   */
  recover(): Promise<void> {
    const load = (request: LoadModelRequest) => loadModel(this.#parts, request, {}, this.#recovery)
    return this.#open('recover', () => this.#recovery.rebuild(load))
  }

  #dispose(options: DisposeOptions, reason: string): Promise<void> {
    try {
      const { drainMs = this.#parts.options.drainMs } = validated(disposeSchema, options, 'dispose')
      const done = this.#shutdown.begin(drainMs, reason)
      void done.finally(() => this.#ignoreSignals?.()).catch(() => {})
      return done
    } catch (error) {
      return Promise.reject(this.#parts.telemetry.error(error, { method: 'dispose' }))
    }
  }

  /** The model of that id. Throws MODEL_NOT_LOADED. */
  #loaded(method: string, model: string): LoadedModel {
    checkOpen(this.#parts, method)
    return this.#parts.models.get(validated(modelSchema, { model }, method).model)
  }

  /** A method of an engine that is not disposed. */
  #open<Result>(method: string, work: () => Result | Promise<Result>): Promise<Result> {
    return this.#call(method, () => {
      checkOpen(this.#parts, method)
      return work()
    })
  }

  /** Runs a method, and tells of the error that it ends with. */
  async #call<Result>(method: string, work: () => Result | Promise<Result>): Promise<Result> {
    try {
      return await work()
    } catch (error) {
      throw this.#parts.telemetry.error(error, { method })
    }
  }

  #createGenerator(method: string, request: GenerationRequest, options: CallOptions): Generator {
    try {
      checkServing(this.#parts, method)
      const checked = checkRequest(method, request)
      const call = checkCall(method, options)
      return this.#parts.models.get(checked.model).createGenerator(method, checked, call)
    } catch (error) {
      throw this.#parts.telemetry.error(error, { method })
    }
  }
}
