/** The options of an engine and of the models that it loads, checked at the border. */
import { z } from 'zod'
import type { ArchiveOptions } from '../archive/options.js'
import { archiveSchema } from '../archive/options.js'
import type { TierConfig } from '../checkpoint/tiers-file.js'
import type { EngineError } from '../errors/index.js'
import { latencyBudgetAllowed, latencyBudgetSchema, tierSetAllowed, tierSetSchema } from '../generation/options.js'
import type { Isolation } from '../isolation/settings.js'
import type { Transition } from '../lifecycle.js'
import type { CachePolicy, Isa, KvType, LoadProgress, Prefetch } from '../native.js'
import type { QuantizeType } from '../safetensors/open.js'
import { callback, callFields } from '../schemas.js'
import type { EngineEvent } from '../telemetry/event-catalog.js'
import type { Logger } from '../telemetry/logger.js'
import { isLogger } from '../telemetry/logger.js'
import type { ErrorContext } from '../telemetry/telemetry.js'
import { isByteSize } from '../validation.js'
import type { PhaseEvent } from './phases.js'
import type { Staging } from './reserve.js'

export type BackendName = 'cpu' | 'webgpu' | 'cuda'

export interface EngineOptions {
  /** What runs the models: cpu (default), webgpu (needs the package `webgpu` and an adapter) or cuda (an addon of its own). Nothing falls back. */
  backend?: BackendName
  /** Of webgpu. */
  gpu?: GpuSettings
  /** Worker threads (of webgpu: those that read and pack weights). Default: as many as this process may use at once. */
  threads?: number
  /** Instruction set; it changes speed, never a bit of the result. Default auto: the fastest that this CPU has. */
  isa?: Isa | 'auto'
  /** Tokens that one forward call takes at most, of all sequences together. Default 512. */
  maxBatchTokens?: number
  /** Context of models that are loaded without a contextLength, at most. Default: as long as the model supports. */
  maxContextTokens?: number
  /**
   * Memory that all models together may take, as bytes or as text ('8GiB'): reserved when the engine starts, RESOURCE_MEMORY_EXHAUSTED
   * where the machine has not that much or the system does not grant it. A model takes what its own `memory` says, or what is left. Default: what is available then.
   */
  memory?: number | string
  /** A folder that has to have room for what is staged on disk: RESOURCE_DISK_EXHAUSTED at the start where it has not. Nothing is reserved. */
  staging?: Staging
  /**
   * Folder of a journal, which lets the next engine go on with what this one was doing when it ended, however it ended; docs/recovery.md.
   * Default: none.
   */
  journal?: string | JournalOptions
  /** Called after each change of the engine's state. */
  onTransition?: (transition: Transition) => void
  /** Called for each step of starting the engine and each phase of loading a model. */
  onPhase?: (event: PhaseEvent) => void
  /** Where events and errors are logged: pino, or anything with its methods. Default: nowhere. */
  logger?: Logger
  /** Called for each event, after the logger. */
  onEvent?: (event: EngineEvent) => void
  /** Called once for each error that a caller gets or that the engine reports, but not when a caller aborts. */
  onError?: (error: EngineError, context: ErrorContext) => void
  telemetry?: TelemetrySettings
  /** A file for the audit log, which is appended to. Default: none is kept. */
  audit?: string | { path: string; syncMs?: number }
  /** 32 hexadecimal digits that break ties between experts, or `random`. Default: the same for all engines. */
  routingSeed?: string
  /** Milliseconds that requests which have begun may go on for after dispose() or a signal. Default 0. */
  drainMs?: number
  timeouts?: TimeoutSettings
  guards?: GuardSettings
  /** SIGINT and SIGTERM drain and end the process; a second one ends it at once. Default false. */
  signals?: boolean
  /** `process`: run in processes of its own, whose death costs this one nothing (docs/isolation.md). Default none. */
  isolation?: Isolation
}

export interface GpuSettings {
  /** GPU memory that all models together may take, as bytes or as text ('8GiB'). Default: what the driver gives. */
  memory?: number | string
  /** Milliseconds that submitted work may take, then the device counts as lost (GPU_SUBMIT_TIMEOUT). Default 30000. */
  timeoutMs?: number
  /** Time what the GPU computes by its own clock, where the adapter has one: `engine.backend.gpu.computedMs`. Default false. */
  timestamps?: boolean
}

/** Milliseconds; requestMs > inferenceMs > cleanupMs. */
export interface TimeoutSettings {
  /** From the first next() of a request to its end; a call's own timeoutMs counts instead. Default: none. */
  requestMs?: number
  /** From the first step of a request to its end. Default: none. */
  inferenceMs?: number
  /** That a step may take to end once it was cancelled; then its request ends without it. Default 5000, or a fifth of the others. */
  cleanupMs?: number
}

