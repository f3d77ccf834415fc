/** What a configuration may say, section by section. */
import { z } from 'zod'
import type { ArchiveOptions } from './archive/options.js'
import { archiveSchema } from './archive/options.js'
import type { Fault } from './config/fault.js'
import type { TransferTimeouts } from './download/options.js'
import { timeoutFields } from './download/options.js'
import { checkGpuSettings } from './engine/open-backend.js'
import type {
  EngineOptions,
  GuardSettings,
  LoadModelRequest,
  TelemetrySettings,
  TimeoutSettings
} from './engine/options.js'
import { engineSchema, loadSchema } from './engine/options.js'
import { checkTimeouts } from './engine/timeouts.js'
import { isEngineError } from './errors/index.js'
import type { IsolationOptions, StreamLimits } from './isolation/settings.js'
import { checkHeartbeat, isolationSchema, streamsSchema } from './isolation/settings.js'
import { locateModel } from './model/embedded.js'
import { packageRoot } from './native.js'
import { prefixCacheElsewhere } from './prefix-cache.js'
import { callFields } from './schemas.js'
import type { AdmissionSettings, CheckedServer, ServerSettings } from './server/settings.js'
import { admissionSchema, serverContradictions, serverSchema } from './server/settings.js'
import { describeValue } from './validation.js'

/** What a program hands to createEngine and no file can say. */
export type EngineHooks = Pick<EngineOptions, 'onTransition' | 'onPhase' | 'logger' | 'onEvent' | 'onError'>

/** In a file all keys are in snake_case. */
export interface RuntimeConfig {
  /** What createEngine takes. */
  engine: Omit<EngineOptions, keyof EngineHooks | 'timeouts' | 'guards' | 'telemetry' | 'isolation'>
  /** What loadModel takes of each model, in the order of loading. */
  models: LoadModelRequest[]
  /** How servers are asked again: by downloads, and by the archive of every model that does not say it itself under `archive`. */
  network: NetworkSettings
  /** What `tiered-moe pull` does. */
  download: DownloadSettings
  /** Whether the engine runs in processes of its own, and what becomes of them. */
  worker: WorkerSection
  /** With worker processes: streams that are open. */
  streamRegistry: StreamRegistrySection
  /** Deadlines of requests, and of loading a model. */
  timeouts: TimeoutSettings & LoadTimeout
  /** When resources run short, and when a step is stuck. */
  guards: GuardSettings
  /** What is logged. */
  telemetry: TelemetrySettings
  /** Where `tiered-moe serve` listens, who may use it, and what a request may take. */
  server: ServerSettings
  /** Which of its requests run, wait and are refused. */
  admission: AdmissionSettings
}

export interface WorkerSection extends Omit<IsolationOptions, 'mode' | 'workers' | 'streams' | 'execArgv' | 'env'> {
  /** process: the engine runs in worker processes. Default none: in this one. */
  isolation: 'none' | 'process'
  /** Worker processes, each with the models and a share of the engine's memory. Default 1. */
  count: number
}

export interface StreamRegistrySection extends Pick<StreamLimits, 'defaultTimeoutMs'> {
  /** Streams of one worker at a time; one more is SERVICE_UNAVAILABLE. Default 10. */
  maxActiveStreams: number
}

export interface NetworkSettings {
  /** Attempts and the delays between them. */
  retry: Required<NonNullable<ArchiveOptions['retry']>>
  /** When a server that keeps failing is left alone. */
  circuitBreaker: NetworkBreaker
}

export interface NetworkBreaker {
  /** Failed blobs in a row that open the circuit. */
  failureThreshold: number
  /** Milliseconds that it stays open. */
  cooldownMs: number
}

export interface DownloadSettings {
  /** The folder for files whose path nobody names. Default: the working directory. */
  folder?: string
  /** How long one request may take, in milliseconds; the whole answer may take as long as bytes come. */
  timeouts: Omit<TransferTimeouts, 'totalMs'>
}

