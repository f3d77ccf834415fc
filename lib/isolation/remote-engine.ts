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
import type { CheckedOptions, LoadModelOptions, LoadModelRequest } from '../engine/options.js'
import { defaultRetryAfter, disposedError, frozenError } from '../engine/parts.js'
import type { Perplexity, PerplexityRequest } from '../engine/perplexity.js'
import type { ResumeRequest } from '../engine/resume.js'
import { acknowledgeSchema, resumeSchema } from '../engine/resume.js'
import { handleSignals } from '../engine/signals.js'
import type { SwapModelOptions } from '../engine/swap-model.js'
import type { Engine } from '../engine.js'
import { createError } from '../errors/index.js'
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
import type { Telemetry } from '../telemetry/telemetry.js'
import type { PlacementView } from '../tiers/placement-view.js'
import type { LatencyBudget } from '../tiers/selection.js'
import type { Steered } from '../tiers/steering.js'
import { validationError } from '../validation.js'
import type { History } from './history.js'
import type { KeepAlive } from './keep-alive.js'
import { mergedMetrics } from './merged-metrics.js'
import { placementView } from './placement-data.js'
import type { Pool } from './pool.js'
import type { Mirror } from './protocol.js'
import type { RemoteCall, RemoteCalls } from './remote-calls.js'
import type { RemoteState } from './remote-state.js'
import type { RemoteRequests } from './requests.js'
import type { Worker } from './supervisor.js'
import type { TempFolder } from './temp-folders.js'
import { isFromWorker } from './values.js'
import { withProgress } from './with-progress.js'
import type { WorkerMethod } from './worker-engine.js'
import type { WorkerInfo } from './worker-info.js'

type Loaded = { id: string; descriptor: ModelDescriptor & { id: string } }

export interface RemoteParts {
  options: CheckedOptions
  telemetry: Telemetry
  pool: Pool
  calls: RemoteCalls
  requests: RemoteRequests
  state: RemoteState
  history: History
  recovered: Recovered
  /** With a journal: which worker has a request. */
  owners: Map<string, Worker> | undefined
  folder: TempFolder | undefined
  keepAlive: KeepAlive
}

/** Made by createEngine; lib/engine.ts says what each method does, docs/isolation.md what is different. */
export class RemoteEngine implements Engine {
  readonly #parts: RemoteParts
  #ending: Promise<void> | undefined
  #ignoreSignals: (() => void) | undefined

