/** The engine's public face: what createEngine gives. engine/local-engine.ts is the one of this process. */
import type { BackendInfo } from './engine/backend-info.js'
import type {
  DetokenizeRequest,
  DisposeOptions,
  ForwardRequest,
  TokenBytesRequest,
  TokenizeRequest
} from './engine/calls.js'
import type { ExpandRequest, Expansion } from './engine/expand.js'
import type { FreezeOptions } from './engine/maintenance.js'
import type { LoadModelOptions, LoadModelRequest } from './engine/options.js'
import type { Perplexity, PerplexityRequest } from './engine/perplexity.js'
import type { ResumeRequest } from './engine/resume.js'
import type { SwapModelOptions } from './engine/swap-model.js'
import type { ExpertChange } from './experts/changes.js'
import type { PersistedExpert } from './experts/persist.js'
import type { ExpertSwap } from './experts/swaps.js'
import type { Generator } from './generation/generator.js'
import type { CallOptions, GenerationRequest } from './generation/options.js'
import type { RoutingCapture } from './generation/routing.js'
import type { GenerationResult } from './generation/whole-text.js'
import type { WorkerInfo } from './isolation/worker-info.js'
import type { Recovered } from './journal/index.js'
import type { EngineState } from './lifecycle.js'
import type { ExpertTrace, ModelInfo, ModelStats, TierSetChange } from './loaded-model.js'
import type { ModelDescriptor } from './model/index.js'
import type { Counters } from './native.js'
import type { MetricFamily } from './telemetry/metrics.js'
import type { PlacementView } from './tiers/placement-view.js'
import type { LatencyBudget } from './tiers/selection.js'
import type { Steered } from './tiers/steering.js'

/** Every method throws (or rejects with) an EngineError: VALIDATION_ERROR, ENGINE_DISPOSED, and those it names. */
export interface Engine extends AsyncDisposable {
  /** What the journal held when the engine began: requests that were running or had ended, and models that were loaded. */
  readonly recovered: Recovered

  readonly state: EngineState

  /** The processes that it runs in, with `isolation`; empty where it runs in this one. */
  workers(): WorkerInfo[]

  readonly backend: BackendInfo

  /** What the addon holds now, in this process. */
  counters(): Counters

  /** 32 hexadecimal digits that break ties between experts; they never change. */
  readonly routingSeed: string

  /** Counters, gauges and histograms, as plain data. */
  metrics(): MetricFamily[]

  /**
   * Loads a model; weights are read and repacked on all threads. MODEL_NOT_FOUND, MODEL_ALREADY_LOADED, MODEL_FILE_INVALID and the
   * other codes of bad files, RESOURCE_MEMORY_EXHAUSTED and RESOURCE_BUDGET_TOO_SMALL {resourceInfo, alternatives}, CANCELLED,
   * MODEL_LOAD_TIMEOUT.
   */
  loadModel(
    request?: LoadModelRequest,
    options?: LoadModelOptions
  ): Promise<{ id: string; descriptor: ModelDescriptor & { id: string } }>

  /**
   * Puts another model under the id of a loaded one, while requests go on: it is loaded beside it, then gets all new requests, and those
   * that had begun end on the old one, or after `drainMs` with MODEL_NOT_LOADED and their partial text. Resolves when the old one is freed.
   * MODEL_NOT_LOADED, MODEL_ALREADY_LOADED (being replaced already), and what loadModel throws (RESOURCE_MEMORY_EXHAUSTED where both do not fit);
   * then the old one stays.
   */
  swapModel(
    model: string,
    request: Omit<LoadModelRequest, 'id'>,
    options?: SwapModelOptions
  ): Promise<{ descriptor: ModelDescriptor & { id: string } }>

  /** Ends the model's generations (they throw MODEL_NOT_LOADED) and frees it. MODEL_NOT_LOADED. */
  unloadModel(model: string | { model: string }): Promise<void>

