/** The engine: loads models, generates with them, and releases everything. */
import { availableParallelism } from 'node:os'
import type { z } from 'zod'
import type { EngineOptions, LoadModelOptions, LoadModelRequest } from './engine-options.js'
import {
  detokenizeSchema,
  engineSchema,
  forwardSchema,
  loadCallSchema,
  loadSchema,
  modelSchema,
  tokenizeSchema
} from './engine-options.js'
import type { EngineError } from './errors/index.js'
import { createError } from './errors/index.js'
import type { FinishReason, Usage } from './generation/generation.js'
import type { Generator } from './generation/generator.js'
import type { CallOptions, GenerationRequest } from './generation/options.js'
import { checkCall, checkRequest, copyTokens } from './generation/options.js'
import { Interruption } from './interruption.js'
import type { EngineState } from './lifecycle.js'
import { Lifecycle } from './lifecycle.js'
import type { ModelInfo } from './loaded-model.js'
import { LoadedModel } from './loaded-model.js'
import { checkMemory } from './memory-plan.js'
import { locateModel } from './model/embedded.js'
import type { ModelDescription, ModelDescriptor } from './model/index.js'
import { readModel } from './model/index.js'
import { createTokenizer } from './model/tokenizer.js'
import type { Counters, Isa, NativeAddon, NativeBackend, NativeCancel, NativeGguf } from './native.js'
import { native, packageRoot } from './native.js'
import { validated, validationError } from './validation.js'

/** Without a contextLength, a model is loaded when at least this much context fits in memory beside it. */
const leastContext = 4096

/** The whole text of a generation. */
export interface GenerationResult {
  text: string
  tokens: number[]
  finishReason: FinishReason
  usage: Usage
  seed: number
  requestId: string
}

/** How the engine computes. */
export interface BackendInfo {
  name: 'cpu'
  isa: Isa
  threads: number
  /** The instruction set that each kernel resolved to. */
  kernels: Record<string, Isa>
}

type CheckedOptions = z.output<typeof engineSchema>
type CheckedLoad = z.output<typeof loadSchema>

/** Made by createEngine. Every method throws (or rejects with) an EngineError: VALIDATION_ERROR, ENGINE_DISPOSED, and those it names. */
export class Engine implements AsyncDisposable {
  readonly #options: CheckedOptions
  readonly #lifecycle: Lifecycle
  readonly #addon: NativeAddon
  readonly #backend: NativeBackend
  readonly #models = new Map<string, LoadedModel>()
  readonly #loads = new Map<string, { interruption: Interruption; done: Promise<unknown> }>()
  #recovery: Promise<void> | undefined
  #disposal: Promise<void> | undefined

  /** @internal Use createEngine. */
  constructor(options: CheckedOptions) {
    this.#options = options
    this.#lifecycle = new Lifecycle(options.onTransition)
    this.#addon = native()
    this.#backend = this.#addon.createBackend({ threads: options.threads ?? availableParallelism(), isa: options.isa })
    this.#lifecycle.to('warm', 'backend ready')
  }

  get state(): EngineState {
    return this.#lifecycle.state
  }