export interface LoadTimeout {
  /** Milliseconds that loading one model may take. Default: no limit. */
  loadMs?: number
}

const hooks = { onTransition: true, onPhase: true, logger: true, onEvent: true, onError: true } as const

export const runtimeSchema = z.strictObject({
  engine: engineSchema.omit({ ...hooks, timeouts: true, guards: true, telemetry: true }).prefault({}),
  models: z.array(loadSchema).max(64).default([]).describe('a list of at most 64 models'),
  network: z
    .strictObject({ retry: archiveSchema.shape.retry, circuitBreaker: archiveSchema.shape.breaker })
    .prefault({}),
  download: z
    .strictObject({
      folder: z.string().min(1).optional().describe('the path of a folder'),
      timeouts: z.strictObject(timeoutFields).prefault({})
    })
    .prefault({}),
  worker: isolationSchema
    .omit({ mode: true, workers: true, streams: true, execArgv: true, env: true })
    .extend({
      isolation: z.enum(['none', 'process']).default('none').describe('none or process'),
      count: isolationSchema.shape.workers
    })
    .prefault({}),
  streamRegistry: z
    .strictObject({
      maxActiveStreams: streamsSchema.shape.maxActive,
      defaultTimeoutMs: streamsSchema.shape.defaultTimeoutMs
    })
    .prefault({}),
  timeouts: engineSchema.shape.timeouts.unwrap().extend({ loadMs: callFields.timeoutMs }).default({}),
  guards: engineSchema.shape.guards,
  telemetry: engineSchema.shape.telemetry,
  server: serverSchema.prefault({}),
  admission: admissionSchema.prefault({})
})

/** What no field can say of itself. */
export function contradictions({ engine, models, timeouts, server, worker }: RuntimeConfig): Fault[] {
  const ids = new Map<string, number>()
  return [
    ...refused([], () => checkTimeouts(timeouts as Parameters<typeof checkTimeouts>[0])),
    ...refused(['engine'], () => checkGpuSettings(engine as Parameters<typeof checkGpuSettings>[0])),
    ...serverContradictions(server as CheckedServer).map(({ path, found, allowed }) => ({
      path: ['server', ...path],
      found: describeValue(found),
      allowed
    })),
    ...refused(['worker'], () => checkHeartbeat(worker as Parameters<typeof checkHeartbeat>[0])),
    ...models.flatMap((model, i) => {
      const faults: Fault[] = []
      const fault = (key: keyof LoadModelRequest, allowed: string, found: unknown = model[key]) =>
        faults.push({ path: ['models', i, key], found: describeValue(found), allowed })
      const { latencyBudgetMs, tierSet, gpuMemory, prefixCache } = model
      if (latencyBudgetMs !== undefined && tierSet !== undefined) fault('latencyBudgetMs', 'only without tierSet')
      if (gpuMemory !== undefined && engine.backend === 'cpu')
        fault('gpuMemory', 'only with the backends webgpu and cuda')
      if (prefixCache && engine.backend !== 'cpu') fault('prefixCache', prefixCacheElsewhere)
      const id = modelId(model)
      const first = ids.get(id)
      if (first !== undefined) fault('id', `an id that no other model has, as models[${first}] does`, id)
      ids.set(id, first ?? i)
      return faults
    })
  ]
}

/** The id that a model gets when it is loaded. */
export const modelId = ({ id, model }: LoadModelRequest): string => id ?? locateModel(packageRoot(), model).id

/** The VALIDATION_ERROR of a check, as a fault. */
function refused(around: readonly string[], check: () => void): Fault[] {
  try {
    check()
    return []
  } catch (error) {
    if (!isEngineError(error)) throw error
    const { path, found, allowed } = error.details
    return [{ path: [...around, ...String(path).split('.')], found: String(found), allowed: String(allowed) }]
  }
}
