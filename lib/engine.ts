/** The engine's public face: checks what it is given, and hands it to the pieces in engine/. */
import { boot } from './engine/boot.js'
import { ModelLoad } from './engine/loading.js'
import type { EngineOptions, ForwardRequest, LoadModelOptions, LoadModelRequest } from './engine/options.js'
import {
  detokenizeSchema,
  forwardSchema,
  loadCallSchema,
  loadSchema,
  modelSchema,
  tokenizeSchema
} from './engine/options.js'
import type { EngineParts } from './engine/parts.js'
import { checkOpen, disposedError } from './engine/parts.js'
import { Recovery } from './engine/recovery.js'
import { shutDown } from './engine/shutdown.js'
import { createError } from './errors/index.js'
import type { FinishReason, Usage } from './generation/generation.js'
import type { Generator } from './generation/generator.js'
import type { CallOptions, GenerationRequest } from './generation/options.js'
import { checkCall, checkRequest, copyTokens } from './generation/options.js'
import type { RoutingCapture } from './generation/routing.js'
import { joinCaptures } from './generation/routing.js'
import type { EngineState } from './lifecycle.js'
import type { ForwardResult, ModelInfo } from './loaded-model.js'
import { locateModel } from './model/embedded.js'
import type { ModelDescriptor } from './model/index.js'
import type { Counters, Isa } from './native.js'
import { packageRoot } from './native.js'
import { validated } from './validation.js'

/** The whole text of a generation. */
export interface GenerationResult {
  text: string
  tokens: number[]
  finishReason: FinishReason
  usage: Usage
  seed: number
  requestId: string
  /** With `captureRouting` only: the experts of every position that was computed. */
  routing?: RoutingCapture
}

/** How the engine computes. */
export interface BackendInfo {
  name: 'cpu'
  isa: Isa
  threads: number
  /** The instruction set that each kernel resolved to. */
  kernels: Record<string, Isa>
}

/** Made by createEngine. Every method throws (or rejects with) an EngineError: VALIDATION_ERROR, ENGINE_DISPOSED, and those it names. */
export class Engine implements AsyncDisposable {
  readonly #parts: EngineParts
  readonly #recovery: Recovery
  #disposal: Promise<void> | undefined

  /** @internal Use createEngine. */
  constructor(parts: EngineParts) {
    this.#parts = parts
    this.#recovery = new Recovery(parts)
  }

  get state(): EngineState {
    return this.#parts.lifecycle.state
  }

  get backend(): BackendInfo {
    checkOpen(this.#parts, 'backend')
    const { backend } = this.#parts
    return { name: 'cpu', isa: backend.isa, threads: backend.threads, kernels: backend.kernels() }
  }

  /** What the addon holds now, in this process. */
  counters(): Counters {
    return this.#parts.addon.counters()
  }

  /**
   * Loads a model; weights are read and repacked on all threads. MODEL_NOT_FOUND, MODEL_ALREADY_LOADED, MODEL_FILE_INVALID and the
   * other codes of bad files, RESOURCE_MEMORY_EXHAUSTED {resourceInfo, alternatives}, CANCELLED, MODEL_LOAD_TIMEOUT.
   */
  async loadModel(
    request: LoadModelRequest = {},
    options: LoadModelOptions = {}
  ): Promise<{ id: string; descriptor: ModelDescriptor & { id: string } }> {
    checkOpen(this.#parts, 'loadModel')
    const { models, lifecycle } = this.#parts
    const checked = validated(loadSchema, request, 'loadModel')
    const call = validated(loadCallSchema, options, 'loadModel') as LoadModelOptions
    const location = locateModel(packageRoot(), checked.model)
    const id = checked.id ?? location.id
    models.checkFree(id)
    const load = new ModelLoad(this.#parts, id, location.path, checked, call, (error) => this.#recovery.begin(error))
    models.beginLoad(id, load)
    try {
      const model = await load.done
      if (!lifecycle.serving && lifecycle.state !== 'recovering') {
        await model.close(() => disposedError('loadModel'))
        throw disposedError('loadModel')
      }
      models.add(id, model)
      if (lifecycle.state === 'warm') lifecycle.to('active', `model ${id} loaded`)
      return { id, descriptor: { id, ...model.info().descriptor } }
    } catch (error) {
      throw load.interruption.explain(error)
    } finally {
      models.endLoad(id)
      load.interruption.end()
    }
  }

  /** Ends the model's generations (they throw MODEL_NOT_LOADED) and frees it. MODEL_NOT_LOADED. */
  async unloadModel(model: string | { model: string }): Promise<void> {
    checkOpen(this.#parts, 'unloadModel')
    const { models } = this.#parts
    const { model: id } = validated(modelSchema, typeof model === 'string' ? { model } : model, 'unloadModel')
    await models.take(id).close(() => models.notLoaded(id, 'was unloaded'))
  }

  /** The loaded models. */
  listModels(): ModelInfo[] {
    return this.#parts.models.all().map((model) => model.info())
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
    checkOpen(this.#parts, 'tokenize')
    const { model, text, addSpecial, parseSpecial } = validated(tokenizeSchema, request, 'tokenize')
    return { tokens: this.#parts.models.get(model).tokenizer.encode(text, { addSpecial, parseSpecial }) }
  }

  /** Token ids to text; with `special`, control tokens are shown. MODEL_NOT_LOADED. */
  async detokenize(request: {
    model: string
    tokens: readonly number[] | Int32Array | Uint32Array
    special?: boolean
  }): Promise<{ text: string }> {
    checkOpen(this.#parts, 'detokenize')
    const { model, tokens, special } = validated(detokenizeSchema, request, 'detokenize')
    return { text: this.#parts.models.get(model).tokenizer.decode(tokens, { special }) }
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
    const routes: RoutingCapture[] = []
    for await (const item of this.#createGenerator('generate', request, options)) {
      text += item.text
      if (item.routing) routes.push(item.routing)
      if (item.finishReason === undefined) tokens.push(item.token)
      else {
        const { finishReason, usage, seed, requestId } = item
        const routing = routes.length > 0 && { routing: joinCaptures(routes) }
        return { text, tokens, finishReason, usage, seed, requestId, ...routing }
      }
    }
    throw createError('RUNTIME_INVARIANT_VIOLATED', 'a generation ended without its last item', { method: 'generate' })
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
    checkOpen(this.#parts, 'forward')
    const { model, tokens, ...rest } = validated(forwardSchema, request, 'forward')
    const loaded = this.#parts.models.get(model)
    const result = await loaded.forward(copyTokens(tokens), rest, checkCall('forward', options))
    return rest.captureRouting ? result : result.logits
  }

  /** Ends what runs (generations and loads throw ENGINE_DISPOSED), waits for it, and releases everything. May be called again. */
  dispose(): Promise<void> {
    this.#disposal ??= shutDown(this.#parts, this.#recovery)
    return this.#disposal
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }

  #createGenerator(method: string, request: GenerationRequest, options: CallOptions): Generator {
    checkOpen(this.#parts, method)
    const checked = checkRequest(method, request)
    const call = checkCall(method, options)
    return this.#parts.models.get(checked.model).createGenerator(method, checked, call)
  }
}

/**
 * Starts an engine: its threads, on the instruction set asked for. VALIDATION_ERROR, BACKEND_UNAVAILABLE {backend, available},
 * ISA_UNSUPPORTED {isa, available}, ADDON_UNAVAILABLE {tried}, RESOURCE_MEMORY_EXHAUSTED.
 */
export async function createEngine(options: EngineOptions = {}): Promise<Engine> {
  return new Engine(await boot(options))
}