/** When resources run short, and when a step is stuck (docs/guards.md). */
export interface GuardSettings {
  /** Tell (event resource_low) of a disk that the engine writes to with less free bytes than that. Default 1 GiB. */
  diskLowBytes?: number
  /** With less than that the cold folder gives blobs back until so many are free. Default 128 MiB. */
  diskFullBytes?: number
  /** Tell (event resource_low) when the process may open fewer files than that. Default 64. */
  filesLow?: number
  /** Milliseconds that a step may go on for without reading an expert: RUNTIME_STEP_STUCK; 0: any time. Default 60000. */
  stepMs?: number
}

export interface TelemetrySettings {
  /** Events that wait for the logger at most; beyond it the oldest are dropped and counted. Default 1024. */
  bufferedEvents?: number
  /** Log the first 100 characters of prompts. Default false. */
  logPrompts?: boolean
  /** Spans and metrics for OpenTelemetry, where `@opentelemetry/api` is installed. Default true. */
  openTelemetry?: boolean
}

export interface JournalOptions {
  /** The journal's folder; it is made where there is none. */
  path: string
  /** Produced tokens are on disk after this many milliseconds, at the latest; what a crash loses of them is computed again. Default 100. */
  syncMs?: number
  /** A file of the journal is followed by another one from this size on. Default 16 MiB. */
  segmentBytes?: number
  /** For how long a request that has ended can be read again without being acknowledged. Default one hour. */
  retentionMs?: number
  /** A damaged journal: refuse it (default), or salvage what can be read. */
  onDamage?: 'refuse' | 'salvage'
  /** Load the models that were loaded: when a request is resumed (default), or all of them now. */
  recover?: 'demand' | 'load'
}

export interface LoadModelRequest {
  /**
   * Path of a GGUF file, of a folder with safetensors files (docs/safetensors.md) or of a tiered checkpoint's folder, or the name of an embedded
   * model. Default: the embedded `tiny-shakespeare`.
   */
  model?: string
  /** Name for this model in later calls. Default: the file's name without its extension. */
  id?: string
  /** Type of the KV cache. Default f16. */
  kvType?: KvType
  /** Of safetensors files: matrices become this type as they are read, as `tiered-moe quantize` would write them. Default: they stay what they are. */
  quantize?: QuantizeType
  /** Positions that one sequence may hold. Default: what the model supports. */
  contextLength?: number
  /** The TierSet of requests that do not say: a mode, an alias of `tierSets`, a tier's name, or a list of names. Default max. */
  tierSet?: string | readonly string[]
  /** Instead of `tierSet`: milliseconds that a token of such requests may take; each gets the largest TierSet that is predicted to hold it. */
  latencyBudgetMs?: number
  /**
   * Labels on the experts of a model that has no tiers of its own: the path of a YAML file, or the list in it: {name, placement, budget of a
   * hot one, experts: [0, '4-7'] of every layer, lists by layer, or 'rest'}. Of one that has: another placement or budget of the tiers that are named.
   */
  tiers?: string | readonly TierConfig[]
  /** Tell (event expert_starved) of enabled experts that got fewer than `leastTokens` (default 1) in `windowSteps` steps (default 10000). */
  starvation?: boolean | { windowSteps?: number; leastTokens?: number }
  /** Names for TierSets of this model's tiers. */
  tierSets?: Readonly<Record<string, string | readonly string[]>>
  /**
   * All memory that the model may take, as bytes or as text ('2GiB'): weights that always stay, buffers of a step, KV cache, and the rest
   * for experts, which are read when they are needed. Default: everything, or what is available where that does not fit.
   */
  memory?: number | string
  /**
   * Memory for the KV cache of prefixes that later requests may have too, as bytes or as text ('256MiB'), or `false` for none: a part of `memory`,
   * where that is given. Only with the backend cpu. Default: up to 256 MiB of what nothing else needs.
   */
  prefixCache?: number | string | false
  /**
   * GPU memory for the model, as bytes or as text ('2GiB'): weights that always stay, buffers of a step, the KV cache of one sequence, and the rest
   * for experts, which come from host memory and from the file when they are needed (on webgpu the KV cache of further sequences takes of it).
   * `memory` is then that of the host. Only with the backends webgpu and cuda. Default: everything.
   */
  gpuMemory?: number | string
  /**
   * Where the files of a checkpoint's archive tiers are: a tier of that placement then need not be in the local folder. Its experts are
   * fetched when a token wants them, and kept in `coldFolder`. Default: the address in the
   * manifest; without one every file has to be here.
   */
  archive?: ArchiveOptions
  /**
   * Tiers of a checkpoint whose files are not in its folder: the folder of another checkpoint of the same model that has them, or `false`: the
   * model is loaded without this tier, which `engine.expand` can add while it serves. Default: every file is in the folder.
   */
  tierFolders?: Readonly<Record<string, string | false>>
  /** Which experts stay where not all fit: least recently used first, least often, or a mix that follows what works (default). */
  cachePolicy?: CachePolicy
  /** Read experts ahead that the next layer will probably want: where it pays (auto, the default), always, never. */
  prefetch?: Prefetch
  /**
   * When memory runs short: give that of cached prefixes and, with `memory`, of experts back before the kernel kills (default), or leave it to the
   * caller.
   */
  memoryPressure?: 'demote' | 'ignore'
  /** Compare every byte of a tiered checkpoint with its manifest first. Default false: blobs are checked when they are read. */
  verifyOnLoad?: boolean
  /**
   * Experts in memory that each step compares with the checksum of what was read, in order of layer and expert and round again, against
   * faulty memory: RUNTIME_MEMORY_CORRUPTION ends the step's requests, and the expert is read again. Only with `memory`. Default 0: none.
   */
  scrub?: number
  /** How `messages` become a text, as Jinja: instead of what the file says. `plain`: lines of `ROLE: text`, for models without a template. */
  chatTemplate?: string
  /** Record what is asked of the expert cache, for `engine.expertTrace` (at most 64 MiB of it). Only with `memory`. Default false. */
  recordTrace?: boolean
}

