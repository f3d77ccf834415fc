/**
 * The typed surface of the native addon, and the one place that loads it. Nothing else in lib/ touches the addon's names.
 * Native calls return values or promises and throw (or reject with) an EngineError built by the factory given to `initialize`.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import loaded from '#addon'
import type { ErrorDetails } from './errors/index.js'
import { createError, createNativeError } from './errors/index.js'
import type { Plan } from './model/plan.js'

/** Instruction sets that a kernel can be built for; `scalar` uses FMA instructions where the CPU has them. */
export type Isa = 'scalar' | 'avx2' | 'avx512' | 'neon'
/** Weight types, as GGUF names them. */
export type DType = 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q4_0' | 'Q6_K'
export type KvType = 'f16' | 'f32'

export interface CpuInfo {
  model: string
  /** Usable here, slowest first. */
  isas: Isa[]
  /** Features that were looked for, each found or not: fma, avx2, avx512vnni, ... */
  features: Record<string, boolean>
}

export interface Counters {
  liveBytes: number
  liveHandles: number
  openFiles: number
  activeJobs: number
}

export interface GgufTensorInfo {
  name: string
  /** Name of the type (`Q4_0`), or `type 37` where it is unknown. */
  type: string
  /** Innermost dimension first, as the file has it. */
  shape: number[]
  bytes: number
}

export type GgufMetadataValue = string | number | boolean | string[] | number[] | boolean[]

/** An open GGUF file: its whole header, checked. Closed by `close` or by garbage collection. */
export interface NativeGguf {
  readonly path: string
  readonly version: number
  readonly fileBytes: number
  readonly metadata: Record<string, GgufMetadataValue>
  readonly tensors: GgufTensorInfo[]
  close(): void
}

/** A flag that native work looks at between small pieces of it (well under a millisecond apart). */
export interface NativeCancel {
  cancel(): void
}

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
  /** The request's TierSet, [layers][experts]: 0 = not to be used. All are, where it is not there. */
  enabled?: Uint8Array
  /** Caller-owned, filled with [tokens][layers][k] expert ids, best first, and (always together) their weights. */
  captureIds?: Int32Array
  captureWeights?: Float32Array
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

/** One sequence's KV cache. */
export interface NativeSequence {
  /** Positions held. */
  readonly length: number
  /** Forgets all positions from `length` on. */
  truncate(length: number): void
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
  /** Another budget for experts, between two steps. RESOURCE_BUDGET_TOO_SMALL {required, available, slotBytes}. */
  setExpertBudget(bytes: number): Promise<void>
  /** [layers][experts], between two steps: 0 = the policy's, 1 = pinned (never evicted), 2 = demoted (evicted first). RESOURCE_BUDGET_TOO_SMALL. */
  placeExperts(placement: Uint8Array): Promise<void>
  /** The blob of an expert that is in the archive is the file at `path` from now on; gone again, it is to be brought again. Between steps or during one. */
  bringExpert(layer: number, expert: number, path: string): void
  createSequence(options: { kvType: KvType; maxTokens: number }): NativeSequence
  /**
   * Runs one forward call over a batch of tokens off the JavaScript thread. On rejection (CANCELLED, ...) every sequence is as it was before.
   * EXPERT_UNAVAILABLE {layer, expert, experts?, archived} where experts are to be brought first: `experts` has the ids of all of the layer.
   */
  step(items: StepItem[], cancel: NativeCancel): Promise<StepResult>
  /** Frees the weights after the work under way; resolves when that is done. Later calls throw MODEL_NOT_LOADED. */
  dispose(): Promise<void>
}

export type CachePolicy = 'lru' | 'lfu' | 'adaptive'
export type Prefetch = 'off' | 'on' | 'auto'

/** Where a tiered checkpoint keeps its experts. */
export interface ExpertBlobs {
  files: string[]
  /** Per layer: weight types of gate, up and down. */
  types: [DType, DType, DType][]
  /** [layers][experts]: index into `files` (0xffffffff: in no file until `bringExpert`), bytes from its begin (a multiple of 4096), checksum of the blob. */
  fileIndex: Uint32Array
  offset: Float64Array
  crc32c: Uint32Array
}

