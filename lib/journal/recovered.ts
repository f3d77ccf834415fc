/** What an engine finds in its journal, as its caller sees it. */
import type { EngineError } from '../errors/index.js'
import type { DamagedBytes } from './reader.js'
import type { ModelRecord } from './records.js'
import type { JournaledRequest, JournalState } from './state.js'

/** A request that the journal holds. `running`: it has not ended, and `resumeGenerator` goes on with it. */
export interface RecoveredRequest {
  requestId: string
  /** Id of its model. */
  model: string
  state: 'running' | 'finished' | 'failed'
  finishReason?: 'stop' | 'length'
  /** What it failed with; it can be resumed all the same. */
  code?: string
  promptTokens: number
  /** Tokens generated, as far as the journal has them. The others are computed again, with the same result. */
  completionTokens: number
  /** Tokens handed to the consumer, at least. */
  delivered: number
  /** Milliseconds since the epoch. */
  acceptedAt: number
}

/** A model that was loaded when the engine before this one ended, or before it where that was killed without having loaded it again. */
export interface RecoveredModel {
  id: string
  path: string
  /** As loadModel took them. */
  options: Record<string, unknown>
  /** Why it could not be loaded again (with `recover: 'load'`). */
  error?: EngineError
}

export interface Recovered {
  /** In the order in which they were accepted. */
  requests: RecoveredRequest[]
  models: RecoveredModel[]
  /** The version of this package that wrote last; undefined for a new journal. */
  version: string | undefined
  /** 128 bits, hexadecimal, where the engine before this one had one. */
  routingSeed: string | undefined
  /** The unfinished end of a write that a crash cut short. It was cut off; nothing in it had been acknowledged. */
  cut: DamagedBytes | undefined
  /** With `onDamage: 'salvage'`: what could not be read. Requests accepted there are lost. */
  damage: DamagedBytes[]
}

export function describeRequest(request: JournaledRequest, models: ReadonlyMap<number, ModelRecord>): RecoveredRequest {
  const { accepted, tokens, delivered, finished, failed } = request
  const { promptTokens } = accepted.request
  return {
    requestId: accepted.id,
    model: models.get(accepted.load)?.id ?? String(accepted.request.model),
    state: finished ? 'finished' : failed ? 'failed' : 'running',
    ...(finished && { finishReason: finished.reason }),
    ...(failed && { code: failed.code }),
    promptTokens: Array.isArray(promptTokens) ? promptTokens.length : 0,
    completionTokens: tokens.length,
    delivered,
    acceptedAt: accepted.at
  }
}

/** The options of a load, with the TierSet or latency budget that was activated last and the tiers that were added. */
export function loadOptions(
  state: JournalState,
  load: number,
  options: Record<string, unknown>
): Record<string, unknown> {
  const active = state.tierSets.get(load)
  const folders = Object.fromEntries(
    [...(state.tierFolders.get(load) ?? [])].map(([tier, { folder }]) => [tier, folder])
  )
  const added = Object.entries(folders).filter(([, folder]) => folder !== null)
  const given = options.tierFolders as object | undefined
  const withFolders = {
    ...options,
    ...(added.length > 0 && { tierFolders: { ...given, ...Object.fromEntries(added) } })
  }
  if (!active) return withFolders
  const { tierSet: _, latencyBudgetMs: __, ...rest } = withFolders as Record<string, unknown>
  const { tiers, latencyBudgetMs } = active
  return { ...rest, ...(latencyBudgetMs === undefined ? { tierSet: tiers } : { latencyBudgetMs }) }
}

export function describeRecovered(
  state: JournalState,
  cut: DamagedBytes | undefined,
  damage: DamagedBytes[]
): Recovered {
  return {
    requests: [...state.requests.values()].map((request) => describeRequest(request, state.models)),
    models: [...state.inherited, ...state.loaded].map((load) => {
      const { id, path, options } = state.models.get(load)!
      return { id, path, options: loadOptions(state, load, options) }
    }),
    version: state.start?.version,
    routingSeed: state.start?.routingSeed,
    cut,
    damage
  }
}