  /** @internal Use createEngine. */
  constructor(parts: RemoteParts) {
    this.#parts = parts
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
    return this.#open('loadModel', () =>
      withProgress(
        'loadModel',
        options,
        async (call, within) => {
          const { calls, history } = this.#parts
          const undo = (worker: Worker, result: unknown) => worker.call('engine.unloadModel', [(result as Loaded).id])
          const loaded = (await calls.all('loadModel', [request, within], call, undo)) as Loaded
          history.note('loadModel', loaded.id, { ...request, id: loaded.id }, {})
          return loaded
        },
        ({ id }) => this.unloadModel(id)
      )
    )
  }

  swapModel(
    model: string,
    request: Omit<LoadModelRequest, 'id'>,
    options: SwapModelOptions = {}
  ): Promise<Omit<Loaded, 'id'>> {
    const { drainMs, ...rest } = options
    const { calls, history } = this.#parts
    const before = history.loaded(model) as LoadModelRequest
    return this.#open('swapModel', () =>
      withProgress(
        'swapModel',
        rest,
        async (call, within) => {
          const undo = (worker: Worker) => worker.call('engine.swapModel', [model, before, {}])
          const draining = drainMs === undefined ? {} : { drainMs }
          const swapped = await calls.all('swapModel', [model, request, { ...within, ...draining }], call, undo)
          history.note('loadModel', model, { ...request, id: model }, {})
          return swapped as Loaded
        },
        () => this.swapModel(model, before)
      )
    )
  }

  unloadModel(model: string | { model: string }): Promise<void> {
    return this.#open('unloadModel', async () => {
      const { model: id } = validated(modelSchema, typeof model === 'string' ? { model } : model, 'unloadModel')
      this.#parts.history.forget(id)
      await this.#parts.calls.all('unloadModel', [id])
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
      const args = [model, request, timeoutMs === undefined ? {} : { timeoutMs }]
      return this.#noted<Expansion>('expand', model, args, { ...(signal && { signal }) })
    })
  }

  swapExperts(model: string, changes: readonly ExpertChange[]): Promise<ExpertSwap> {
    return this.#open('swapExperts', () => {
      this.#checkAlone('swapExperts')
      return this.#noted<ExpertSwap>('swapExperts', model, [model, changes])
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
    return this.#mirror.models.map(({ info }) => {
      const same = mirrors.flatMap(({ models }) => models.filter((model) => model.info.id === info.id))
      return { ...info, activeSequences: same.reduce((sum, model) => sum + model.info.activeSequences, 0) }
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
    return this.#open('freeze', async () => {
      const checked = validated(freezeSchema, options, 'freeze')
      const { state, calls } = this.#parts
      const before = state.frozen
      const own = { retryAfterSeconds: checked.retryAfterSeconds ?? defaultRetryAfter, options: checked }
      state.frozen = own
      try {
        await calls.all('freeze', [checked])
      } catch (error) {
        if (state.frozen === own) state.frozen = before
        throw error
      }
    })
  }

  thaw(): Promise<void> {
    return this.#open('thaw', async () => {
      await this.#parts.calls.all('thaw', [])
      this.#parts.state.frozen = undefined
    })
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
      if (this.#ending && drainMs === 0) this.#disposeWorkers(0)
      const end = () => this.#end(drainMs, reason)
      this.#ending ??= this.#parts.keepAlive.during(end).finally(() => this.#ignoreSignals?.())
    } catch (error) {
      throw this.#tell(error, 'dispose')
    }
    return this.#ending
  }

  async #end(drainMs: number, reason: string): Promise<void> {
    const { state, pool, telemetry, folder } = this.#parts
    state.end('draining', reason)
    await Promise.all(this.#disposeWorkers(drainMs))
    await Promise.all(pool.workers.map((worker) => worker.stop(disposedError('generation'))))
    await folder?.remove()
    state.end('closed', 'everything is released')
    await telemetry.close()
  }

  /** A worker that dies meanwhile, or is not there, has nothing left to dispose of. */
  #disposeWorkers(drainMs: number): Promise<unknown>[] {
    const ready = this.#parts.pool.workers.filter(({ state }) => state === 'ready')
    return ready.map((worker) => worker.call('engine.dispose', [{ drainMs }]).catch(() => {}))
  }

  /** A method that a new worker is told again. */
  async #noted<Result>(method: WorkerMethod, model: string, args: unknown[], call: RemoteCall = {}): Promise<Result> {
    return this.#open(method, async () => {
      const result = await this.#parts.calls.all(method, args, call)
      this.#parts.history.note(method, model, ...args)
      return result as Result
    })
  }

  /** A call that any worker can answer. */
  #single<Result>(method: WorkerMethod, request: unknown, options?: CallOptions): Promise<Result> {
    return this.#open(method, async () => {
      if (options === undefined) return (await this.#parts.calls.any(method, [request])) as Result
      this.#checkThawed(method)
      const { signal, timeoutMs } = checkCall(method, options)
      const args = [request, timeoutMs === undefined ? {} : { timeoutMs }]
      return (await this.#parts.calls.any(method, args, { ...(signal && { signal }) })) as Result
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

  #loaded(method: string, model: string): Mirror['models'][number] {
    this.#checkOpen(method)
    const { model: id } = validated(modelSchema, { model }, method)
    const found = this.#mirror.models.find(({ info }) => info.id === id)
    if (found) return found
    const loaded = this.#mirror.models.map(({ info }) => info.id)
    throw notLoadedError(id, 'is not loaded', loaded)
  }

  get #mirror(): Mirror {
    return this.#parts.state.mirror
  }

  #mirrors(): Mirror[] {
    return this.#parts.pool.workers.flatMap(({ mirror }) => mirror ?? [])
  }
}