/** Experts under a budget instead of all in memory. */
export interface ExpertOptions {
  budgetBytes: number
  /** KV pages beyond so many bytes take their memory from the experts. */
  kvReserveBytes: number
  policy: CachePolicy
  ioThreads: number
  /** Breaks ties of the policy, 32 bits. */
  seed: number
  prefetch: Prefetch
  /** Experts in memory that each step compares with the checksum of what was read. Default 0. */
  scrub?: number
  /** Above 0: what is asked of the cache is recorded, up to about so many 32-bit words. Default 0. */
  traceWords?: number
  /** Not there: the experts are in the GGUF file. */
  blobs?: ExpertBlobs
}

/** What one layer's experts did since the load. */
export interface LayerStats {
  /** (step, expert) demands, those that found the expert in memory or being read, and those that did not. */
  uses: number
  hits: number
  misses: number
  /** Demands that a prediction was made for; of these, those that it named, and those that were in memory or being read by then. */
  predictable: number
  predicted: number
  present: number
  /** Experts asked for ahead of their demand. */
  prefetches: number
  /** Whether experts are read ahead for this layer now. */
  prefetching: boolean
}

/** Counts since the load. */
export interface ExpertStats {
  uses: number
  hits: number
  misses: number
  /** Hits whose bytes were still being read. */
  late: number
  evictions: number
  prefetches: number
  waves: number
  demandBytes: number
  prefetchBytes: number
  /** Of prefetched bytes: demanded before they were evicted, and evicted without. */
  prefetchUsedBytes: number
  prefetchWastedBytes: number
  readErrors: number
  /** Times that the KV cache or a lack of memory took memory from the experts. */
  pressureEvents: number
  waitMs: number
  bookkeepingMs: number
  residentBytes: number
  budgetBytes: number
  /** [layers][experts]: 0 absent, 1 being read, 2 in memory, 3 unavailable. */
  residency: Uint8Array
  layers: LayerStats[]
}

export interface LoadProgress {
  tensor: string
  index: number
  count: number
  bytesDone: number
  bytesTotal: number
}

/** One matrix of an expert inside its blob. */
export interface ExpertPart {
  type: DType
  rows: number
  columns: number
  /** From the blob's begin. */
  offset: number
  bytes: number
}

/** What an expert's blob looks like; `id` names the layout of the matrices. */
export interface ExpertLayout {
  id: string
  gate: ExpertPart
  up: ExpertPart
  down: ExpertPart
  bytes: number
}

/** A file of a tiered checkpoint, as it was written or found. SHA-256 in hexadecimal. */
export interface ShardFile {
  bytes: number
  sha256: string
}

/** The same with the sums of its blobs, in order. */
export interface ExpertsFile extends ShardFile {
  crc32c: Uint32Array
  blobSha256: string[]
}

/** A pool of worker threads on one instruction set, and the queue of work for it. */
export interface NativeBackend {
  readonly isa: Isa
  readonly threads: number
  /** The instruction set that each kernel resolved to. */
  kernels(): Record<string, Isa>
  /** Reads and repacks every tensor of the plan on all threads; with `experts`, as many of these as their budget holds. */
  loadModel(
    file: NativeGguf,
    plan: Plan,
    options: { maxBatchTokens: number; onProgress?: (progress: LoadProgress) => void; experts?: ExpertOptions },
    cancel: NativeCancel
  ): Promise<NativeModel>
  /** Runs one kernel of the kernel-level API (lib/kernels.ts knows the positional arguments). */
  call(op: string, args: readonly unknown[], naive: boolean): unknown
  callAsync(op: string, args: readonly unknown[], naive: boolean): Promise<unknown>
  dispose(): void
}

/** What was asked of an expert cache (docs/traces.md). */
export interface NativeTrace {
  layers: number
  /** Per layer. */
  experts: number
  /** Of the cache that was recorded; 0 where there was none. */
  slots: number
  words: Uint32Array
}

/** `arc` and `optimum` (Belady's) are there to compare with; `mix` is one fixed mix of recency and frequency. */
export type SimulatedPolicy = 'adaptive' | 'lru' | 'lfu' | 'mix' | 'arc' | 'optimum'

export interface CacheCounts {
  /** (step, layer, expert) demands. */
  uses: number
  hits: number
  misses: number
  evictions: number
  /** Experts that were given a slot ahead of their use. */
  prefetches: number
  /** Groups of experts that were in memory together. */
  waves: number
}

