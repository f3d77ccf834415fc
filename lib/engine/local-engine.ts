/** The engine of this process: checks what it is given, and hands it to the pieces beside it. */

import type { Engine } from '../engine.js'
import type { ExpertChange } from '../experts/changes.js'
import type { PersistedExpert } from '../experts/persist.js'
import type { ExpertSwap } from '../experts/swaps.js'
import type { ForwardResult } from '../generation/forward.js'
import type { LocalGenerator } from '../generation/local-generator.js'
import type { CallOptions, GenerationRequest } from '../generation/options.js'
import { checkCall, checkRequest, copyTokens } from '../generation/options.js'
import type { RoutingCapture } from '../generation/routing.js'
import type { GenerationResult } from '../generation/whole-text.js'
import { wholeText } from '../generation/whole-text.js'
import type { WorkerInfo } from '../isolation/worker-info.js'
import type { Recovered } from '../journal/index.js'
import type { EngineState } from '../lifecycle.js'
import type { ExpertTrace, LoadedModel, ModelInfo, ModelStats, TierSetChange } from '../loaded-model.js'
import type { ModelDescriptor } from '../model/index.js'
import type { Counters } from '../native.js'
import { validated } from '../schemas.js'
import type { MetricFamily } from '../telemetry/metrics.js'
import type { PlacementView } from '../tiers/placement-view.js'
import type { LatencyBudget } from '../tiers/selection.js'
import { isLatencyBudget } from '../tiers/selection.js'
import type { Steered } from '../tiers/steering.js'
import { validationError } from '../validation.js'
import type { BackendInfo } from './backend-info.js'
import { backendInfo } from './backend-info.js'
import type { DetokenizeRequest, DisposeOptions, ForwardRequest, TokenBytesRequest, TokenizeRequest } from './calls.js'
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
  tokenBytesSchema,
  tokenizeSchema
} from './calls.js'
import type { ExpandRequest, Expansion } from './expand.js'
import { expand, expandSchema } from './expand.js'
import { loadModel, unloadModel } from './load-model.js'
import type { FreezeOptions } from './maintenance.js'
import { freeze, thaw } from './maintenance.js'
import type { CheckedLoad, LoadModelOptions, LoadModelRequest } from './options.js'
import type { EngineParts } from './parts.js'
import { checkOpen, checkServing } from './parts.js'
import type { Perplexity, PerplexityRequest } from './perplexity.js'
import { perplexity } from './perplexity.js'
import { Recovery } from './recovery.js'
import type { ResumeRequest } from './resume.js'
import { acknowledgeSchema, Resumption, resumeSchema } from './resume.js'
import { Shutdown } from './shutdown.js'
import { handleSignals } from './signals.js'
import type { SwapModelOptions } from './swap-model.js'
import { swapModel } from './swap-model.js'

/** Made by createEngine; lib/engine.ts says what each method does. */
export class LocalEngine implements Engine {
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

  get recovered(): Recovered {
    return this.#resumption.recovered
  }

  workers(): WorkerInfo[] {
    return []
  }

  get state(): EngineState {
    return this.#parts.lifecycle.state
  }

  get backend(): BackendInfo {
    checkOpen(this.#parts, 'backend')
    return backendInfo(this.#parts)
  }

  counters(): Counters {
    return this.#parts.addon.counters()
  }

  get routingSeed(): string {
    return this.#parts.routingSeed.text
  }

  metrics(): MetricFamily[] {
    return this.#parts.telemetry.metrics.read()
  }

  async loadModel(
    request: LoadModelRequest = {},
    options: LoadModelOptions = {}
  ): Promise<{ id: string; descriptor: ModelDescriptor & { id: string } }> {
    return this.#open('loadModel', async () => {
      if (this.#recovery.rebuilding) await this.#recovery.rebuilding
      checkOpen(this.#parts, 'loadModel')
      return loadModel(this.#parts, request, options, this.#recovery)
    })
  }

  async swapModel(
    model: string,
    request: Omit<LoadModelRequest, 'id'>,
    options: SwapModelOptions = {}
  ): Promise<{ descriptor: ModelDescriptor & { id: string } }> {
    return this.#open('swapModel', () => {
      const { model: id } = validated(modelSchema, { model }, 'swapModel')
      return swapModel(this.#parts, id, request, options, this.#recovery)
    })
  }

  async unloadModel(model: string | { model: string }): Promise<void> {
    return this.#open('unloadModel', () => {
      const { model: id } = validated(modelSchema, typeof model === 'string' ? { model } : model, 'unloadModel')
      return unloadModel(this.#parts, id)
    })
  }

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

  async expand(model: string, request: ExpandRequest, options: CallOptions = {}): Promise<Expansion> {
    return this.#open('expand', () => {
      const { model: id } = validated(modelSchema, { model }, 'expand')
      return expand(this.#parts, id, validated(expandSchema, request, 'expand'), checkCall('expand', options))
    })
  }

