/** Loads one model, phase by phase: from a path to a LoadedModel, or to nothing held and a typed error. */

import { Archive } from '../archive/archive.js'
import { ExpertArchive } from '../archive/expert-archive.js'
import { archiveSchema } from '../archive/options.js'
import type { ExpertMemory } from '../expert-budget.js'
import { planExperts } from '../expert-budget.js'
import type { CallOptions } from '../generation/options.js'
import { Interruption } from '../interruption.js'
import { LoadedModel } from '../loaded-model.js'
import { isRouterRole, type Plan, type PlanTensor } from '../model/plan.js'
import { createTokenizer } from '../model/tokenizer.js'
import type { ExpertOptions, LoadProgress, NativeCancel, NativeModel } from '../native.js'
import { planBesidePrefixes, prefixRequest } from '../prefix-cache.js'
import { configureTiers } from '../tiers/configured.js'
import { describeTiers } from '../tiers/describe.js'
import type { ModelTiers } from '../tiers/model-tiers.js'
import { guardMemory, hostExperts } from '../tiers/pressure-guard.js'
import { TierSelection } from '../tiers/selection.js'
import type { FirstPlacement } from '../tiers/steering.js'
import { placeFirst, Steering } from '../tiers/steering.js'
import { TierFiles } from '../tiers/tier-files.js'
import { TierSets } from '../tiers/tier-sets.js'
import { byteSize, validationError } from '../validation.js'
import { tellArchive } from './archive-events.js'
import { journalLoad } from './journal-load.js'
import type { LoadIdentity } from './model-identity.js'
import { identifyLoad } from './model-identity.js'
import type { OpenModel } from './open-model.js'
import { openModel } from './open-model.js'
import { openVersions } from './open-versions.js'
import type { CheckedLoad, LoadModelOptions } from './options.js'
import { planOwnMemory, refusedMemory, warmMemory } from './own-memory.js'
import type { EngineParts } from './parts.js'
import { checkThawed } from './parts.js'
import type { LoadPhase, PhaseEvent } from './phases.js'
import { Phases, reportPhases } from './phases.js'
import type { Recovery } from './recovery.js'
import { textOf } from './routing-seed.js'
import { stuckStep } from './stuck-step.js'
import { requestDeadlines } from './timeouts.js'

/** Without a contextLength, a model is loaded when at least this much context fits in memory beside it. */
const leastContext = 4096
/** Threads that read experts: enough for a disk to have several reads in flight. */
const ioThreads = 4
/** 64 MiB: 100,000 steps of one token, 16 layers and 8 experts in each. */
const mostTraceWords = 2 ** 24

/** One load, from its first phase to its last. */
export class ModelLoad {
  readonly interruption: Interruption
  /** Rejects with what the load failed with; `interruption.explain` makes the caller's error of it. */
  readonly done: Promise<LoadedModel>
  readonly #parts: EngineParts
  readonly #id: string
  /** Under which name its memory is reserved. */
  readonly #holder: string
  readonly #request: CheckedLoad
  readonly #cancel: NativeCancel
  /** What the load failed with, once it holds nothing any more and its memory was planned. */
  #explained = (error: unknown): unknown => error
  #identity: LoadIdentity | undefined

  constructor(
    parts: EngineParts,
    id: string,
    path: string,
    request: CheckedLoad,
    { onProgress, ...call }: LoadModelOptions,
    recovery: Recovery,
    holder = id
  ) {
    this.#parts = parts
    this.#id = id
    this.#holder = holder
    this.#request = request
    this.#cancel = parts.addon.createCancel()
    this.interruption = new Interruption(
      this.#cancel,
      'loadModel',
      `loading ${id}`,
      'MODEL_LOAD_TIMEOUT',
      call as CallOptions
    )
    this.done = this.#load(path, onProgress, recovery)
  }

  /** Of a load that is done, where the model may have to be loaded again: there is a journal, or a device that can be lost. */
  get identity(): LoadIdentity | undefined {
    return this.#identity
  }

