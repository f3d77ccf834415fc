/** A loaded model: its steps, what goes into them and what comes out. */
import type {
  AdoptedExperts,
  CachePolicy,
  ExpertStats,
  HostCounts,
  NativeTrace,
  PlacedVersions,
  Whereabouts
} from './experts.js'
import type { KvType, NativeCancel } from './values.js'

export interface SamplingParams {
  /** 0 = greedy. */
  temperature: number
  /** 0 = off. */
  topK: number
  /** 1 = off. */
  topP: number
  /** 0 = off. */
  minP: number
  /** 1 = off; applies to the tokens of `recent`. */
  repetitionPenalty: number
  seed: number
  /** How many of the most likely tokens to report with their log probabilities, 0 to 20; -1 = no log probability at all. */
  topLogprobs: number
  /** Tokens that the repetition penalty looks back at. */
  recent?: Int32Array
  /** Tokens that may not be chosen (`ignoreEos`). */
  banned?: Int32Array
  /** A bit for each token that may be chosen, the least bit of each word first; tokens beyond may not (`responseFormat`). */
  allowed?: Uint32Array
}

export interface StepItem {
  sequence: NativeSequence
  /** Token ids that follow what the sequence holds. */
  tokens: Int32Array
  /** Which positions' logits to compute. */
  logits: 'none' | 'last' | 'all'
  /** Caller-owned, filled with `vocab` floats per position asked for. */
  logitsOut?: Float32Array
  /** Sample the next token from the last position (needs `logits` other than `none`). */
  sampling?: SamplingParams
  /** Which versions of experts (see placeVersions). Default 0. */
  epoch?: number
  /** The request's TierSet, [layers][experts]: 0 = not to be used. All are, where it is not there. */
  enabled?: Uint8Array
  /** Replay: [tokens][layers][k], taken instead of what the router would choose. ROUTING_INVALID_EXPERT {token, slot, expertId, layer}. */
  forcedIds?: Int32Array
  forcedWeights?: Float32Array
}

/** What routing looks like: layers that route, experts in each, and experts of one token. */
export interface RoutingShape {
  layers: number
  experts: number
  k: number
}

/** Counts of each expert, [layers][experts], since the load. */
export interface ExpertUse {
  steps: number
  /** Tokens that went to it. */
  rows: Float64Array
  /** The step that used it last, counted from 1; 0 = none did. */
  lastStep: Float64Array
}

export interface StepItemResult {
  /** The sampled id, or -1 where no sampling was asked for. */
  token: number
  logprob?: number
  top?: { ids: Int32Array; logprobs: Float32Array }
  /** Set where this sequence alone failed (non-finite values); its tokens are not kept, the others' are. */
  error?: Error
}

export interface StepResult {
  items: StepItemResult[]
  /** Tokens in this step, and per expert layer the number of (token, expert) rows that expertMatmul computed. */
  rows: number
  expertRows: number
}

/** What sequences have to have in common to share the KV cache of a common prefix, beside the model and their KV type. */
export interface PrefixScope {
  /** Only requests with the same one share. */
  salt: string
  /** Of the versions of experts, as StepItem has it. */
  epoch: number
  /** The TierSet, as StepItem has it. */
  enabled?: Uint8Array
}

/** The prefix cache of a model: counts since its load, and what it holds. */
export interface PrefixStats {
  limitBytes: number
  /** Of pages that are in it, and of those among them that no sequence uses now. */
  bytes: number
  idleBytes: number
  /** Requests that looked and took pages over, and that found none. Prompts of less than a page do not look. */
  hits: number
  misses: number
  /** Tokens that were not computed again. */
  reusedTokens: number
  /** Pages given up for others or for their memory. */
  evictions: number
}

/** One sequence's KV cache. */
export interface NativeSequence {
  /** Positions held. */
  readonly length: number
  /** Forgets all positions from `length` on. */
  truncate(length: number): void
  /**
   * Takes over the longest prefix of `tokens` that the model's prefix cache has, in whole pages; not below what the sequence holds, whose tokens
   * are the first of these. Gives its length from then on. Not there, or without an effect: it shares nothing.
   */
  reuse?(tokens: Int32Array): number
  /**
   * Fills caller-owned [count][layers][k] with the routes of positions that it holds: expert ids, best first, and their weights. Nothing
   * where it does not capture them. During a step too.
   */
  copyRoutes(from: number, count: number, ids: Int32Array, weights: Float32Array): void
  dispose(): void
}