  async swapExperts(model: string, changes: readonly ExpertChange[]): Promise<ExpertSwap> {
    return this.#open('swapExperts', () => {
      const checked = validated(swapSchema, { model, changes }, 'swapExperts')
      return this.#parts.models.get(checked.model).swaps.swap(checked.changes)
    })
  }

  async persistExperts(model: string): Promise<PersistedExpert[]> {
    return this.#open('persistExperts', () => {
      const { swaps } = this.#loaded('persistExperts', model)
      if (swaps.isCheckpoint) return swaps.persist()
      throw validationError('persistExperts', 'model', model, 'a model that was loaded from a tiered checkpoint')
    })
  }

  listModels(): ModelInfo[] {
    return this.#parts.models.all().map((model) => model.info())
  }

  modelStats(model: string): ModelStats {
    return this.#loaded('modelStats', model).stats()
  }

  placement(model: string): PlacementView {
    return this.#loaded('placement', model).placement()
  }

  expertTrace(model: string): ExpertTrace {
    return this.#loaded('expertTrace', model).trace()
  }

  async tokenize(request: TokenizeRequest): Promise<{ tokens: number[] }> {
    return this.#open('tokenize', () => {
      const { model, text, addSpecial, parseSpecial } = validated(tokenizeSchema, request, 'tokenize')
      return { tokens: this.#parts.models.get(model).tokenizer.encode(text, { addSpecial, parseSpecial }) }
    })
  }

  async tokenBytes(request: TokenBytesRequest): Promise<Uint8Array[]> {
    return this.#open('tokenBytes', () => {
      const { model, tokens } = validated(tokenBytesSchema, request, 'tokenBytes')
      const { tokenizer } = this.#parts.models.get(model)
      return Array.from(tokens, (token) => tokenizer.tokenBytes(token).slice())
    })
  }

  async detokenize(request: DetokenizeRequest): Promise<{ text: string }> {
    return this.#open('detokenize', () => {
      const { model, tokens, special } = validated(detokenizeSchema, request, 'detokenize')
      return { text: this.#parts.models.get(model).tokenizer.decode(tokens, { special }) }
    })
  }

  /** `method` is what errors name. */
  createGenerator(request: GenerationRequest, options: CallOptions = {}, method = 'createGenerator'): LocalGenerator {
    try {
      checkServing(this.#parts, method)
      const checked = checkRequest(method, request)
      const call = checkCall(method, options)
      return this.#parts.models.get(checked.model).createGenerator(method, checked, call)
    } catch (error) {
      throw this.#parts.telemetry.error(error, { method })
    }
  }

  async resumeGenerator(request: ResumeRequest, options: CallOptions = {}): Promise<LocalGenerator> {
    return this.#call('resumeGenerator', async () => {
      if (this.#recovery.rebuilding) await this.#recovery.rebuilding
      checkServing(this.#parts, 'resumeGenerator')
      const checked = validated(resumeSchema, request, 'resumeGenerator')
      return this.#resumption.generator(checked, checkCall('resumeGenerator', options))
    })
  }

  async acknowledgeRequest(request: { requestId: string }): Promise<void> {
    return this.#open('acknowledgeRequest', async () => {
      const { requestId } = validated(acknowledgeSchema, request, 'acknowledgeRequest')
      await this.#parts.ledger.acknowledge(requestId)
      // It may have been the last one that needed an expert's earlier version.
      for (const { swaps } of this.#parts.models.all()) await swaps.versions.settle()
    })
  }

  async generate(request: GenerationRequest, options: CallOptions = {}): Promise<GenerationResult> {
    return wholeText(this.createGenerator(request, options, 'generate'))
  }

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

  async perplexity(request: PerplexityRequest, options: CallOptions = {}): Promise<Perplexity> {
    return this.#call('perplexity', async () => {
      checkServing(this.#parts, 'perplexity')
      const checked = validated(perplexitySchema, request, 'perplexity')
      return perplexity(this.#parts, checked, checkCall('perplexity', options))
    })
  }

  async freeze(options: FreezeOptions = {}): Promise<void> {
    return this.#open('freeze', () => freeze(this.#parts, validated(freezeSchema, options, 'freeze')))
  }

  async thaw(): Promise<void> {
    return this.#open('thaw', () => thaw(this.#parts))
  }

  dispose(options: DisposeOptions = {}): Promise<void> {
    return this.#dispose(options, 'dispose')
  }

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

  recover(): Promise<void> {
    const load = (request: CheckedLoad) => loadModel(this.#parts, request, {}, this.#recovery)
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

  #loaded(method: string, model: string): LoadedModel {
    checkOpen(this.#parts, method)
    return this.#parts.models.get(validated(modelSchema, { model }, method).model)
  }

  #open<Result>(method: string, work: () => Result | Promise<Result>): Promise<Result> {
    return this.#call(method, () => {
      checkOpen(this.#parts, method)
      return work()
    })
  }

  async #call<Result>(method: string, work: () => Result | Promise<Result>): Promise<Result> {
    try {
      return await work()
    } catch (error) {
      throw this.#parts.telemetry.error(error, { method })
    }
  }
}