  async #load(path: string, onProgress: LoadModelOptions['onProgress'], recovery: Recovery): Promise<LoadedModel> {
    const { addon, options, backend, ledger, requests, telemetry } = this.#parts
    const { tracing, metrics } = telemetry
    const model = this.#id
    const span = tracing.span('tiered_moe.load', { 'tiered_moe.model': model })
    const tell = reportPhases('load_phase', telemetry, options.onPhase)
    const report = (event: PhaseEvent): void => {
      const { phase, durationMs } = event
      if (durationMs !== undefined) metrics.loadSeconds.set(durationMs / 1000, { model, phase })
      tell(event)
    }
    const phases = new Phases(report, () => this.interruption.check(), model, span)
    let opened: OpenModel | undefined
    let archive: Archive | undefined
    let weights: NativeModel | undefined
    try {
      const { open, tokenizer, tiers, contextLength, memory, warmBytes } = await phases.run('manifest', async () => {
        const open = await openModel(addon, path, this.#cancel, {
          verify: this.#request.verifyOnLoad,
          archive: this.#request.archive?.url !== undefined,
          tierFolders: this.#request.tierFolders,
          quantize: this.#request.quantize
        })
        opened = open
        archive = await this.#openArchive(open)
        this.interruption.check()
        const given = this.#request.tiers
        if (given !== undefined) open.tiers = await configureTiers(given, open)
        const tiers = describeTiers(open.description, open.tiers, open.checkpoint?.leftOut)
        const tokenizer = createTokenizer(open.file.metadata, this.#request.chatTemplate)
        tokenizer.prepare()
        return {
          open,
          tokenizer,
          tiers,
          ...this.#fit(open)
        }
      })
      const { description } = open
      const { tierSet = 'max', latencyBudgetMs, tierSets } = this.#request
      const sets = new TierSets(tiers, (enabled) => weights!.checkEnabled(enabled), tierSets)
      const first = placeFirst(tiers, memory, this.#parts.backend.threads, sets.tiersOf(tierSet))
      const experts = this.#expertOptions(open, memory, warmBytes, first)
      const native = await this.#loadWeights(open, experts, memory.prefixCache, phases, onProgress)
      weights = native
      const selection = new TierSelection(tiers, sets, latencyBudgetMs === undefined ? tierSet : { latencyBudgetMs })
      const steering = first && new Steering(native, first, (experts) => this.#tellUnpinned(experts))
      if (latencyBudgetMs !== undefined) await steering?.activate(selection.active.tiers)
      const files = tierFiles(open, tiers, native, first !== undefined)
      const { kvType } = this.#request
      if (native.warmUp) {
        await phases.run('warm-up', () => native.warmUp?.(kvType, (done, count) => phases.progress(done, count)))
      }
      // The last step that an abort can end: what the journal has been told of stays loaded.
      phases.skip('optimizer', 'inference')
      const seed = textOf(this.#seed(description.plan))
      const swaps = openVersions(this.#parts, { id: model, path }, open, native)
      if (ledger.journal || backend.reopen) {
        this.#identity = await identifyLoad(path, open.tiers, this.#request.quantize)
        const load = { id: model, path, contextLength, routingSeed: seed, ...this.#identity }
        await journalLoad(ledger, this.#request, load, swaps.versions)
      }
      span.set({ 'tiered_moe.weight_bytes': native.weightBytes })
      span.end()
      metrics.loads.add(1, { outcome: 'loaded' })
      metrics.weightBytes.set(native.weightBytes, { model })
      return new LoadedModel({
        id: model,
        addon,
        native,
        tokenizer,
        descriptor: description.descriptor,
        vocab: description.plan.vocab,
        contextLength,
        memory,
        kvType: this.#request.kvType,
        maxBatchTokens: options.maxBatchTokens,
        onFatal: (error) => recovery.begin(error),
        stuck: stuckStep(this.#parts, model, native, recovery),
        deadlines: { ...requestDeadlines(options.timeouts), onOverdue: (work) => recovery.watch(work) },
        admit: (method) => checkThawed(this.#parts, method),
        observe: (request) => requests.begin(request),
        selection,
        steering,
        files,
        swaps,
        stopGuard: this.#guard(model, native, memory, warmBytes),
        starvation: this.#request.starvation,
        archive: archive && new ExpertArchive(archive, native, open.checkpoint!.manifest, open.checkpoint!.absent),
        tell: (event, message, fields) => telemetry.event(event, message, { model, ...fields }),
        openLog: (...request) => ledger.open(...request)
      })
    } catch (thrown) {
      await archive?.close()
      await weights?.dispose()
      // Only now is it another's.
      this.#parts.reserve.giveBack(this.#holder)
      const error = this.#explained(thrown)
      phases.fail(error)
      span.end(error)
      metrics.loads.add(1, { outcome: 'failed' })
      throw error
    } finally {
      opened?.file.close()
    }
  }

  /** The archive of a checkpoint whose files are not all here. VALIDATION_ERROR for another kind of model, the errors of Archive.open. */
  async #openArchive({ checkpoint }: OpenModel): Promise<Archive | undefined> {
    const asked = this.#request.archive
    const url = asked?.url ?? checkpoint?.manifest.archive?.url
    if (url === undefined) return undefined
    if (!checkpoint) throw validationError('loadModel', 'archive', url, 'only with a tiered checkpoint')
    if (checkpoint.absent.length === 0) return undefined
    const { telemetry } = this.#parts
    const model = this.#id
    return Archive.open(
      { ...(asked ?? archiveSchema.parse({})), url },
      { onEvent: (event) => tellArchive(telemetry, model, event) }
    )
  }

  /** One native call reads all tensors, in the order of the phases: which one it has reached follows from its progress. */
  async #loadWeights(
    { file, description: { plan } }: OpenModel,
    experts: ExpertOptions | undefined,
    prefixCacheBytes: number,
    phases: Phases,
    onProgress: LoadModelOptions['onProgress']
  ): Promise<NativeModel> {
    const { backend, options } = this.#parts
    const tensors = [...plan.tensors].sort((a, b) => phaseOrder(a) - phaseOrder(b))
    const words = this.#seed(plan)
    phases.begin('base-parameters')
    const count = (phase: LoadPhase): number => tensors.filter((tensor) => phaseOf(tensor) === phase).length
    const [base, routers] = [count('base-parameters'), count('routers')]
    const listener = guardProgress((progress) => {
      // Under a budget, experts are counted one by one instead of by tensor.
      const next = progress.index + 1
      if (next >= progress.count - routers) phases.advance('routers')
      else if (next >= base) phases.advance('experts')
      onProgress?.(progress)
    }, this.#cancel)
    let native: NativeModel | undefined
    try {
      native = await backend.loadModel(
        file,
        { ...plan, tensors, routingSeed: words },
        {
          maxBatchTokens: options.maxBatchTokens,
          prefixCacheBytes,
          onProgress: listener.call,
          ...(experts && { experts })
        },
        this.#cancel
      )
      // The last progress event or an abort may have come after the last tensor.
      if (listener.failure() !== undefined) throw listener.failure()
      this.interruption.check()
      phases.advance('routers')
      phases.end()
      return native
    } catch (error) {
      await native?.dispose()
      throw listener.failure() ?? error
    }
  }

  /** Watches the machine's memory for a model that can give some back: experts under a budget, and cached prefixes. */
  #guard(model: string, native: NativeModel, { experts }: ExpertMemory, warmBytes: number): (() => void) | undefined {
    const { backend, telemetry } = this.#parts
    if (this.#request.memoryPressure === 'ignore') return undefined
    const kept = backend.memory
      ? // No thread computes with what is beside a device's memory.
        { native: hostExperts(native), experts: { ...experts, budget: warmBytes, certain: warmBytes }, workers: 1 }
      : { native, experts, workers: backend.threads }
    return guardMemory({
      ...kept,
      onChange: ({ budget, previous, reason }) =>
        telemetry.event('expert_budget_changed', `experts of ${model} may take ${budget} bytes, ${previous} before`, {
          model,
          budget,
          previous,
          reason
        })
    })
  }

  #tellUnpinned(experts: number): void {
    const model = this.#id
    const text = `${experts} experts of hot tiers of ${model} are not pinned: they do not fit, or are beyond their tier's budget`
    this.#parts.telemetry.event('hot_experts_unpinned', text, { model, experts })
  }

  #seed(plan: Plan): Plan['routingSeed'] {
    const { source, words } = this.#parts.routingSeed
    return source === 'default' ? plan.routingSeed : words
  }

  /**
   * The context and the memory to load with, and of a backend with memory of its own the bytes of experts in host memory. VALIDATION_ERROR
   * beyond what the model supports, RESOURCE_BUDGET_TOO_SMALL, RESOURCE_MEMORY_EXHAUSTED, GPU_VRAM_EXHAUSTED.
   */
  #fit({ tensors, description, blobs }: OpenModel): { contextLength: number; memory: ExpertMemory; warmBytes: number } {
    const { addon, backend, options, reserve, models } = this.#parts
    const { maxBatchTokens, maxContextTokens } = options
    const prefixCache = prefixRequest(this.#request.prefixCache, backend.memory === undefined)
    const { contextLength: supported, plan } = description
    const { contextLength: asked, kvType } = this.#request
    if (asked !== undefined && asked > supported) {
      const allowed = `an integer from 1 to ${supported}, the model's context`
      throw validationError('loadModel', 'contextLength', asked, allowed)
    }
    const contextLength = asked ?? Math.min(supported, maxContextTokens ?? supported)
    const checkedLength = asked ?? Math.min(contextLength, leastContext)
    const given = this.#request.memory === undefined ? undefined : byteSize(this.#request.memory)
    const offered = reserve.offer(given)
    const { threads } = backend
    if (backend.memory) {
      if (options.backend === 'cuda' && this.#request.prefetch === 'on')
        throw validationError(
          'loadModel',
          'prefetch',
          'on',
          'off or auto: the backend cuda brings no expert ahead of its route'
        )
      const gpuMemory = this.#request.gpuMemory === undefined ? undefined : byteSize(this.#request.gpuMemory)
      const request = { model: this.#id, kvType, contextLength: checkedLength, maxBatchTokens, memory: gpuMemory }
      const own = backend.memory
      const memory = planOwnMemory(tensors, plan, request, own)
      this.#explained = (error) => refusedMemory(error, memory, tensors, plan, request, own)
      const warmBytes = warmMemory(memory, offered, addon.availableMemory(), threads)
      reserve.take(this.#holder, warmBytes)
      return { contextLength, memory, warmBytes }
    }
    if (this.#request.gpuMemory !== undefined) {
      throw validationError('loadModel', 'gpuMemory', this.#request.gpuMemory, 'only with the backends webgpu and cuda')
    }
    const request = {
      kvType,
      contextLength: checkedLength,
      maxBatchTokens,
      threads,
      readers: blobs ? 0 : ioThreads,
      memory: offered,
      prefixCache,
      stepBytes: (batch: number, threads: number) => addon.stepBytes(plan, batch, threads)
    }
    const planned = (available: number) => planExperts(tensors, plan, request, available)
    const memory = planBesidePrefixes(planned, () => addon.availableMemory(), models.serving())
    reserve.take(this.#holder, memory.memory)
    return { contextLength, memory, warmBytes: 0 }
  }

  /** Undefined where every expert of a single file stays in host memory. */
  #expertOptions(
    { description, blobs }: OpenModel,
    memory: ExpertMemory,
    warmBytes: number,
    first: FirstPlacement | undefined
  ): ExpertOptions | undefined {
    const { kept, experts, keyValuesBeside } = memory
    const own = this.#parts.backend.memory !== undefined
    if (kept === 'all' && !blobs && !own) return undefined
    const { cachePolicy: policy, prefetch, scrub, recordTrace } = this.#request
    // What the KV cache may need is not lent to experts: slots that make room do not come back.
    const { memory: whole, base, arena, keyValues } = memory
    const certain = Math.floor(whole - base - arena - keyValues)
    const hot = kept === 'budget' && { gpuBudgetBytes: certain, gpuParts: { whole, keyValues } }
    return {
      ...(own ? { budgetBytes: warmBytes, ...hot } : { budgetBytes: experts.budget }),
      kvReserveBytes: Math.min(keyValuesBeside, 2 ** 52),
      policy,
      prefetch,
      scrub,
      seed: this.#seed(description.plan)[0]!,
      traceWords: recordTrace ? mostTraceWords : 0,
      ioThreads,
      ...(first && { placement: first.map }),
      ...(blobs && { blobs })
    }
  }
}

/** Of a checkpoint. `competing`: not every expert has memory of its own. */
function tierFiles(
  { checkpoint }: OpenModel,
  tiers: ModelTiers,
  native: NativeModel,
  competing: boolean
): TierFiles | undefined {
  if (!checkpoint) return undefined
  const archived = checkpoint.absent.flatMap(({ tier }) => (tier === undefined ? [] : [tier]))
  return new TierFiles(checkpoint.manifest, tiers, native, archived, competing)
}

const phaseOf = ({ role }: PlanTensor): LoadPhase =>
  role === 'experts' ? 'experts' : isRouterRole(role) ? 'routers' : 'base-parameters'
const phaseOrder = (tensor: PlanTensor): number => ['base-parameters', 'experts', 'routers'].indexOf(phaseOf(tensor))

/** A progress listener of the caller's that ends the load when it throws. */
function guardProgress(onProgress: NonNullable<LoadModelOptions['onProgress']>, cancel: NativeCancel) {
  let failure: unknown
  return {
    failure: () => failure,
    call: (progress: LoadProgress): void => {
      if (failure !== undefined) return
      try {
        onProgress(progress)
      } catch (error) {
        failure = error
        cancel.cancel()
      }
    }
  }
}
