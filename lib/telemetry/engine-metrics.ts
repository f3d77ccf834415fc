/** Every metric of an engine, named once. Counters end in _total; times are seconds, sizes bytes. */
import type { Metric } from './metrics.js'
import { Metrics } from './metrics.js'

const tokenSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
const requestSeconds = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 300]

/** What an expert store has counted since its model was loaded. */
export interface ExpertFigures {
  /** Demands for an expert that was in memory, that was on its way, and that had to be asked for. */
  hits: number
  late: number
  misses: number
  evictions: number
  demandBytes: number
  prefetchBytes: number
  /** Of prefetched bytes: demanded before they were evicted, and evicted without. */
  prefetchUsedBytes: number
  prefetchWastedBytes: number
  readErrors: number
  waitMs: number
  residentBytes: number
  budgetBytes: number
  /** Demands that a prediction was made for, and those of them that it named. */
  layers: readonly { predictable: number; predicted: number; prefetching: boolean }[]
}

/** What a model's prefix cache has counted since its load, and what it holds. */
export interface PrefixFigures {
  hits: number
  misses: number
  reusedTokens: number
  evictions: number
  bytes: number
}

export class EngineMetrics extends Metrics {
  readonly state = this.gauge('tiered_moe_engine_state', 'Label of the current state: 1; of each other state: 0.')
  readonly transitions = this.counter('tiered_moe_transitions_total', 'Changes of state, by the state entered.')
  readonly errors = this.counter('tiered_moe_errors_total', 'Errors that callers got, by code.')
  readonly events = this.counter('tiered_moe_events_total', 'Events, by name.')
  readonly eventsDropped = this.counter('tiered_moe_events_dropped_total', 'Events that the logger never got.')
  readonly workerRestarts = this.counter('tiered_moe_worker_restarts_total', 'Workers started again, by worker.')
  readonly auditRecords = this.counter('tiered_moe_audit_records_total', 'Records, by outcome: written or lost.')

  readonly loads = this.counter('tiered_moe_loads_total', 'Models loaded, by outcome.')
  readonly loadSeconds = this.gauge('tiered_moe_load_seconds', 'What loading took, by model and phase.')
  readonly weightBytes = this.gauge('tiered_moe_weight_bytes', 'Weights in memory, by model.')

  readonly requests = this.counter('tiered_moe_requests_total', 'Requests that ended, by model and outcome.')
  readonly active = this.gauge('tiered_moe_requests_active', 'Requests that have begun and not ended.')
  readonly waiting = this.gauge('tiered_moe_requests_waiting', 'Of those, how many have no token yet: the queue.')
  readonly promptTokens = this.counter('tiered_moe_prompt_tokens_total', 'Tokens of prompts, by model.')
  readonly completionTokens = this.counter('tiered_moe_completion_tokens_total', 'Tokens generated, by model.')
  readonly steps = this.counter('tiered_moe_steps_total', 'Steps that a request was part of, by model.')
  readonly firstToken = this.histogram('tiered_moe_first_token_seconds', 'To the first token.', requestSeconds)
  readonly tokenTime = this.histogram('tiered_moe_token_seconds', 'From one token to the next.', tokenSeconds)
  readonly requestTime = this.histogram('tiered_moe_request_seconds', 'From begin to end.', requestSeconds)

  readonly liveBytes = this.gauge('tiered_moe_live_bytes', 'Memory that the addon holds, of all engines here.')
  readonly openFiles = this.gauge('tiered_moe_open_files', 'Files that the addon holds open.')
  readonly activeJobs = this.gauge('tiered_moe_active_jobs', 'Native calls under way.')

  readonly #demands = this.counter(
    'tiered_moe_expert_demands_total',
    'Demands for experts, by outcome: hit, late (its read was under way) or miss.'
  )
  readonly #evictions = this.counter('tiered_moe_expert_evictions_total', 'Experts that were evicted.')
  readonly #readBytes = this.counter('tiered_moe_expert_read_bytes_total', 'Bytes read, by reason.')
  readonly #prefetched = this.counter('tiered_moe_expert_prefetched_bytes_total', 'Prefetched bytes, by use.')
  readonly #recall = this.gauge('tiered_moe_prefetch_recall', 'Of predictable demands, the share that was predicted.')
  readonly #prefetching = this.gauge('tiered_moe_prefetching_layers', 'Layers that experts are read ahead for now.')
  readonly #readErrors = this.counter('tiered_moe_expert_read_errors_total', 'Reads of experts that failed.')
  readonly #waitSeconds = this.counter('tiered_moe_expert_wait_seconds_total', 'Time that steps waited for reads.')
  readonly #residentBytes = this.gauge('tiered_moe_expert_resident_bytes', 'Experts in memory.')
  readonly #budgetBytes = this.gauge('tiered_moe_expert_budget_bytes', 'What experts may take.')

  readonly #prefixLookups = this.counter(
    'tiered_moe_prefix_lookups_total',
    'Requests that looked for the beginning of their prompt, by outcome: hit or miss.'
  )
  readonly #prefixTokens = this.counter('tiered_moe_prefix_tokens_total', 'Tokens that were not computed again.')
  readonly #prefixEvictions = this.counter('tiered_moe_prefix_evictions_total', 'Pages of prefixes given up.')
  readonly #prefixBytes = this.gauge('tiered_moe_prefix_bytes', 'KV cache of prefixes in memory.')

  /** What a model's prefix cache counted up to now. */
  setPrefixes(model: string, { hits, misses, reusedTokens, evictions, bytes }: PrefixFigures): void {
    this.#prefixLookups.set(hits, { model, outcome: 'hit' })
    this.#prefixLookups.set(misses, { model, outcome: 'miss' })
    this.#prefixTokens.set(reusedTokens, { model })
    this.#prefixEvictions.set(evictions, { model })
    this.#prefixBytes.set(bytes, { model })
  }

  /** What a model's expert store counted up to now. */
  setExperts(model: string, figures: ExpertFigures): void {
    const set = (metric: Metric, value: number, labels: Record<string, string> = {}): void =>
      metric.set(value, { model, ...labels })
    set(this.#demands, figures.hits, { outcome: 'hit' })
    set(this.#demands, figures.late, { outcome: 'late' })
    set(this.#demands, figures.misses, { outcome: 'miss' })
    set(this.#evictions, figures.evictions)
    set(this.#readBytes, figures.demandBytes, { reason: 'demand' })
    set(this.#readBytes, figures.prefetchBytes, { reason: 'prefetch' })
    set(this.#prefetched, figures.prefetchUsedBytes, { use: 'used' })
    set(this.#prefetched, figures.prefetchWastedBytes, { use: 'wasted' })
    const { layers } = figures
    const predictable = layers.reduce((sum, layer) => sum + layer.predictable, 0)
    const predicted = layers.reduce((sum, layer) => sum + layer.predicted, 0)
    set(this.#recall, predictable > 0 ? predicted / predictable : 0)
    set(this.#prefetching, layers.filter(({ prefetching }) => prefetching).length)
    set(this.#readErrors, figures.readErrors)
    set(this.#waitSeconds, figures.waitMs / 1000)
    set(this.#residentBytes, figures.residentBytes)
    set(this.#budgetBytes, figures.budgetBytes)
  }

  /** Gauges of a model that is gone; what was counted stays. */
  forgetModel(model: string): void {
    const own = [this.#recall, this.#prefetching, this.#residentBytes, this.#budgetBytes, this.#prefixBytes]
    for (const gauge of [this.loadSeconds, this.weightBytes, ...own]) {
      gauge.forget({ model })
    }
  }
}
