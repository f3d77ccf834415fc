/** An engine whose work is done in other processes: it checks what it is given, keeps what has to outlive a process, and asks the workers. */
import type { BackendInfo } from '../engine/backend-info.js'
import type {
  DetokenizeRequest,
  DisposeOptions,
  ForwardRequest,
  TokenBytesRequest,
  TokenizeRequest
} from '../engine/calls.js'
import { disposeSchema, freezeSchema, modelSchema } from '../engine/calls.js'
import type { ExpandRequest, Expansion } from '../engine/expand.js'
import type { FreezeOptions } from '../engine/maintenance.js'
import { notLoadedError } from '../engine/models.js'
import type { LoadModelOptions, LoadModelRequest } from '../engine/options.js'
import { frozenError } from '../engine/parts.js'
import type { Perplexity, PerplexityRequest } from '../engine/perplexity.js'
import type { ResumeRequest } from '../engine/resume.js'
import { acknowledgeSchema, resumeSchema } from '../engine/resume.js'
import { handleSignals } from '../engine/signals.js'
import type { SwapModelOptions } from '../engine/swap-model.js'
import type { Engine } from '../engine.js'
import { createError, isEngineError } from '../errors/index.js'
import type { ExpertChange } from '../experts/changes.js'
import type { PersistedExpert } from '../experts/persist.js'
import type { ExpertSwap } from '../experts/swaps.js'
import type { Generator } from '../generation/generator.js'
import type { CallOptions, GenerationRequest } from '../generation/options.js'
import { checkCall } from '../generation/options.js'
import type { RoutingCapture } from '../generation/routing.js'
import type { GenerationResult } from '../generation/whole-text.js'
import { wholeText } from '../generation/whole-text.js'
import type { Recovered } from '../journal/index.js'
import type { EngineState } from '../lifecycle.js'
import type { ExpertTrace, ModelInfo, ModelStats, TierSetChange } from '../loaded-model.js'
import type { ModelDescriptor } from '../model/index.js'
import type { Counters } from '../native.js'
import { validated } from '../schemas.js'
import type { MetricFamily } from '../telemetry/metrics.js'
import type { PlacementView } from '../tiers/placement-view.js'
import type { LatencyBudget } from '../tiers/selection.js'
import type { Steered } from '../tiers/steering.js'
import { reading, validationError } from '../validation.js'
import { lastingChanges, lastingExpansion, lastingLoad } from './lasting-requests.js'
import { mergedMetrics } from './merged-metrics.js'
import { placementView } from './placement-data.js'
import type { Mirror, MirroredModel } from './protocol.js'
import type { RemoteCall } from './remote-calls.js'
import { freezeAll, thawAll } from './remote-maintenance.js'
import type { RemoteParts } from './remote-parts.js'
import { RemoteShutdown } from './remote-shutdown.js'
import type { Worker } from './supervisor.js'
import { isFromWorker } from './values.js'
import { withProgress } from './with-progress.js'
import type { WorkerMethod } from './worker-engine.js'
import type { WorkerInfo } from './worker-info.js'

type Loaded = { id: string; descriptor: ModelDescriptor & { id: string } }

/** Made by createEngine; lib/engine.ts says what each method does, docs/isolation.md what is different. */
export class RemoteEngine implements Engine {
  readonly #parts: RemoteParts
  readonly #shutdown: RemoteShutdown
  #ignoreSignals: (() => void) | undefined

  /** @internal Use createEngine. */
  constructor(parts: RemoteParts) {
    this.#parts = parts
    this.#shutdown = new RemoteShutdown(parts)
    if (parts.options.signals) this.handleSignals()
  }

  get recovered(): Recovered {
    return this.#parts.recovered
  }

  get state(): EngineState {
    return this.#parts.state.now
  }

  workers(): WorkerInfo[] {
    return this.#parts.pool.workers.map((worker) => worker.info())
  }

  get backend(): BackendInfo {
    this.#checkOpen('backend')
    return this.#mirror.backend!
  }

  counters(): Counters {
    const sum = { liveBytes: 0, liveHandles: 0, openFiles: 0, activeJobs: 0 }
    const mirrors = this.#mirrors()
    for (const { counters } of mirrors) {
      for (const key of Object.keys(sum) as (keyof Counters)[]) sum[key] += counters[key]
    }
    return sum
  }

  get routingSeed(): string {
    return this.#mirror.routingSeed
  }

  metrics(): MetricFamily[] {
    return mergedMetrics(
      this.#parts.telemetry.metrics.read(),
      this.#mirrors().map(({ metrics }) => metrics)
    )
  }

