/** What an engine does at one moment, as the live page shows it: plain data, and nothing that users wrote. */
import { performance } from 'node:perf_hooks'
import type { Engine } from '../engine.js'
import type { WorkerInfo } from '../isolation/worker-info.js'
import type { EngineState } from '../lifecycle.js'
import type { ModelInfo } from '../loaded-model.js'
import { packageVersion } from '../native.js'
import type { MetricFamily } from '../telemetry/metrics.js'
import type { PlacementView } from '../tiers/placement-view.js'
import type { RecentError } from './recent-errors.js'

/** Requests before the engine: those that run, those that wait, and those that were refused. */
export interface LiveQueue {
  running: number
  queued: number
  /** Most that run, and most that wait. */
  concurrency: number
  queueDepth: number
  admitted: number
  /** By reason. */
  refused: Readonly<Record<string, number>>
  draining: boolean
}

/** Demands for experts since the load, where they are kept under a budget. */
export interface LiveCache {
  hits: number
  late: number
  misses: number
  evictions: number
  readBytes: number
  waitSeconds: number
}

export interface LiveModel {
  id: string
  architecture: string
  /** Whether it takes messages, and whether it was made for them: its file has a template. */
  chat: boolean
  ownTemplate: boolean
  contextLength: number
  activeSequences: number
  /** Tokens generated. */
  tokens: number
  weightBytes: number
  /** What experts may take of memory, and take now. */
  budgetBytes: number
  usedBytes: number
  /** The active TierSet, and the names of all. */
  tierSet: { name: string; tiers: readonly string[] }
  tierSets: readonly string[]
  latencyBudgetMs: number | null
  /** The tiers' own figures are those of PlacementView; `budgetBytes`: most that is pinned. */
  tiers: (PlacementView['tiers'][number] & { available: boolean; budgetBytes: number | null })[]
  cache: LiveCache | null
}

export interface LiveState {
  version: string
  /** ISO 8601. */
  now: string
  /** Of a clock that only goes forward: since when this process runs. */
  seconds: number
  state: EngineState
  backend: { name: string; device: string | null; isa: string; threads: number } | null
  /** Requests in the engine, of these those without a token yet. */
  active: number
  waiting: number
  /** Mean, since the engine began. */
  firstTokenSeconds: number | null
  queue: LiveQueue | null
  models: LiveModel[]
  /** Empty where the engine runs in this process. */
  workers: WorkerInfo[]
  errors: RecentError[]
}

/** The sum of a metric's samples, of one model or of all. */
class Figures {
  readonly #families: Map<string, MetricFamily>

  constructor(families: readonly MetricFamily[]) {
    this.#families = new Map(families.map((family) => [family.name, family]))
  }

  of(name: string, model?: string, field: 'value' | 'sum' = 'value'): number {
    const samples = this.#families.get(`tiered_moe_${name}`)?.samples ?? []
    const own = samples.filter(({ labels }) => model === undefined || labels.model === model)
    return own.reduce((sum, sample) => sum + (sample[field] ?? 0), 0)
  }
}

function cacheOf(engine: Engine, model: string): LiveCache | null {
  const { experts } = engine.modelStats(model)
  if (!experts) return null
  const { hits, late, misses, evictions, demandBytes, prefetchBytes, waitMs } = experts
  return { hits, late, misses, evictions, readBytes: demandBytes + prefetchBytes, waitSeconds: waitMs / 1000 }
}

function modelOf(engine: Engine, info: ModelInfo, figures: Figures): LiveModel {
  const { id, tiers, tierSet, tierSets, latencyBudgetMs = null, contextLength, activeSequences, weightBytes } = info
  const { budgetBytes, usedBytes, tiers: placed } = engine.placement(id)
  return {
    id,
    architecture: info.descriptor.architecture,
    chat: info.hasChatTemplate,
    ownTemplate: info.descriptor.hasChatTemplate,
    contextLength,
    activeSequences,
    tokens: figures.of('first_token_seconds', id) + figures.of('token_seconds', id),
    weightBytes,
    budgetBytes,
    usedBytes,
    tierSet,
    tierSets,
    latencyBudgetMs,
    tiers: placed.map((tier, i) => ({
      ...tier,
      available: tiers[i]!.available,
      budgetBytes: tiers[i]!.budget ?? null
    })),
    cache: cacheOf(engine, id)
  }
}

/** Reads the engine once. */
export function liveState(engine: Engine, queue: LiveQueue | null, errors: RecentError[]): LiveState {
  const open = engine.state !== 'closed'
  const figures = new Figures(engine.metrics())
  const first = figures.of('first_token_seconds')
  const { name, device = null, isa, threads } = open ? engine.backend : {}
  return {
    version: packageVersion(),
    now: new Date().toISOString(),
    seconds: performance.now() / 1000,
    state: engine.state,
    backend: name === undefined ? null : { name, device, isa: isa!, threads: threads! },
    active: figures.of('requests_active'),
    waiting: figures.of('requests_waiting'),
    firstTokenSeconds: first > 0 ? figures.of('first_token_seconds', undefined, 'sum') / first : null,
    queue,
    models: engine.listModels().map((info) => modelOf(engine, info, figures)),
    workers: engine.workers(),
    errors
  }
}
