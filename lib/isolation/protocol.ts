/** What an engine and its workers say to each other. */
import type { BackendInfo } from '../engine/backend-info.js'
import type { EngineOptions, JournalOptions } from '../engine/options.js'
import type { FinalItem, TokenItem } from '../generation/items.js'
import type { Recovered } from '../journal/index.js'
import type { EngineState } from '../lifecycle.js'
import type { ModelInfo, ModelStats } from '../loaded-model.js'
import type { Counters } from '../native.js'
import type { BreakerSnapshot } from '../resilience/breaker.js'
import type { EventLevel } from '../telemetry/logger.js'
import type { MetricFamily } from '../telemetry/metrics.js'
import type { PlacementData } from './placement-data.js'

/** What can be sent of an engine's options: no functions. */
export type WorkerOptions = Omit<
  EngineOptions,
  'onTransition' | 'onPhase' | 'logger' | 'onEvent' | 'onError' | 'isolation' | 'journal' | 'signals'
>

/** Hooks that somebody listens to; nothing is sent for the others. */
export interface WorkerHooks {
  logger: boolean
  onEvent: boolean
  onError: boolean
  onPhase: boolean
}

export interface InitializeParams {
  options: WorkerOptions
  journal: JournalOptions | undefined
  /** The journal is there for this engine alone: requests leave it when their stream ends. */
  ephemeral: boolean
  hooks: WorkerHooks
  heartbeatMs: number
}

export interface InitializeResult {
  recovered: Recovered
  mirror: Mirror
}

export interface OpenParams {
  stream: number
  kind: 'create' | 'resume'
  method: string
  /** Of create: as checked, in the form that createGenerator takes. */
  request: Record<string, unknown>
  requestId: string
  /** Of resume: items of earlier positions are not sent. */
  from: number
  /** Items that may be sent at first. */
  credit: number
}

/** Of a process that was started again: what the one before it knew of an archive. */
export interface CircuitParams {
  model: string
  circuit: BreakerSnapshot
}

/** Of a process that was started again: the requests that go on. Others that its ephemeral journal has are nobody's. */
export interface KeepParams {
  requests: string[]
}

/** The end of a stream: its last item, or why there is none. */
export interface EndParams {
  stream: number
  item?: FinalItem
  error?: unknown
}

/** An item with arrays. */
export interface ItemParams {
  stream: number
  from: number
  item: TokenItem
}

/** A sign of life. */
export interface Heartbeat {
  counters: Counters
}

export interface MirroredModel {
  info: ModelInfo
  stats: ModelStats
  placement: PlacementData
  /** Of its archive. */
  circuit: BreakerSnapshot | undefined
}

/** What an engine says at once when it is asked. */
export interface Mirror {
  state: EngineState
  backend: BackendInfo | undefined
  counters: Counters
  routingSeed: string
  metrics: MetricFamily[]
  models: MirroredModel[]
}

export interface LogParams {
  level: EventLevel
  fields: Record<string, unknown>
  message: string | undefined
}

/** Items that may be on their way to a consumer. */
export const window = 32