export interface LoadModelOptions {
  signal?: AbortSignal
  timeoutMs?: number
  /** Called for each tensor; an error that it throws ends the load. */
  onProgress?: (progress: LoadProgress) => void
}

export const largest = 2 ** 31 - 1
const positive = `an integer from 1 to ${largest}`
export const idSchema = z.string().min(1).max(200)

const filePath = z
  .string()
  .min(1)
  .refine((path) => !path.includes('\0'))
  .describe('a path')
export const drainMs = z.number().min(0).max(largest)
const deadline = z.number().positive().max(largest).optional()
export const drainAllowed = `a number of milliseconds from 0 to ${largest}`

export const journalSchema = z.strictObject({
  path: filePath,
  syncMs: z.number().min(0).max(60_000).default(100),
  segmentBytes: z
    .number()
    .int()
    .min(4096)
    .max(largest)
    .default(16 * 2 ** 20),
  retentionMs: z.number().min(0).max(Number.MAX_SAFE_INTEGER).default(3_600_000),
  onDamage: z.enum(['refuse', 'salvage']).default('refuse'),
  recover: z.enum(['demand', 'load']).default('demand')
})

const bytesFrom0 = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER).describe('a number of bytes')

const sizeAllowed = "bytes, or a text such as '2GiB' or '512MB'"
const sizeOption = z.custom<number | string>(isByteSize).describe(sizeAllowed)

export const engineSchema = z.strictObject({
  backend: z.enum(['cpu', 'webgpu', 'cuda']).default('cpu').describe('cpu, webgpu or cuda'),
  gpu: z
    .strictObject({
      memory: sizeOption.optional(),
      timeoutMs: z.number().min(1).max(largest).optional(),
      timestamps: z.boolean().optional()
    })
    .optional()
    .describe(
      "{memory: bytes, or a text such as '8GiB', timeoutMs: a number of milliseconds, timestamps: true or false}"
    ),
  threads: z.number().int().min(1).max(1024).optional().describe('an integer from 1 to 1024'),
  isa: z
    .enum(['auto', 'scalar', 'avx2', 'avx512', 'neon'])
    .default('auto')
    .describe('auto, scalar, avx2, avx512 or neon'),
  maxBatchTokens: z.number().int().min(1).max(65536).default(512).describe('an integer from 1 to 65536'),
  maxContextTokens: z.number().int().min(1).max(largest).optional().describe(positive),
  journal: z
    .union([filePath, journalSchema])
    .optional()
    .describe(`the path of a folder, or {${Object.keys(journalSchema.shape).join(', ')}}`),
  onTransition: callback<(transition: Transition) => void>().describe('a function'),
  memory: sizeOption.optional().describe(sizeAllowed),
  staging: z
    .strictObject({ folder: filePath, bytes: sizeOption })
    .optional()
    .describe('{folder: the path of a folder, bytes: a number of bytes, or a text such as 16GiB}'),
  onPhase: callback<(event: PhaseEvent) => void>().describe('a function'),
  logger: z.custom<Logger>(isLogger).optional().describe('an object with the methods debug, info, warn and error'),
  onEvent: callback<(event: EngineEvent) => void>().describe('a function'),
  onError: callback<(error: EngineError, context: ErrorContext) => void>().describe('a function'),
  telemetry: z
    .strictObject({
      bufferedEvents: z.number().int().min(1).max(1_000_000).optional(),
      logPrompts: z.boolean().default(false),
      openTelemetry: z.boolean().optional()
    })
    .default({ logPrompts: false })
    .describe('{bufferedEvents: 1 to 1000000, logPrompts: true or false, openTelemetry: true or false}'),
  audit: z
    .union([filePath, z.strictObject({ path: filePath, syncMs: z.number().min(0).max(60_000).optional() })])
    .optional()
    .describe('the path of a file, or {path, syncMs: 0 to 60000}'),
  routingSeed: z
    .string()
    .regex(/^(random|[0-9a-fA-F]{32})$/)
    .optional()
    .describe('32 hexadecimal digits, or random'),
  drainMs: drainMs.default(0).describe(drainAllowed),
  timeouts: z
    .strictObject({ requestMs: deadline, inferenceMs: deadline, cleanupMs: deadline })
    .default({})
    .describe('{requestMs, inferenceMs, cleanupMs}: numbers of milliseconds above 0, each less than the one before'),
  guards: z
    .strictObject({
      diskLowBytes: bytesFrom0.default(2 ** 30),
      diskFullBytes: bytesFrom0.default(128 * 2 ** 20),
      filesLow: z.number().int().min(0).max(1_000_000).default(64).describe('an integer from 0 to 1000000'),
      stepMs: z.number().min(0).max(largest).default(60_000).describe(drainAllowed)
    })
    .prefault({})
    .describe('{diskLowBytes, diskFullBytes, filesLow, stepMs}'),
  signals: z.boolean().default(false).describe('true or false')
})