  loadModel(request: LoadModelRequest = {}, options: LoadModelOptions = {}): Promise<Loaded> {
    return this.#open('loadModel', () => {
      const { request: checked, id: own } = lastingLoad('loadModel', request)
      const { id = own } = checked
      return withProgress(
        'loadModel',
        options,
        async (call, within) => {
          const { calls, history } = this.#parts
          const loaded = await calls.all('loadModel', [{ ...checked, id }, within], call, {
            done: () => history.note('loadModel', id, { ...checked, id }, {}),
            undo: (worker) => worker.call('engine.unloadModel', [id])
          })
          return loaded as Loaded
        },
        () => this.unloadModel(id)
      )
    })
  }

  swapModel(
    model: string,
    request: Omit<LoadModelRequest, 'id'>,
    options: SwapModelOptions = {}
  ): Promise<Omit<Loaded, 'id'>> {
    return this.#open('swapModel', () => {
      const { drainMs, ...rest } = options
      const { calls, history } = this.#parts
      const before = history.loaded(model) as LoadModelRequest
      const { request: checked } = lastingLoad('swapModel', request)
      return withProgress(
        'swapModel',
        rest,
        async (call, within) => {
          const draining = drainMs === undefined ? {} : { drainMs }
          const swapped = await calls.all('swapModel', [model, checked, { ...within, ...draining }], call, {
            done: () => history.note('loadModel', model, { ...checked, id: model }, {}),
            undo: (worker) => worker.call('engine.swapModel', [model, before, {}])
          })
          return swapped as Loaded
        },
        () => this.swapModel(model, before)
      )
    })
  }

  unloadModel(model: string | { model: string }): Promise<void> {
    return this.#open('unloadModel', async () => {
      const { model: id } = validated(modelSchema, typeof model === 'string' ? { model } : model, 'unloadModel')
      const { history, calls } = this.#parts
      const was = history.loaded(id) !== undefined
      history.forget(id)
      await calls.all('unloadModel', [id]).catch((error) => {
        // A worker that was started again meanwhile has not loaded it.
        if (!was || !isEngineError(error) || error.code !== 'MODEL_NOT_LOADED') throw error
      })
    })
  }

  activateTierSet(model: string, tierSet: string | readonly string[] | LatencyBudget): Promise<TierSetChange> {
    return this.#noted('activateTierSet', model, [model, tierSet])
  }

  pinExperts(model: string, experts: readonly { layer: number; expert: number }[], pinned = true): Promise<Steered> {
    return this.#noted('pinExperts', model, [model, experts, pinned])
  }

  expand(model: string, request: ExpandRequest, options: CallOptions = {}): Promise<Expansion> {
    return this.#open('expand', () => {
      const { signal, timeoutMs } = checkCall('expand', options)
      const lasting = lastingExpansion(request)
      const args = [model, lasting, timeoutMs === undefined ? {} : { timeoutMs }]
      // A new worker is told again without the caller's time: nobody waits for it.
      return this.#noted<Expansion>('expand', model, args, { ...(signal && { signal }) }, [model, lasting, {}])
    })
  }

  swapExperts(model: string, changes: readonly ExpertChange[]): Promise<ExpertSwap> {
    return this.#open('swapExperts', () => {
      this.#checkAlone('swapExperts')
      return this.#noted<ExpertSwap>('swapExperts', model, [model, lastingChanges(model, changes)])
    })
  }

  persistExperts(model: string): Promise<PersistedExpert[]> {
    return this.#open('persistExperts', async () => {
      this.#checkAlone('persistExperts')
      return (await this.#parts.calls.all('persistExperts', [model])) as PersistedExpert[]
    })
  }

  listModels(): ModelInfo[] {
    const mirrors = this.#mirrors()
    return this.#parts.state.models.map(({ info }) => {
      const same = mirrors.flatMap(({ models }) => models.filter((model) => model.info.id === info.id))
      const sumOf = (field: 'activeSequences' | 'idlePrefixBytes'): number =>
        same.reduce((sum, model) => sum + model.info[field], 0)
      return { ...info, activeSequences: sumOf('activeSequences'), idlePrefixBytes: sumOf('idlePrefixBytes') }
    })
  }

  modelStats(model: string): ModelStats {
    return this.#loaded('modelStats', model).stats
  }

  placement(model: string): PlacementView {
    return placementView(this.#loaded('placement', model).placement)
  }

  expertTrace(_model: string): ExpertTrace {
    this.#checkOpen('expertTrace')
    throw validationError('expertTrace', 'isolation', 'process', 'an engine in its own process')
  }

  tokenize(request: TokenizeRequest): Promise<{ tokens: number[] }> {
    return this.#single('tokenize', request)
  }

  detokenize(request: DetokenizeRequest): Promise<{ text: string }> {
    return this.#single('detokenize', request)
  }

  tokenBytes(request: TokenBytesRequest): Promise<Uint8Array[]> {
    return this.#single('tokenBytes', request)
  }

  createGenerator(request: GenerationRequest, options: CallOptions = {}): Generator {
    return this.#parts.requests.create('createGenerator', request, options)
  }

  resumeGenerator(request: ResumeRequest, options: CallOptions = {}): Promise<Generator> {
    return this.#open('resumeGenerator', () => {
      this.#checkThawed('resumeGenerator')
      const { requestId, from } = validated(resumeSchema, request, 'resumeGenerator')
      const call = checkCall('resumeGenerator', options)
      return this.#parts.requests.resume(this.#owner('resumeGenerator', requestId), requestId, from, call)
    })
  }

  acknowledgeRequest(request: { requestId: string }): Promise<void> {
    return this.#open('acknowledgeRequest', async () => {
      const { requestId } = validated(acknowledgeSchema, request, 'acknowledgeRequest')
      const owner = this.#owner('acknowledgeRequest', requestId)
      await this.#parts.calls.one(owner, 'acknowledgeRequest', [{ requestId }])
      this.#parts.owners?.delete(requestId)
    })
  }

  async generate(request: GenerationRequest, options: CallOptions = {}): Promise<GenerationResult> {
    return wholeText(this.#parts.requests.create('generate', request, options))
  }

  forward(
    request: ForwardRequest & { captureRouting: true },
    options?: CallOptions
  ): Promise<{ logits: Float32Array; routing: RoutingCapture }>
  forward(request: ForwardRequest, options?: CallOptions): Promise<Float32Array>
  forward(request: ForwardRequest, options: CallOptions = {}): Promise<never> {
    return this.#single('forward', request, options)
  }

  perplexity(request: PerplexityRequest, options: CallOptions = {}): Promise<Perplexity> {
    return this.#single('perplexity', request, options)
  }

  freeze(options: FreezeOptions = {}): Promise<void> {
    return this.#open('freeze', () => freezeAll(this.#parts, validated(freezeSchema, options, 'freeze')))
  }

  thaw(): Promise<void> {
    return this.#open('thaw', () => thawAll(this.#parts))
  }

  recover(): Promise<void> {
    return this.#open('recover', async () => {
      await this.#parts.calls.all('recover', [])
    })
  }

  dispose(options: DisposeOptions = {}): Promise<void> {
    return this.#dispose(options, 'dispose')
  }

  handleSignals(options: DisposeOptions = {}): void {
    this.#checkOpen('handleSignals')
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

  async #dispose(options: DisposeOptions, reason: string): Promise<void> {
    try {
      const { drainMs = this.#parts.options.drainMs } = validated(disposeSchema, options, 'dispose')
      await this.#shutdown.begin(drainMs, reason).finally(() => this.#ignoreSignals?.())
    } catch (error) {
      throw this.#tell(error, 'dispose')
    }
  }

  /** A method that a new worker is told again, with `again`. */
  async #noted<Result>(
    method: WorkerMethod,
    model: string,
    args: unknown[],
    call: RemoteCall = {},
    again: unknown[] = args
  ): Promise<Result> {
    return this.#open(method, async () => {
      const { calls, history } = this.#parts
      const result = await calls.all(method, args, call, { done: () => history.note(method, model, ...again) })
      return result as Result
    })
  }

  /** A call that any worker can answer. */
  #single<Result>(method: WorkerMethod, request: unknown, options?: CallOptions): Promise<Result> {
    return this.#open(method, async () => {
      const model = reading(method, () => (request as { model?: unknown } | null | undefined)?.model)
      if (options === undefined) return (await this.#parts.calls.any(method, model, [request])) as Result
      this.#checkThawed(method)
      const { signal, timeoutMs } = checkCall(method, options)
      const args = [request, timeoutMs === undefined ? {} : { timeoutMs }]
      return (await this.#parts.calls.any(method, model, args, { ...(signal && { signal }) })) as Result
    })
  }

  async #open<Result>(method: string, work: () => Result | Promise<Result>): Promise<Result> {
    try {
      this.#checkOpen(method)
      return await work()
    } catch (error) {
      throw this.#tell(error, method)
    }
  }

  #tell(error: unknown, method: string): unknown {
    return isFromWorker(error) ? error : this.#parts.telemetry.error(error, { method })
  }

  #checkOpen(method: string): void {
    this.#parts.state.checkOpen(method)
  }

  #checkThawed(method: string): void {
    const { frozen } = this.#parts.state
    if (frozen) throw frozenError(method, frozen.retryAfterSeconds)
  }

  /** Changed experts are files beside the model, which one process can write. */
  #checkAlone(method: string): void {
    const { workers } = this.#parts.pool
    if (workers.length > 1) throw validationError(method, 'isolation.workers', workers.length, '1')
  }

  #owner(method: string, requestId: string): Worker {
    const owner = this.#parts.owners?.get(requestId)
    if (owner) return owner
    const where = this.#parts.owners ? 'the journal' : 'an engine without a journal'
    throw createError('REQUEST_NOT_FOUND', `${method}: ${where} has no request ${requestId}`, { requestId, method })
  }

  #loaded(method: string, model: string): MirroredModel {
    this.#checkOpen(method)
    const { model: id } = validated(modelSchema, { model }, method)
    const { models } = this.#parts.state
    const found = models.find(({ info }) => info.id === id)
    if (found) return found
    throw notLoadedError(
      id,
      'is not loaded',
      models.map(({ info }) => info.id)
    )
  }

  get #mirror(): Mirror {
    return this.#parts.state.mirror
  }

  #mirrors(): Mirror[] {
    return this.#parts.pool.workers.flatMap(({ mirror }) => mirror ?? [])
  }
}