  get backend(): BackendInfo {
    this.#gate('backend')
    const { isa, threads } = this.#backend
    return { name: 'cpu', isa, threads, kernels: this.#backend.kernels() }
  }

  /** What the addon holds now, in this process. */
  counters(): Counters {
    return this.#addon.counters()
  }

  /**
   * Loads a model; weights are read and repacked on all threads. MODEL_NOT_FOUND, MODEL_ALREADY_LOADED, MODEL_FILE_INVALID and the
   * other codes of bad files, RESOURCE_MEMORY_EXHAUSTED {resourceInfo, alternatives}, CANCELLED, MODEL_LOAD_TIMEOUT.
   */
  async loadModel(
    request: LoadModelRequest = {},
    options: LoadModelOptions = {}
  ): Promise<{ id: string; descriptor: ModelDescriptor & { id: string } }> {
    this.#gate('loadModel')
    const checked = validated(loadSchema, request, 'loadModel')
    const { onProgress, ...call } = validated(loadCallSchema, options, 'loadModel')
    const location = locateModel(packageRoot(), checked.model)
    const { path } = location
    const id = checked.id ?? location.id
    if (this.#models.has(id) || this.#loads.has(id)) {
      const doing = this.#models.has(id) ? 'is loaded already' : 'is being loaded'
      throw createError('MODEL_ALREADY_LOADED', `a model with the id ${id} ${doing}`, {
        model: id,
        loaded: this.#ids()
      })
    }
    const cancel = this.#addon.createCancel()
    const interruption = new Interruption(
      cancel,
      'loadModel',
      `loading ${id}`,
      'MODEL_LOAD_TIMEOUT',
      call as CallOptions
    )
    const done = this.#load(id, path, checked, interruption, cancel, onProgress)
    this.#loads.set(id, { interruption, done })
    try {
      const model = await done
      if (!this.#lifecycle.serving && this.#lifecycle.state !== 'recovering') {
        await model.close(() => this.#disposedError('loadModel'))
        throw this.#disposedError('loadModel')
      }
      this.#models.set(id, model)
      if (this.#lifecycle.state === 'warm') this.#lifecycle.to('active', `model ${id} loaded`)
      return { id, descriptor: { id, ...model.info().descriptor } }
    } catch (error) {
      throw interruption.explain(error)
    } finally {
      this.#loads.delete(id)
      interruption.end()
    }
  }

  /** Ends the model's generations (they throw MODEL_NOT_LOADED) and frees it. MODEL_NOT_LOADED. */
  async unloadModel(model: string | { model: string }): Promise<void> {
    this.#gate('unloadModel')
    const { model: id } = validated(modelSchema, typeof model === 'string' ? { model } : model, 'unloadModel')
    const loaded = this.#model(id)
    this.#models.delete(id)
    await loaded.close(() => this.#notLoaded(id, 'was unloaded'))
  }

  /** The loaded models. */
  listModels(): ModelInfo[] {
    return [...this.#models.values()].map((model) => model.info())
  }

  /** Text to token ids. MODEL_NOT_LOADED, TOKENIZER_UNSUPPORTED. */
  async tokenize(request: {
    model: string
    text: string
    /** Add the tokens that the model wants at the beginning. Default true. */
    addSpecial?: boolean
    /** Recognise special tokens written in the text. Default false. */
    parseSpecial?: boolean
  }): Promise<{ tokens: number[] }> {
    this.#gate('tokenize')
    const { model, text, addSpecial, parseSpecial } = validated(tokenizeSchema, request, 'tokenize')
    return { tokens: this.#model(model).tokenizer.encode(text, { addSpecial, parseSpecial }) }
  }

  /** Token ids to text; with `special`, control tokens are shown. MODEL_NOT_LOADED. */
  async detokenize(request: {
    model: string
    tokens: readonly number[] | Int32Array | Uint32Array
    special?: boolean
  }): Promise<{ text: string }> {
    this.#gate('detokenize')
    const { model, tokens, special } = validated(detokenizeSchema, request, 'detokenize')
    return { text: this.#model(model).tokenizer.decode(tokens, { special }) }
  }

  /**
   * Begins a generation: an async iterator of tokens whose last item has finishReason and usage. Nothing is computed before the first
   * next(), and never more than one token ahead of the consumer; leaving the loop frees the sequence. Throws at once
   * MODEL_NOT_LOADED, CONTEXT_LENGTH_EXCEEDED, TOKENIZER_UNSUPPORTED, CHAT_TEMPLATE_INVALID; the iterator throws what Generator names.
   */
  createGenerator(request: GenerationRequest, options: CallOptions = {}): Generator {
    return this.#createGenerator('createGenerator', request, options)
  }

  /** The whole text of a generation. Errors as createGenerator and its iterator. */
  async generate(request: GenerationRequest, options: CallOptions = {}): Promise<GenerationResult> {
    let text = ''
    const tokens: number[] = []
    for await (const item of this.#createGenerator('generate', request, options)) {
      text += item.text
      if (item.finishReason === undefined) tokens.push(item.token)
      else {
        const { finishReason, usage, seed, requestId } = item
        return { text, tokens, finishReason, usage, seed, requestId }
      }
    }
    throw createError('RUNTIME_INVARIANT_VIOLATED', 'a generation ended without its last item', { method: 'generate' })
  }

  /**
   * Logits of given tokens, from position 0: Float32Array [vocab] of the last position, or [tokens, vocab] of all. MODEL_NOT_LOADED,
   * CONTEXT_LENGTH_EXCEEDED, RESOURCE_MEMORY_EXHAUSTED, RUNTIME_NAN_DETECTED, CANCELLED, INFERENCE_TIMEOUT.
   */
  async forward(
    request: { model: string; tokens: readonly number[] | Int32Array | Uint32Array; logits?: 'last' | 'all' },
    options: CallOptions = {}
  ): Promise<Float32Array> {
    this.#gate('forward')
    const { model, tokens, logits } = validated(forwardSchema, request, 'forward')
    return this.#model(model).forward(copyTokens(tokens), logits, checkCall('forward', options))
  }

  /** Ends what runs (generations and loads throw ENGINE_DISPOSED), waits for it, and releases everything. May be called again. */
  dispose(): Promise<void> {
    this.#disposal ??= this.#dispose()
    return this.#disposal
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  #createGenerator(method: string, request: GenerationRequest, options: CallOptions): Generator {
    this.#gate(method)
    const checked = checkRequest(method, request)
    const call = checkCall(method, options)
    return this.#model(checked.model).createGenerator(method, checked, call)
  }

  /** The gate of every method: no new work once the engine drains. */
  #gate(method: string): void {
    const { state } = this.#lifecycle
    if (state === 'draining' || state === 'closed') throw this.#disposedError(method)
  }

  #disposedError(method: string): EngineError {
    return createError('ENGINE_DISPOSED', `${method}: the engine has been disposed`, { method })
  }

  #ids(): string[] {
    return [...this.#models.keys()]
  }

  #notLoaded(id: string, what: string): EngineError {
    const loaded = this.#ids()
    const list = loaded.length > 0 ? `loaded: ${loaded.join(', ')}` : 'none is loaded'
    return createError('MODEL_NOT_LOADED', `model ${id} ${what}; ${list}`, { model: id, loaded })
  }

  #model(id: string): LoadedModel {
    const model = this.#models.get(id)
    if (!model) throw this.#notLoaded(id, 'is not loaded')
    return model
  }

  async #load(
    id: string,
    path: string,
    request: CheckedLoad,
    interruption: Interruption,
    cancel: NativeCancel,
    onProgress: LoadModelOptions['onProgress']
  ): Promise<LoadedModel> {
    interruption.check()
    const file = await this.#addon.openGguf(path)
    try {
      interruption.check()
      const description = readModel(file)
      const tokenizer = createTokenizer(file.metadata)
      const { maxBatchTokens } = this.#options
      const contextLength = this.#fitContext(file, description, request)
      const listener = guardProgress(onProgress, cancel)
      const loaded = await this.#backend
        .loadModel(file, description.plan, { maxBatchTokens, ...(onProgress && { onProgress: listener.call }) }, cancel)
        .catch((error: unknown) => {
          throw listener.failure() ?? error
        })
      try {
        // The last progress event or an abort may have come after the last tensor.
        if (listener.failure() !== undefined) throw listener.failure()
        interruption.check()
      } catch (error) {
        await loaded.dispose()
        throw error
      }
      return new LoadedModel({
        id,
        addon: this.#addon,
        native: loaded,
        tokenizer,
        descriptor: description.descriptor,
        vocab: description.plan.vocab,
        contextLength,
        kvType: request.kvType,
        maxBatchTokens,
        onFatal: (error) => this.#recover(error)
      })
    } finally {
      file.close()
    }
  }

  /** The context to load with. VALIDATION_ERROR beyond what the model supports, RESOURCE_MEMORY_EXHAUSTED. */
  #fitContext(file: NativeGguf, description: ModelDescription, request: CheckedLoad): number {
    const { maxBatchTokens, maxContextTokens } = this.#options
    const { contextLength: supported, plan } = description
    const asked = request.contextLength
    if (asked !== undefined && asked > supported) {
      throw validationError(
        'loadModel',
        'contextLength',
        asked,
        `an integer from 1 to ${supported}, the model's context`
      )
    }
    const contextLength = asked ?? Math.min(supported, maxContextTokens ?? supported)
    const checkedLength = asked ?? Math.min(contextLength, leastContext)
    const memory = { kvType: request.kvType, contextLength: checkedLength, maxBatchTokens }
    checkMemory(file.tensors, plan, memory, this.#addon.availableMemory())
    return contextLength
  }

  /** A broken invariant ends what runs; weights never change, so the engine can go on after it. */
  #recover(error: unknown): void {
    if (!this.#lifecycle.serving) return
    const previous = this.#lifecycle.state
    this.#lifecycle.to('recovering', 'a broken invariant')
    this.#recovery = Promise.all([...this.#models.values()].map((model) => model.recover(error))).then(() => {
      this.#recovery = undefined
      this.#lifecycle.to(previous === 'warm' ? 'warm' : 'active', 'recovered')
    })
  }

