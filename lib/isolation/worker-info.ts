/** What an engine tells of the processes that it runs in. */

/** starting: not yet ready for the first time. restarting: it died, and the next process is being started. failed: given up. */
export type WorkerState = 'starting' | 'ready' | 'restarting' | 'failed' | 'stopped'

/**
 * How a process ended. exit: by itself. unresponsive, stuck, closed, killed: by this engine, for no sign of life, a step that got nowhere, an engine
 * in it that could not recover, and work that did not end.
 */
export type DeathReason = 'signal' | 'abort' | 'exit' | 'unresponsive' | 'stuck' | 'closed' | 'killed'

export interface WorkerCrash {
  /** ISO 8601. */
  time: string
  pid: number
  /** Of a signal 128 and its number, as shells have it. */
  exitCode: number
  signal: NodeJS.Signals | null
  reason: DeathReason
  /** The kernel killed it for its memory. */
  outOfMemory: boolean
  /** Path of the record; null where none could be written. */
  crashRecord: string | null
}

export interface WorkerInfo {
  index: number
  /** Null while there is none. */
  pid: number | null
  state: WorkerState
  /** Processes that were started after the first one. */
  restarts: number
  /** Streams that it has. */
  streams: number
  lastCrash: WorkerCrash | null
}
