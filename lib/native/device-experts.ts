/** Experts for a device's memory: where their bytes come from, and which of them have a slot there. */
import type {
  AdoptedExperts,
  CacheCounts,
  CachePolicy,
  HostCounts,
  NativeTrace,
  PlacedVersions,
  Prefetch
} from './experts.js'
import type { ExpertLayout } from './files.js'
import type { NativeCancel } from './values.js'

/** Tokens of a step, and how its sequences brought them. */
export interface ExpertStepShape {
  sequences: number
  rows: number
  /** Of sequences that brought more than one. */
  prefillRows: number
}

/** Where a version of an expert lies. */
export interface ExpertBlobPlace extends Required<PlacedVersions['versions'][number]> {
  layer: number
  expert: number
}

/** Experts whose bytes are in host memory now: views of it that are empty again with the reader's next call. */
export interface ReadExperts {
  experts: Uint32Array
  blobs: ArrayBuffer[]
}

/** Experts in host memory under a budget, the others read from their files. One call at a time: each takes back what the one before lent. */
export interface NativeExpertReader {
  /** Per layer that routes; what a slot has to hold. */
  readonly layouts: ExpertLayout[]
  readonly slotBytes: number
  /** Of a layer. */
  readonly experts: number
  /**
   * Reads experts of a layer (ascending, each once): those that are in memory first. `step`: these are the first of a step. EXPERT_UNAVAILABLE,
   * EXPERT_CORRUPTED, CANCELLED; then nothing is asked for any more.
   */
  begin(
    layer: number,
    experts: Uint32Array,
    cancel: NativeCancel,
    step?: ExpertStepShape
  ): Promise<ReadExperts | undefined>
  /** Those that have arrived since, at least one; undefined when all were given. */
  next(cancel: NativeCancel): Promise<ReadExperts | undefined>
  /** Has experts read ahead into host memory, as far as they find room that nothing better has. */
  prefetch(layer: number, experts: Uint32Array): Promise<void>
  /** RESOURCE_BUDGET_TOO_SMALL, RESOURCE_MEMORY_EXHAUSTED. */
  setBudget(bytes: number): Promise<void>
  /** Between two steps. RUNTIME_MEMORY_CORRUPTION {layer, expert}. */
  scrub(): Promise<void>
  adoptExperts(places: AdoptedExperts): Promise<void>
  /** Between two steps: each of these is another blob from now on, all of them or none. MODEL_NOT_FOUND, FILE_READ_FAILED, MODEL_CORRUPTED. */
  replaceExperts(experts: ExpertBlobPlace[]): Promise<void>
  bringExpert(layer: number, expert: number, path: string): void
  loseExpert(layer: number, expert: number, path: string): void
  stats(): HostCounts
  /** Per layer: what LayerStats.prefetchWastedBytes is. */
  wastedBytes(): number[]
  /** [layers][experts]: 0 absent, 1 being read, 2 in host memory, 3 unavailable; + 16 in a local file. */
  residency(): Uint8Array
  /** RESOURCE_BUDGET_TOO_SMALL {required, available, slotBytes}. */
  createSlots(options: {
    slots: number
    policy: CachePolicy
    /** Of experts that `foresee` names. */
    prefetch: Prefetch
    seed: number
    traceWords: number
  }): NativeExpertSlots
  /** Ends the reads; later calls throw MODEL_NOT_LOADED. */
  dispose(): Promise<void>
}

/** Four words each: entry (layer · experts + expert), slot, 1 where its bytes are to be written first, the entry that lost the slot or 2^32 - 1. */
export type SlotItems = Uint32Array

/** Of one layer; `asked`: experts that were given a slot because they were foretold. The others are those of LayerStats. */
export interface SlotLayerCounts extends CacheCounts {
  predictable: number
  predicted: number
  present: number
  asked: number
  prefetching: boolean
}

/** Who has a slot of the device: decisions alone, at once. The same demands give the same counts as a store of host memory, and as the simulator. */
export interface NativeExpertSlots {
  beginStep(step: ExpertStepShape): void
  /**
   * The routes of a layer, in any order: the first one or two parts of its experts, each of which has slots together. EXPERT_UNAVAILABLE
   * {experts, wanted, archived} before any decision. RESOURCE_BUDGET_TOO_SMALL where every slot is pinned.
   */
  beginLayer(layer: number, ids: Int32Array): SlotItems[]
  /** The oldest part has been given to the device: its slots may be written again. A further part, where there is one. */
  advance(): SlotItems | undefined
  /** After the last part, and after any error. */
  endLayer(): void
  /** Bytes of these entries did not come: they have no slot. */
  drop(entries: Uint32Array): void
  /** Experts that will probably be wanted, most wanted first; what is to be written. */
  prefetch(layer: number, experts: Uint32Array): SlotItems
  /** Whether a prediction of the layer's routes is of use in this step: where every second one of those that are absent is demanded then. */
  foresees(layer: number): boolean
  /** The routes that a layer will probably have; what is to be written. */
  foresee(layer: number, ids: Int32Array): SlotItems
  /** Gives free slots to what can be read and is not demoted, in the order of ExpertOptions.placement; what is to be written. */
  fill(): SlotItems
  /** [layers][experts], as NativeModel.placeExperts; what is to be written. RESOURCE_BUDGET_TOO_SMALL. */
  place(placement: Uint8Array): SlotItems
  /** [layers][experts], as `place` was told. */
  placement(): Uint8Array
  /** Entries that lost their slot. RESOURCE_BUDGET_TOO_SMALL. */
  resize(slots: number): Uint32Array
  /** [layers][experts]: the slot, or 2^32 - 1. */
  table(): Uint32Array
  counts(): CacheCounts & { layers: SlotLayerCounts[]; slots: number; used: number }
  /** Undefined where nothing is recorded. */
  trace(): (NativeTrace & { policy: CachePolicy; seed: number; truncated: boolean }) | undefined
}