/** Weights in the kernels' layout, with the plan that runs them. */
export interface NativeModel {
  readonly weightBytes: number
  /** Bytes of one position of a sequence's KV cache, per KV type. */
  readonly kvBytesPerToken: Record<KvType, number>
  readonly routing: RoutingShape
  /** Throws ROUTING_TOO_FEW_EXPERTS {layer, enabled, k} where a mask [layers][experts] leaves a layer fewer experts than a token uses. */
  checkEnabled(enabled: Uint8Array): void
  /** How often each expert was used since the load. */
  expertUse(): ExpertUse
  /** Undefined where every expert stays in memory. */
  expertStats(): ExpertStats | undefined
  /** What was asked of the expert cache since the load; undefined where it is not recorded. */
  expertTrace(): (NativeTrace & { policy: CachePolicy; seed: number; truncated: boolean }) | undefined
  /** Not there, or undefined: sequences share nothing. */
  prefixStats?(): PrefixStats | undefined
  /** Gives up so many bytes of the prefix cache, as far as no sequence uses them, and tells how many it were. */
  evictPrefixes?(bytes: number): number
  /** Another budget for experts, between two steps. RESOURCE_BUDGET_TOO_SMALL {required, available, slotBytes}. */
  setExpertBudget(bytes: number): Promise<void>
  /**
   * [layers][experts], between two steps: 0 = the policy's, 1 = pinned (never evicted), 2 = demoted (evicted first), 3 = the policy's, but read
   * before others at the load. RESOURCE_BUDGET_TOO_SMALL.
   */
  placeExperts(placement: Uint8Array): Promise<void>
  /** The blob of an expert that is in the archive is the file at `path` from now on; gone again, it is to be brought again. Between steps or during one. */
  bringExpert(layer: number, expert: number, path: string): void
  /** The file at `path` has gone; nothing changes where the expert was brought from another one meanwhile. */
  loseExpert(layer: number, expert: number, path: string): void
  /**
   * Experts that no local file has are in these files from now on, all of them or none; between two steps. MODEL_NOT_FOUND, FILE_READ_FAILED,
   * MODEL_CORRUPTED {file} for one that is too short.
   */
  adoptExperts(places: AdoptedExperts): Promise<void>
  /** Reads experts ahead of their use, as far as they find memory that nothing better has: [layers][experts], 0 = not this one. Resolves when that has begun. */
  readAhead(wanted: Uint8Array): Promise<void>
  /**
   * The versions of these experts from now on, all or nothing, between two steps: the first of each list takes the expert's usual place, the
   * later ones are held in memory that the budget counts. RESOURCE_MEMORY_EXHAUSTED {required, available}, MODEL_NOT_FOUND, FILE_READ_FAILED,
   * MODEL_CORRUPTED, EXPERT_CORRUPTED.
   */
  placeVersions(experts: PlacedVersions[]): Promise<void>
  /**
   * Not there: the backend has no memory of its own. What experts take of host memory beside it, undefined where nothing is kept there, and
   * another budget of that between two steps: RESOURCE_BUDGET_TOO_SMALL, RESOURCE_MEMORY_EXHAUSTED.
   */
  readonly hostTier?: { stats(): HostCounts | undefined; setBudget(bytes: number): Promise<void> }
  /** Where each expert is now; undefined where every expert stays in memory. */
  whereabouts(): Whereabouts | undefined
  /** `prefix`: its full pages are for others of the same scope, where the model has a prefix cache; not those of one that captures its routes. */
  createSequence(options: {
    kvType: KvType
    maxTokens: number
    captureRouting?: boolean
    prefix?: PrefixScope
  }): NativeSequence
  /** Where something has to be compiled first: what a decoded token needs. Tells how many shaders are, of those that were begun. */
  warmUp?(kvType: KvType, onProgress: (done: number, count: number) => void): Promise<void>
  /**
   * Runs one forward call over a batch of tokens off the JavaScript thread. On rejection (CANCELLED, ...) every sequence is as it was before.
   * EXPERT_UNAVAILABLE {layer, expert, experts?, wanted?, archived} where experts are to be brought first: `experts` has the ids of all of the
   * layer, `wanted` the entries of [layers][experts] that the step has asked for so far.
   */
  step(items: StepItem[], cancel: NativeCancel): Promise<StepResult>
  /** Frees the weights after the work under way; resolves when that is done. Later calls throw MODEL_NOT_LOADED. */
  dispose(): Promise<void>
}