  /**
   * Makes another TierSet the one of later requests that do not say; those under way keep theirs. With {latencyBudgetMs} each of them gets the
   * largest that is predicted to take at most so many milliseconds a token, and the one that is now decides what is kept in memory. MODEL_NOT_LOADED,
   * CONFIG_UNKNOWN_TIER {tier, known, tierSets}, ROUTING_TOO_FEW_EXPERTS {tierSet, layer, enabled, k}.
   */
  activateTierSet(model: string, tierSet: string | readonly string[] | LatencyBudget): Promise<TierSetChange>

  /**
   * Keeps experts in memory whatever their tier (those that starve, for one), or (`pinned: false`) no longer. Where every expert is in memory
   * anyway nothing changes. MODEL_NOT_LOADED, RESOURCE_BUDGET_TOO_SMALL {required, available, slotBytes}; then nothing changes.
   */
  pinExperts(model: string, experts: readonly { layer: number; expert: number }[], pinned?: boolean): Promise<Steered>

  /**
   * Adds tiers to a model that was loaded from a checkpoint without their files, or with these in the archive only, from the folder of another
   * checkpoint of the same model; requests go on, and later ones can use the tiers. The engine is `expanding` until then, then active.
   * LIFECYCLE_INVALID_TRANSITION where it is not active, MODEL_NOT_LOADED, CONFIG_UNKNOWN_TIER, MODEL_NOT_FOUND, CHECKPOINT_INVALID,
   * MODEL_CORRUPTED, CHECKPOINT_MISMATCH {expected, actual}, JOURNAL_WRITE_FAILED, CANCELLED, MODEL_LOAD_TIMEOUT; then nothing changes.
   */
  expand(model: string, request: ExpandRequest, options?: CallOptions): Promise<Expansion>

  /**
   * Gives experts of a model other weights while it serves, all of the list or none. Requests that began before keep what they began with.
   * MODEL_NOT_LOADED, TENSOR_SHAPE_MISMATCH {expected, actual}, TENSOR_TYPE_UNSUPPORTED {type}, MODEL_NOT_FOUND and the other errors of opening a
   * model, EXPERT_UNAVAILABLE, RUNTIME_NAN_DETECTED, RESOURCE_MEMORY_EXHAUSTED, GPU_VRAM_EXHAUSTED, RESOURCE_DISK_EXHAUSTED, FILE_WRITE_FAILED,
   * JOURNAL_WRITE_FAILED.
   */
  swapExperts(model: string, changes: readonly ExpertChange[]): Promise<ExpertSwap>

  /**
   * Writes a model's changed experts into its checkpoint's manifest; dispose() does it too. Empty where there is nothing to write.
   * MODEL_NOT_LOADED, VALIDATION_ERROR of a model that is not a checkpoint, MODEL_CHANGED where the manifest is another one now,
   * JOURNAL_LOCKED, JOURNAL_WRITE_FAILED, FILE_WRITE_FAILED.
   */
  persistExperts(model: string): Promise<PersistedExpert[]>

  /** The loaded models. */
  listModels(): ModelInfo[]

  /** Hits, misses, bytes and residency of a model's experts since its load. MODEL_NOT_LOADED. */
  modelStats(model: string): ModelStats

  /** Where every tier's experts are now, hot, warm, cold or archive, and each expert on demand (docs/placement.md). MODEL_NOT_LOADED. */
  placement(model: string): PlacementView

  /**
   * What was asked of a model's expert cache since its load, as `writeTrace` keeps it and `tiered-moe simulate` replays it (docs/traces.md).
   * MODEL_NOT_LOADED; VALIDATION_ERROR where the model was not loaded with `recordTrace`.
   */
  expertTrace(model: string): ExpertTrace

  /** Text to token ids. MODEL_NOT_LOADED, TOKENIZER_UNSUPPORTED. */
  tokenize(request: TokenizeRequest): Promise<{ tokens: number[] }>

  /** Token ids to text. MODEL_NOT_LOADED. */
  detokenize(request: DetokenizeRequest): Promise<{ text: string }>

  /** The bytes of each token, not always whole characters; none of an id that the vocabulary does not have. MODEL_NOT_LOADED. */
  tokenBytes(request: TokenBytesRequest): Promise<Uint8Array[]>

