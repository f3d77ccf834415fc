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
export { createEngine } from './create-engine.js'
export type { BackendInfo } from './engine/backend-info.js'
export type { DisposeOptions } from './engine/calls.js'
export type { ExpandRequest, Expansion } from './engine/expand.js'
export type { FreezeOptions } from './engine/maintenance.js'
export type {
  BackendName,
  EngineOptions,
  JournalOptions,
  LoadModelOptions,
  LoadModelRequest,
  TelemetrySettings
} from './engine/options.js'
export type { Perplexity, PerplexityRequest } from './engine/perplexity.js'
export type { BootPhase, LoadPhase, PhaseEvent } from './engine/phases.js'
export type { ResumeRequest } from './engine/resume.js'
export type { Engine } from './engine.js'
export type {
  CatalogEntry,
  EngineCode,
  ErrorCategory,
  ErrorCode,
  ErrorDetails,
  ErrorScope,
  ErrorSeverity,
  LogLevel,
  ResourceInfo,
  RetryClass,
  WireError
} from './errors/index.js'
export { catalog, EngineClientError, EngineError, isEngineError, TimeoutError } from './errors/index.js'
export type { ExpertMemory } from './expert-budget.js'
export type { ExpertChange } from './experts/changes.js'
export type { PersistedExpert } from './experts/persist.js'
export type { ExpertSwap, SwappedExpert } from './experts/swaps.js'
export type { Generator } from './generation/generator.js'
export type { FinalItem, FinishReason, GenerationItem, TokenItem, Usage } from './generation/items.js'
export type { CallOptions, ChatMessage, GenerationRequest } from './generation/options.js'
export type { RoutingCapture } from './generation/routing.js'
export type { GenerationResult } from './generation/whole-text.js'
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