export const loadSchema = z.strictObject({
  model: z
    .string()
    .min(1)
    .refine((path) => !path.includes('\0'))
    .optional()
    .describe(
      'the path of a GGUF file, of a folder with safetensors files or of a checkpoint, or the name of an embedded model'
    ),
  id: idSchema.optional().describe('a string of 1 to 200 characters'),
  kvType: z.enum(['f16', 'f32']).default('f16').describe('f16 or f32'),
  quantize: z.enum(['Q8_0', 'Q4_0']).optional().describe('Q8_0 or Q4_0'),
  contextLength: z.number().int().min(1).max(largest).optional().describe(positive),
  tierSet: tierSetSchema.optional().describe(tierSetAllowed),
  latencyBudgetMs: latencyBudgetSchema.optional().describe(latencyBudgetAllowed),
  tiers: z
    .union([
      filePath,
      z
        .array(z.looseObject({ name: z.string() }))
        .min(1)
        .max(256)
    ])
    .optional()
    .describe('the path of a YAML file, or a list of {name, placement, budget, experts}'),
  starvation: z
    .union([
      z.boolean(),
      z.strictObject({
        windowSteps: z.number().int().min(1).max(largest).default(10_000),
        leastTokens: z.number().int().min(1).max(largest).default(1)
      })
    ])
    .optional()
    .transform((given) => (given === true ? { windowSteps: 10_000, leastTokens: 1 } : given || undefined))
    .describe('true, false or {windowSteps, leastTokens}, integers from 1 on'),
  tierSets: z
    .record(z.string().regex(/^[a-z0-9][a-z0-9_-]{0,31}$/), tierSetSchema)
    .optional()
    .describe('names of a to z, 0 to 9, _ and -, each with a mode, the name of a tier or a list of names'),
  memory: sizeOption.optional().describe(sizeAllowed),
  prefixCache: z
    .union([z.literal(false), sizeOption])
    .optional()
    .describe("false, bytes, or a text such as '256MiB'"),
  gpuMemory: sizeOption.optional().describe(sizeAllowed),
  archive: archiveSchema.optional(),
  tierFolders: z
    .record(z.string(), z.union([filePath, z.literal(false)]))
    .optional()
    .describe('names of tiers, each with the path of a folder or false'),
  cachePolicy: z.enum(['lru', 'lfu', 'adaptive']).default('adaptive').describe('lru, lfu or adaptive'),
  prefetch: z.enum(['off', 'on', 'auto']).default('auto').describe('off, on or auto'),
  memoryPressure: z.enum(['demote', 'ignore']).default('demote').describe('demote or ignore'),
  scrub: z.number().int().min(0).max(65536).default(0).describe('an integer from 0 to 65536'),
  verifyOnLoad: z.boolean().default(false).describe('true or false'),
  chatTemplate: z.string().min(1).max(65_536).optional().describe('plain, or a Jinja template'),
  recordTrace: z.boolean().default(false).describe('true or false')
})

export const loadCallSchema = z.strictObject({
  ...callFields,
  onProgress: callback<(progress: LoadProgress) => void>().describe('a function')
})

/** The engine's options with their defaults. */
export type CheckedOptions = z.output<typeof engineSchema>
/** What to load, with its defaults. */
export type CheckedLoad = z.output<typeof loadSchema>
