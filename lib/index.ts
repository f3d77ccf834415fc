/** tiered-moe: Mixture-of-Experts models in Node. The kernel-level interface is `tiered-moe/kernels`. */

export type { ArchiveOptions } from './archive/options.js'
export type {
  ConvertModelRequest,
  ConvertProgress,
  ConvertResult,
  Damage,
  Manifest,
  Placement,
  RoutingStatistics,
  TierConfig,
  VerifyProgress,
  VerifyReport
} from './checkpoint/index.js'
export { convertModel, verifyCheckpoint } from './checkpoint/index.js'
export type { ConfigFault } from './config/provenance.js'
export { createEngine } from './create-engine.js'
export type { PullOptions, PullProgress, PullRequest, PullResult } from './download/pull.js'
export { pullFile } from './download/pull.js'
export type { BackendInfo } from './engine/backend-info.js'
export type { DisposeOptions } from './engine/calls.js'
export type { ExpandRequest, Expansion } from './engine/expand.js'
export type { FreezeOptions } from './engine/maintenance.js'
export type {
  BackendName,
  EngineOptions,
  GuardSettings,
  JournalOptions,
  LoadModelOptions,
  LoadModelRequest,
  TelemetrySettings
} from './engine/options.js'
export type { Perplexity, PerplexityRequest } from './engine/perplexity.js'
export type { BootPhase, LoadPhase, PhaseEvent } from './engine/phases.js'
export type { ResumeRequest } from './engine/resume.js'
export type { SwapModelOptions } from './engine/swap-model.js'
export type { Engine } from './engine.js'
export type {
  CatalogEntry,
  EngineCode,
  ErrorCategory,
  ErrorCode,
  ErrorDetails,
  ErrorScope,
  ErrorSeverity,
  HttpClass,
  LogLevel,
  ResourceInfo,
  RetryClass,
  WireError
} from './errors/index.js'
export {
  CircuitBreakerOpenError,
  catalog,
  EngineClientError,
  EngineError,
  engineCodeRetry,
  engineCodes,
  errorFromWire,
  httpClasses,
  isEngineError,
  TimeoutError
} from './errors/index.js'
export type { ExpertMemory } from './expert-budget.js'
export type { ExpertChange } from './experts/changes.js'
export type { PersistedExpert } from './experts/persist.js'
export type { ExpertSwap, SwappedExpert } from './experts/swaps.js'
export type { Generator } from './generation/generator.js'
export type { FinalItem, FinishReason, GenerationItem, TokenItem, Usage } from './generation/items.js'
export type { CallOptions, ChatMessage, GenerationRequest } from './generation/options.js'
export type { RoutingCapture } from './generation/routing.js'
export type { GenerationResult } from './generation/whole-text.js'
export type { JsonSchema, ResponseFormat } from './guidance/index.js'
export type { Isolation, IsolationOptions, StreamLimits } from './isolation/settings.js'
export type { WorkerCrash, WorkerInfo, WorkerState } from './isolation/worker-info.js'
export type { DamagedBytes, Recovered, RecoveredModel, RecoveredRequest } from './journal/index.js'
export type { EngineState, Transition } from './lifecycle.js'
export type { ExpertTrace, ModelInfo, ModelStats, TierSetChange } from './loaded-model.js'
export type { Alternative } from './memory-plan.js'
export type { ModelDescriptor } from './model/index.js'
export type {
  CachePolicy,
  Counters,
  ExpertStats,
  Isa,
  KvType,
  LayerStats,
  LoadProgress,
  Prefetch
} from './native.js'
export { openConfigured } from './open-configured.js'
export type { ConfigRequest, LoadedConfig, RuntimeOptions } from './runtime-config.js'
export { loadRuntimeConfig } from './runtime-config.js'
export type { DownloadSettings, EngineHooks, NetworkBreaker, NetworkSettings, RuntimeConfig } from './runtime-schema.js'
export type { AuditVerification } from './telemetry/audit-verify.js'
export { verifyAuditLog } from './telemetry/audit-verify.js'
export type { EngineEvent, EventName } from './telemetry/event-catalog.js'
export type { EventLevel, Logger } from './telemetry/logger.js'
export type { MetricFamily, MetricSample, MetricType } from './telemetry/metrics.js'
export type { ErrorContext } from './telemetry/telemetry.js'
export type { ExpertKey, Tier } from './tiers/model-tiers.js'
export type {
  ExpertCount,
  ExpertPlacement,
  ExpertResidency,
  PlacementCounts,
  PlacementView,
  TierPlacementView,
  Where
} from './tiers/placement-view.js'
export type { BudgetCounts, LatencyBudget } from './tiers/selection.js'
export type { Steered } from './tiers/steering.js'
export type { Trace } from './tiers/trace.js'
export { readTrace, writeTrace } from './tiers/trace.js'
