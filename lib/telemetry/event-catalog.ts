/** The one list of events: what the engine says while it works, apart from errors, which errors/catalog/ lists. */
import type { EventLevel } from './logger.js'

export interface EventEntry {
  /** Unless the event says otherwise. */
  level: EventLevel
  /** When it is sent, one sentence. */
  meaning: string
  /**
   * Goes into the audit log too. `chained` names the fields that the same run has again: they are in the chain of hashes; the others
   * (times, durations, random names) stand beside it.
   */
  chained?: readonly string[]
}

export const eventCatalog = {
  engine_state: { level: 'info', meaning: 'The state of the engine changed.', chained: ['from', 'to', 'reason'] },
  boot_phase: { level: 'debug', meaning: 'A step of starting the engine began, ended, failed or was skipped.' },
  load_phase: { level: 'debug', meaning: 'A phase of loading a model began, ended, failed or was skipped.' },
  config_loaded: {
    level: 'info',
    meaning: 'A configuration was read and is sound: the file, and which of its environments; an engine is made of it.'
  },
  routing_seed: {
    level: 'info',
    meaning: 'The routing seed was chosen; it never changes while the engine lives.',
    chained: ['seed', 'source']
  },
  model_loaded: {
    level: 'info',
    meaning: 'A model was loaded.',
    chained: ['model', 'architecture', 'layers', 'experts', 'weightType', 'fileBytes', 'checksum', 'tierSet']
  },
  model_swapped: {
    level: 'info',
    meaning: 'A model was replaced by another one under its id; requests that had begun ended on the old one.',
    chained: ['model', 'architecture', 'layers', 'experts', 'weightType', 'fileBytes', 'checksum', 'tierSet']
  },
  model_unloaded: { level: 'info', meaning: 'A model was unloaded.', chained: ['model'] },
  request_started: { level: 'debug', meaning: 'The consumer of a request asked for its first token.' },
  request_finished: {
    level: 'info',
    meaning: 'A request ended without an error; an abandoned one has no finishReason.'
  },
  tierset_activated: {
    level: 'info',
    meaning: 'The TierSet of a model changed.',
    chained: ['model', 'tierSet', 'previous']
  },
  archive_fetched: { level: 'debug', meaning: 'An expert came from the archive into the cold folder.' },
  archive_failed: { level: 'warn', meaning: 'An expert could not be fetched from the archive.' },
  archive_circuit: {
    level: 'warn',
    meaning: 'The circuit to the archive is tried again; error where it opened, info where it closed.'
  },
  retry_backoff: {
    level: 'warn',
    meaning:
      'A request to the archive, or a call of a worker process, failed for a reason that may pass; it is made again after `nextRetrySeconds`.'
  },
  download_retry: {
    level: 'warn',
    meaning:
      'A download broke off, or could not begin; it is tried again after `nextRetrySeconds`, and goes on where it was.'
  },
  download_restarted: {
    level: 'warn',
    meaning: 'What had come of a download does not count: the file changed, or its bytes are wrong.'
  },
  latency_budget_unmet: {
    level: 'warn',
    meaning: 'No TierSet is predicted to hold the latency budget of a request; the fastest is used.'
  },
  latency_budget_overrun: {
    level: 'warn',
    meaning:
      'A request took longer per token than its latency budget; the TierSet is not chosen for the next ones like it.'
  },
  tier_added: { level: 'info', meaning: 'A tier was added to a model that serves.', chained: ['model', 'tier'] },
  tier_missing: {
    level: 'warn',
    meaning:
      'A tier that was added before the engine ended is not in its folder any more; the model is loaded without it.',
    chained: ['model', 'tier']
  },
  expert_swapped: {
    level: 'warn',
    meaning: 'An expert was replaced by another version of it.',
    chained: ['model', 'layer', 'expert', 'version', 'sha256']
  },
  experts_persisted: {
    level: 'info',
    meaning: 'Changed experts were written into their checkpoint.',
    chained: ['model', 'experts']
  },
  expert_starved: {
    level: 'warn',
    meaning: 'An expert was not used for longer than the window.',
    chained: ['model', 'layer', 'expert', 'idleSteps']
  },
  experts_pinned: {
    level: 'info',
    meaning: 'Experts were pinned by hand, so that they are never evicted, or no longer.',
    chained: ['model', 'experts', 'pinned']
  },
  hot_experts_unpinned: {
    level: 'warn',
    meaning:
      'Hot tiers have more experts than fit, or than their budgets allow: those are not pinned, the policy of the cache has them.',
    chained: ['model', 'experts']
  },
  expert_budget_changed: {
    level: 'warn',
    meaning:
      'The budget of experts shrank because memory ran short (`reason`: memory, stall) or was refused to something else (allocation), or grew again when it no longer did (calm).'
  },
  resource_low: {
    level: 'warn',
    meaning:
      'A disk that the engine writes to, or the descriptors of the process, run short; error where nearly nothing is left, info where there is enough again.'
  },
  step_stuck: {
    level: 'error',
    meaning: 'A native step got nowhere for too long: its requests, and those behind it, ended.'
  },
  journal_opened: { level: 'info', meaning: 'The journal was opened; what it holds can be resumed.' },
  journal_cut: { level: 'warn', meaning: 'The end of the journal was cut off: a crash had left it unfinished.' },
  request_resumed: { level: 'info', meaning: 'A request of the journal goes on.' },
  server_listening: { level: 'info', meaning: 'The server takes requests.' },
  port_moved: { level: 'warn', meaning: 'The port of the server was not free; it took a later one.' },
  request_queued: { level: 'debug', meaning: 'A request of the server had to wait for its turn.' },
  request_refused: { level: 'debug', meaning: 'The server refused a request before anything was computed for it.' },
  admin_request: { level: 'info', meaning: 'Somebody had the server do something: who, and what.' },
  server_draining: { level: 'info', meaning: 'The server takes no more requests, and lets those that run end.' },
  shutdown_step: { level: 'info', meaning: 'A step of the shutdown ended.', chained: ['step'] },
  signal_received: { level: 'info', meaning: 'The process was told to end.', chained: ['signal'] },
  worker_started: { level: 'info', meaning: 'A worker process was started.' },
  worker_ready: { level: 'info', meaning: 'A worker process serves, with the models that were loaded before.' },
  worker_died: { level: 'error', meaning: 'A worker process ended that was not told to.' },
  worker_restarting: { level: 'warn', meaning: 'A worker process that died is started again after `delayMs`.' },
  streams_resumed: { level: 'info', meaning: 'The streams of a worker that died go on in the next one.' },
  events_dropped: { level: 'warn', meaning: 'Events came faster than the logger took them; the oldest were dropped.' },
  audit_records_lost: {
    level: 'error',
    meaning: 'The audit log could not be written for a while, and can be again.',
    chained: ['count']
  }
} as const satisfies Record<string, EventEntry>

export type EventName = keyof typeof eventCatalog

/** Sent to `onEvent` and, flat, to the logger. */
export interface EngineEvent {
  event: EventName
  level: EventLevel
  message: string
  /** Milliseconds since the engine began, of a monotonic clock. */
  elapsedMs: number
  fields: Readonly<Record<string, unknown>>
}
