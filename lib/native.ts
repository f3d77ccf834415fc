/**
 * The typed surface of the native addon, and the one place that loads it. Nothing else in lib/ touches the addon's names.
 * Native calls return values or promises and throw (or reject with) an EngineError built by the factory given to `initialize`.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import loaded from '#addon'
import './errors/diagnostics.js'
import type { ErrorDetails } from './errors/index.js'
import { createError, tellFileLimit } from './errors/index.js'
import { createNativeError } from './errors/native-error.js'
import type { Plan, PlanTensor } from './model/plan.js'
import type { ExpertBlobPlace, NativeExpertReader } from './native/device-experts.js'
import type { CacheSimulation, ExpertOptions, NativeTrace, SimulatedPolicy } from './native/experts.js'
import type {
  ExpertLayout,
  ExpertShape,
  ExpertsFile,
  GatheredFiles,
  GgufTensorInfo,
  NativeGguf,
  ShardFile,
  WeightInfo
} from './native/files.js'
import type { NativeModel } from './native/model.js'
import type { Counters, CpuInfo, Isa, LoadProgress, NativeCancel, NativeReservation } from './native/values.js'

export type * from './native/device-experts.js'
export type * from './native/experts.js'
export type * from './native/files.js'
export type * from './native/model.js'
export type * from './native/values.js'

/** Memory of a backend's own, where its models are. */
export interface BackendMemory {
  /** The device, as its driver names it. */
  readonly device: string
  /** Bytes that a model may take now, as far as is known. */
  available(): number
  /** Most that the buffers of one step take. */
  stepBytes(plan: Plan, maxBatchTokens: number): number
  counts(): DeviceCounts
}

/** What a device, and those that were opened again in its place, have done since the engine began (CUDA: since the process did), and what it holds now. */
export interface DeviceCounts {
  /** Of CUDA: launches. */
  submits: number
  /** Milliseconds in which it was waited for, by one or several. */
  waitedMs: number
  /** With `createEngine({ gpu: { timestamps: true } })`: milliseconds that it computed, by its own clock; undefined where it has none. */
  computedMs?: number | undefined
  /** Bytes of its buffers, and how many there are. */
  memoryBytes: number
  buffers: number
}

/** A pool of worker threads on one instruction set, and the queue of work for it. */
export interface NativeBackend {
  /** Not there: models are in host memory. */
  readonly memory?: BackendMemory
  readonly isa: Isa
  readonly threads: number
  /** The instruction set that each kernel resolved to. */
  kernels(): Record<string, Isa>
  /** Reads and repacks every tensor of the plan on all threads; with `experts`, as many of these as their budget holds. */
  loadModel(
    file: NativeGguf,
    plan: Plan,
    options: {
      maxBatchTokens: number
      onProgress?: (progress: LoadProgress) => void
      experts?: ExpertOptions
      /** KV pages that are kept for later sequences, at most. Default 0: none. */
      prefixCacheBytes?: number
    },
    cancel: NativeCancel
  ): Promise<NativeModel>
  /** The plan's tensors but those of its experts, as `readWeight` gives them. VALIDATION_ERROR for a plan that is none, TENSOR_MISSING, TENSOR_SHAPE_MISMATCH, TENSOR_TYPE_UNSUPPORTED. */
  describeWeights(file: NativeGguf, plan: Plan): WeightInfo[]
  /**
   * Reads a piece of a tensor into caller-owned memory in the layout of its role, on all threads: a packed matrix (`firstRow` a multiple of
   * 16), rows of an embedding table as the file has them, or a whole vector (f32) or router (24-bit integers of one `exponent`).
   * VALIDATION_ERROR, FILE_READ_FAILED, RUNTIME_NAN_DETECTED {tensor}, CANCELLED.
   */
  readWeight(
    file: NativeGguf,
    tensor: PlanTensor,
    piece: { expert: number; firstRow: number; rows: number; out: Uint8Array },
    cancel: NativeCancel
  ): Promise<{ exponent: number }>
  /** Runs one kernel of the kernel-level API (lib/kernels.ts knows the positional arguments). */
  call(op: string, args: readonly unknown[], naive: boolean): unknown
  callAsync(op: string, args: readonly unknown[], naive: boolean): Promise<unknown>
  /** Of an addon for a device: it, the bytes that nobody has of its memory, and the counts. CUDA_DEVICE_FAILED. */
  deviceCounts?(): (DeviceCounts & { device: string; availableBytes: number }) | undefined
  /** Of an addon for a device: most that the buffers of one step take there. VALIDATION_ERROR for a plan that is none. */
  deviceStepBytes?(plan: Plan, maxBatchTokens: number): number | undefined
  /**
   * Opens the device again after it failed; what was on it is lost, so its models are to be disposed before. Throws as opening it did. Not there:
   * no device can be lost.
   */
  reopen?(): Promise<void>
  dispose(): void
}

/** A kernel call whose arguments were checked; it has no members. */
export interface NativePreparedCall {
  readonly [preparedCall]: true
}
declare const preparedCall: unique symbol

/** What the addon makes: it runs kernels on the calling thread too, and those that were prepared. */
export interface NativeAddonBackend extends NativeBackend {
  /** Checks the arguments of a kernel once, for `callPrepared` with the same arguments. */
  prepare(op: string, args: readonly unknown[]): NativePreparedCall
  /** Runs it on the calling thread. VALIDATION_ERROR where the memory of one of its arrays was transferred. */
  callPrepared(prepared: NativePreparedCall, args: readonly unknown[]): unknown
}