export interface CacheSimulation extends CacheCounts {
  layers: CacheCounts[]
  /** 4 words each: 0 hit, 1 miss, 2 prefetch or 3 lost by a smaller budget; entry; slot; the entry that was evicted, or 2^32 - 1. */
  decisions?: Uint32Array
}

export interface NativeAddon {
  /** Hands over the function that makes a typed error out of a native status. Called once per environment. */
  initialize(makeError: (code: string, message: string, details: ErrorDetails) => Error): void
  statusCodes(): string[]
  cpuInfo(): CpuInfo
  counters(): Counters
  availableMemory(): number
  /** CRC-32C of bytes (a Buffer too); `crc` continues an earlier call. */
  crc32c(bytes: Uint8Array, crc?: number): number
  openGguf(path: string): Promise<NativeGguf>
  /** Writes a GGUF file with every matrix in `type` (norms and routers stay F32), atomically. */
  quantizeGguf(
    from: string,
    to: string,
    options: { type: 'Q8_0' | 'Q4_0'; onProgress?: (progress: LoadProgress) => void },
    cancel: NativeCancel
  ): Promise<{ bytes: number }>
  /** Lays one expert out; `width` is the model's, `hidden` that inside an expert. */
  expertLayout(options: { gate: DType; up: DType; down: DType; width: number; hidden: number }): ExpertLayout
  /** Writes a GGUF file without the tensors named, atomically; what stays keeps its bytes. */
  writeBase(
    file: NativeGguf,
    to: string,
    options: { leaveOut: string[]; onProgress?: (progress: LoadProgress) => void },
    cancel: NativeCancel
  ): Promise<ShardFile>
  /** Writes the blobs of one layer's experts, packed from the tensors named, atomically and on all threads. */
  packExperts(
    file: NativeGguf,
    to: string,
    options: {
      gate: string
      up: string
      down: string
      experts: Uint32Array
      onProgress?: (bytes: number) => void
    },
    cancel: NativeCancel
  ): Promise<ExpertsFile>
  /** The same with blobs that lie in files already; MODEL_CORRUPTED {file, offset} for one whose CRC-32C is another. */
  copyExperts(
    files: string[],
    to: string,
    options: {
      blobBytes: number
      fileIndex: Uint32Array
      offset: Float64Array
      crc32c: Uint32Array
      onProgress?: (bytes: number) => void
    },
    cancel: NativeCancel
  ): Promise<ExpertsFile>
  /** Reads a whole file and sums it and the blobs in it (ascending, not overlapping). */
  measureShard(
    path: string,
    options: { offset: Float64Array; bytes: Float64Array; onProgress?: (bytes: number) => void },
    cancel: NativeCancel
  ): Promise<ExpertsFile>
  createBackend(options: { threads: number; isa: Isa | 'auto' }): NativeBackend
  createCancel(): NativeCancel
  /** Replays a trace on a thread. VALIDATION_ERROR {argument, index} of a wrong record. */
  simulateCache(
    trace: NativeTrace,
    options: {
      slots: number
      policy: SimulatedPolicy
      seed: number
      decisions: boolean
      /** Of `mix`: weights of the rates of use over 1, 4, 16, 128 and 1024 turns, and a constant. */
      mix?: Float64Array
    }
  ): Promise<CacheSimulation>
  /** Locks an open file for its descriptor, without waiting; false where another descriptor has the lock. FILE_WRITE_FAILED. */
  tryLockFile(descriptor: number): boolean
}

let instance: NativeAddon | undefined

/** The addon, loaded and initialised. Throws ADDON_UNAVAILABLE with every place that was tried and what to do. */
export function native(): NativeAddon {
  if (instance) return instance
  const { addon, tried, platform } = loaded
  if (!addon) {
    throw createError('ADDON_UNAVAILABLE', `the native addon for ${platform} could not be loaded`, { platform, tried })
  }
  const candidate = addon as NativeAddon
  candidate.initialize(createNativeError)
  instance = candidate
  return candidate
}

/** The folder of this package, where models/ lies. */
export function packageRoot(): string {
  return loaded.root
}

/** The version of this package. */
export function packageVersion(): string {
  const { version } = JSON.parse(readFileSync(join(loaded.root, 'package.json'), 'utf8')) as { version: string }
  return version
}