  async #dispose(): Promise<void> {
    await this.#recovery
    this.#lifecycle.to('draining', 'dispose')
    const loads = [...this.#loads.values()]
    for (const { interruption } of loads) interruption.interrupt(this.#disposedError('loadModel'))
    const models = [...this.#models.values()]
    this.#models.clear()
    await Promise.all(models.map((model) => model.close(() => this.#disposedError('generation'))))
    await Promise.allSettled(loads.map(({ done }) => done))
    this.#backend.dispose()
    this.#lifecycle.to('closed', 'everything is released')
  }
}

/** A progress listener of the caller's that ends the load when it throws. */
function guardProgress(onProgress: LoadModelOptions['onProgress'], cancel: NativeCancel) {
  let failure: unknown
  return {
    failure: () => failure,
    call: (progress: Parameters<NonNullable<typeof onProgress>>[0]): void => {
      if (failure !== undefined) return
      try {
        onProgress?.(progress)
      } catch (error) {
        failure = error
        cancel.cancel()
      }
    }
  }
}

/**
 * Starts an engine: its threads, on the instruction set asked for. VALIDATION_ERROR, BACKEND_UNAVAILABLE {backend, available},
 * ISA_UNSUPPORTED {isa, available}, ADDON_UNAVAILABLE {tried}, RESOURCE_MEMORY_EXHAUSTED.
 */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  const checked = validated(engineSchema, options, 'createEngine')
  if (checked.backend !== 'cpu') {
    throw createError('BACKEND_UNAVAILABLE', `the backend ${checked.backend} is not part of this version`, {
      backend: checked.backend,
      available: ['cpu']
    })
  }
  return new Engine(checked)
}