export interface NativeAddon {
  /** Hands over the function that makes a typed error out of a native status. Called once per environment. */
  initialize(makeError: (code: string, message: string, details: ErrorDetails) => Error): void
  statusCodes(): string[]
  cpuInfo(): CpuInfo
  counters(): Counters
  /** The greatest `liveBytes` since the last restart: no moment between two looks is missed. */
  peakLiveBytes(restart?: boolean): number
  availableMemory(): number
  /** Most that the buffers of one step take. VALIDATION_ERROR for a plan that is none. */
  stepBytes(plan: Plan, maxBatchTokens: number, threads: number): number
  /** CRC-32C of bytes (a Buffer too); `crc` continues an earlier call. */
  crc32c(bytes: Uint8Array, crc?: number): number
  /** From the first of some bytes to the first that begins a cache line (of 64), in bytes: 0 to 63. */
  bytesToLine(bytes: Uint8Array): number
  openGguf(path: string): Promise<NativeGguf>
  /** A model whose tensors lie in the files of a folder. The errors of openGguf; VALIDATION_ERROR where header and places do not belong together. */
  openGathered(path: string, gathered: GatheredFiles): Promise<NativeGguf>
  /** The type that quantizeGguf would write a tensor in. `tied`: the embedding is the output matrix too. */
  quantizedType(tensor: Omit<GgufTensorInfo, 'bytes'>, type: 'Q8_0' | 'Q4_0', tied: boolean): string
  /** Writes a GGUF file with every matrix in `type` (norms and routers stay F32), atomically. */
  quantizeGguf(
    from: string,
    to: string,
    options: { type: 'Q8_0' | 'Q4_0'; onProgress?: (progress: LoadProgress) => void },
    cancel: NativeCancel
  ): Promise<{ bytes: number }>
  /** Lays one expert out; `width` is the model's, `hidden` that inside an expert. */
  expertLayout(options: ExpertShape): ExpertLayout
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
  /**
   * Writes a file of one blob, the weighted average of blobs that lie in files already, atomically. VALIDATION_ERROR, MODEL_CORRUPTED {file,
   * offset}, TENSOR_TYPE_UNSUPPORTED {type} for a type that is only read, RUNTIME_NAN_DETECTED for averages that have no encoding.
   */
  mergeExperts(
    files: string[],
    to: string,
    options: ExpertShape & {
      fileIndex: Uint32Array
      offset: Float64Array
      crc32c: Uint32Array
      /** One per blob, from 0 on. */
      weights: Float64Array
    },
    cancel: NativeCancel
  ): Promise<ExpertsFile>
  /** The same with random weights, uniform in ± 1 / √columns of each matrix. TENSOR_TYPE_UNSUPPORTED {type}. */
  initExpert(to: string, options: ExpertShape & { seed: number }, cancel: NativeCancel): Promise<ExpertsFile>
  /** Reads a whole file and sums it and the blobs in it (ascending, not overlapping). */
  measureShard(
    path: string,
    options: { offset: Float64Array; bytes: Float64Array; onProgress?: (bytes: number) => void },
    cancel: NativeCancel
  ): Promise<ExpertsFile>
  createBackend(options: { threads: number; isa: Isa | 'auto'; device?: number }): NativeAddonBackend
  /** Opens the experts of a plan for a device: those of the file, or of a checkpoint's blobs. The errors of loadModel that concern experts. */
  openExperts(file: NativeGguf, plan: Plan, options: { experts: ExpertOptions }): Promise<NativeExpertReader>
  /** The bytes of a version, compared with its checksum. MODEL_NOT_FOUND, FILE_READ_FAILED, MODEL_CORRUPTED, EXPERT_CORRUPTED, RESOURCE_MEMORY_EXHAUSTED. */
  readVersion(version: ExpertBlobPlace, shape: ExpertShape): Promise<ArrayBuffer>
  /** Has the system grant memory that nobody uses yet. RESOURCE_MEMORY_EXHAUSTED {required, available}. */
  reserveMemory(bytes: number): NativeReservation
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
  /** The WGSL of shaders/<name>.wgsl as it was at build time; undefined where there is none. lib/backends/webgpu/specialise.ts makes shaders of it. */
  shaderText(name: string): string | undefined
  /** Every file of shaders/, pieces too. */
  shaderNames(): string[]
  /** Locks an open file for its descriptor, without waiting; false where another descriptor has the lock. FILE_WRITE_FAILED. */
  tryLockFile(descriptor: number): boolean
  /** Files that this process may have open at a time; 0 where nothing limits them. */
  openFileLimit(): number
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
  tellFileLimit(() => candidate.openFileLimit() || undefined)
  instance = candidate
  return candidate
}

let cudaInstance: NativeAddon | undefined

/**
 * The addon that runs models on CUDA, loaded at the first call. Throws CUDA_DEVICE_FAILED {tried, install} where it is not there. Its handles
 * are its own: a file that it opened is read by it alone.
 */
export function cudaNative(): NativeAddon {
  if (cudaInstance) return cudaInstance
  const { addon, tried } = loaded.cuda()
  if (!addon) {
    const install = `@tiered-moe/${loaded.platform}-cuda`
    throw createError(
      'CUDA_DEVICE_FAILED',
      `the addon tiered_moe_cuda.node is not there: install ${install}, or build it in a checkout with 'npm run build:cuda' (CUDA 12.8 or newer), and the NVIDIA driver`,
      { device: null, install, tried }
    )
  }
  const candidate = addon as NativeAddon
  candidate.initialize(createNativeError)
  cudaInstance = candidate
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