  /**
   * Begins a generation: an async iterator of tokens whose last item has finishReason and usage. Nothing is computed before the first
   * next(), and never more than one token ahead of the consumer; leaving the loop frees the sequence. Throws at once
   * MODEL_NOT_LOADED, CONTEXT_LENGTH_EXCEEDED, TOKENIZER_UNSUPPORTED, CHAT_TEMPLATE_INVALID, GUIDANCE_SCHEMA_UNSUPPORTED {path, reason,
   * keyword}; the iterator throws what Generator names.
   */
  createGenerator(request: GenerationRequest, options?: CallOptions): Generator

  /**
   * Goes on with a request of the journal, of this engine or of one before it: the items from position `from` on, the same as without
   * an interruption. Its model is loaded again where it is not loaded. Whoever has its iterator now gets CANCELLED. REQUEST_NOT_FOUND,
   * MODEL_CHANGED {expected, actual}, and what loadModel throws.
   */
  resumeGenerator(request: ResumeRequest, options?: CallOptions): Promise<Generator>

  /** Takes a request out of the journal: its client has the text, or wants it no more (then it ends). REQUEST_NOT_FOUND, JOURNAL_WRITE_FAILED. */
  acknowledgeRequest(request: { requestId: string }): Promise<void>

  /** The whole text of a generation. Errors as createGenerator and its iterator. */
  generate(request: GenerationRequest, options?: CallOptions): Promise<GenerationResult>

  /**
   * Logits of given tokens, from position 0: Float32Array [vocab] of the last position, or [tokens, vocab] of all; with
   * `captureRouting` {logits, routing}. ROUTING_INVALID_EXPERT {token, slot, expertId, layer} of a replay, MODEL_NOT_LOADED,
   * CONTEXT_LENGTH_EXCEEDED, RESOURCE_MEMORY_EXHAUSTED, RUNTIME_NAN_DETECTED, CANCELLED, INFERENCE_TIMEOUT.
   */
  forward(
    request: ForwardRequest & { captureRouting: true },
    options?: CallOptions
  ): Promise<{ logits: Float32Array; routing: RoutingCapture }>
  forward(request: ForwardRequest, options?: CallOptions): Promise<Float32Array>

  /**
   * How well the model predicts a text: {perplexity, meanLoss (nats per token), tokens}, over windows that each begin anew. Exactly one of
   * text and tokens. Errors as forward.
   */
  perplexity(request: PerplexityRequest, options?: CallOptions): Promise<Perplexity>

  /**
   * For maintenance: new requests throw ENGINE_FROZEN {retryAfterSeconds} from now on. Resolves when those that had begun have ended, by
   * themselves or, after `drainMs`, with ENGINE_FROZEN and their partial text. LIFECYCLE_INVALID_TRANSITION where it is not active.
   */
  freeze(options?: FreezeOptions): Promise<void>

  /** Ends the maintenance: requests are taken again. LIFECYCLE_INVALID_TRANSITION where the engine is not frozen. */
  thaw(): Promise<void>

  /**
   * Releases everything. Requests that have begun may go on for `drainMs` (default: the engine's own, or 0); what is not done by then
   * throws ENGINE_DISPOSED with its partial text, as do loads at once. Called again with `drainMs: 0`, it ends the draining at once.
   */
  dispose(options?: DisposeOptions): Promise<void>

  /**
   * SIGINT and SIGTERM drain this engine and end the process with 0; a second one ends it at once (130, 143). Until dispose().
   */
  handleSignals(options?: DisposeOptions): void

  /**
   * Of webgpu, after GPU_DEVICE_LOST or GPU_SUBMIT_TIMEOUT: opens the device again and loads the models that were on it, with the TierSets that
   * were active, their pins and swapped experts. Requests under way, and those that come before their model is back, end with GPU_DEVICE_LOST; those
   * of a journal go on with `resumeGenerator`. Loads under way end first, as they do. Throws what createEngine does of a device (the engine is closed
   * then), and the first failure of a load, or MODEL_CHANGED {expected, actual}; the model is not loaded then, and onError gets further failures.
   */
  recover(): Promise<void>
}
