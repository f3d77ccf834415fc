/** The expert store of a model: its options, its counts, and the replay of what was asked of it. */
import type { DType } from './values.js'

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
  /**
   * [layers][experts], as NativeModel.placeExperts takes it: stands before any expert is read, pinned ones are read first, then 3, then 0,
   * and none that is demoted. Not there: 0 for all.
   */
  placement?: Uint8Array
  /** Not there: the experts are in the GGUF file. */
  blobs?: ExpertBlobs
  /** Of a backend with memory of its own: bytes of slots there. Not there: a slot for every expert. `budgetBytes` is the host's memory. */
  gpuBudgetBytes?: number
  /** With `gpuBudgetBytes`: all that the model may take there, and what of it is set aside for the KV cache; more of that takes slots. */
  gpuParts?: { whole: number; keyValues: number }
}

/** The versions of one expert that requests may still use, by ascending epoch; the first is that of all epochs before the second's. */
export interface PlacedVersions {
  layer: number
  expert: number
  /** A blob in a file, which requests of the epoch and later ones use. Without a path (the first only): what the model was loaded with. */
  versions: { epoch: number; path?: string; offset?: number; crc32c?: number }[]
}

/** What one layer's experts did since the load. */
export interface LayerStats {
  /** (step, expert) demands: hits, late and misses together, each as ExpertStats has them. */
  uses: number
  hits: number
  late: number
  misses: number
  /** Demands that a prediction was made for; of these, those that it named, and those that were in memory or being read by then. */
  predictable: number
  predicted: number
  present: number
  /** Experts asked for ahead of their demand. */
  prefetches: number
  /** Bytes that were read ahead and evicted before they were demanded. */
  prefetchWastedBytes: number
  /** Whether experts are read ahead for this layer now. */
  prefetching: boolean
}

/** Counts since the load. */
export interface ExpertStats {
  /** (step, layer, expert) demands: hits, late and misses together. */
  uses: number
  /** Those that found the expert in memory. */
  hits: number
  /** Those that found it on its way: its read had been asked for before and was waited for. */
  late: number
  /** Those that asked for its read. */
  misses: number
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
  /** What experts may take now, and what they may while nothing else (KV caches, outputs) takes of it. */
  budgetBytes: number
  limitBytes: number
  /** [layers][experts]: 0 absent, 1 being read, 2 in memory, 3 unavailable. */
  residency: Uint8Array
  layers: LayerStats[]
  /**
   * Of a backend with memory of its own, whose slots the counts above are of: experts written to it, their bytes, and the counts of host
   * memory, which is asked for what has no slot.
   */
  uploads?: number
  uploadedBytes?: number
  host?: HostCounts
}

/** Counts of experts in host memory, as ExpertStats has them. */
export type HostCounts = Omit<
  ExpertStats,
  'limitBytes' | 'pressureEvents' | 'residency' | 'layers' | 'uploads' | 'uploadedBytes' | 'host'
>

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

/** Counts of the decisions alone: how far a read has come changes none, so `hits` is what ExpertStats tells apart as hits and late. */
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

/** Places of experts' blobs, as ExpertBlobs has them; the checksums stay what they were. */
export interface AdoptedExperts {
  files: string[]
  /** [layers][experts]: index into `files`; 0xffffffff: nothing changes. */
  fileIndex: Uint32Array
  offset: Float64Array
}

export interface Whereabouts {
  /**
   * [layers][experts]: residency (0 absent, 1 being read, 2 in memory, 3 unavailable) + 4 pinned + 8 demoted + 16 in a local file + 32 in a
   * slot of the backend's own memory.
   */
  bits: Uint8Array
  /** Whether the backend has memory of its own: hot is what has a slot there, whatever is pinned. */
  ownMemory?: boolean
  /** Bytes in memory of one expert of each layer. */
  layerBytes: Float64Array
  /** Of experts in memory now, and what they may take. */
  usedBytes: number
  budgetBytes: number
}
