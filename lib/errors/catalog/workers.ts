/** Failures of the processes that isolated engines run in, and of the channel to them. */
import type { CatalogEntry } from './entry.js'
import { operators } from './entry.js'

const worker = { ...operators, category: 'runtime', scope: 'engine', native: false } as const

export const workers = {
  WORKER_BINARY_NOT_FOUND: {
    ...worker,
    meaning: 'The program of a worker process is not where it belongs.',
    category: 'configuration',
    severity: 'fatal',
    details: ['path'],
    suggestedAction: 'Look whether details.path exists: install the package again, or build it in a checkout.'
  },
  WORKER_SPAWN_FAILED: {
    ...worker,
    meaning: 'The system started no worker process.',
    category: 'resource',
    retry: 'backoff',
    httpStatus: 503,
    details: ['errno', 'path'],
    suggestedAction:
      'See details.errno: EAGAIN and ENOMEM are limits on processes and memory, EMFILE one on open files, EACCES a file that may not be run.'
  },
  WORKER_INIT_CRASHED: {
    ...worker,
    meaning: 'A worker process ended before it was ready.',
    retry: 'backoff',
    httpStatus: 502,
    engineCode: 'RuntimeError',
    details: ['exitCode', 'signal', 'stderr', 'crashRecord'],
    suggestedAction: 'Read details.stderr and the file details.crashRecord, which say how it ended.'
  },
  WORKER_START_TIMEOUT: {
    ...worker,
    meaning: 'A worker process was not ready in time.',
    category: 'resource',
    retry: 'backoff',
    operator: false,
    httpStatus: 504,
    exitCode: 124,
    engineCode: 'Timeout',
    details: ['timeout', 'duration', 'pid'],
    suggestedAction: 'Raise startTimeoutMs, or find out what keeps the machine busy; loading models does not count.'
  },
  WORKER_CRASHED: {
    ...worker,
    meaning: 'A worker process ended while it served; the details of a generation have the text up to then.',
    retry: 'backoff',
    operator: false,
    httpStatus: 502,
    engineCode: 'RuntimeError',
    details: ['pid', 'exitCode', 'signal', 'reason', 'crashRecord'],
    suggestedAction:
      'Try again: a new worker is being started. If it comes again, read details.crashRecord and report it.'
  },
  WORKER_OUT_OF_MEMORY: {
    ...worker,
    meaning: 'The kernel killed a worker process for the memory that it took.',
    category: 'resource',
    retry: 'backoff',
    httpStatus: 502,
    exitCode: 137,
    engineCode: 'RuntimeError',
    details: ['pid', 'exitCode', 'signal', 'reason', 'crashRecord'],
    suggestedAction:
      'Load the model with less memory (loadModel’s memory), take fewer workers, or give the machine more.'
  },
  WORKER_PROTOCOL_ERROR: {
    ...worker,
    meaning: 'What came over the channel of a worker process is not what belongs there; the worker is replaced.',
    retry: 'backoff',
    operator: false,
    httpStatus: 502,
    exitCode: 255,
    engineCode: 'TransportError',
    details: ['reason', 'frame'],
    suggestedAction: 'Try again: a new worker is being started. If it comes again, memory may be faulty; report it.'
  },
  WORKER_RESTARTS_EXHAUSTED: {
    ...worker,
    meaning: 'A worker process ended again and again, and is not started any more.',
    severity: 'fatal',
    httpStatus: 503,
    details: ['attempts', 'lastExitCode', 'signal', 'crashRecord'],
    suggestedAction: 'Read details.crashRecord, mend the cause, and start a new engine.'
  }
} as const satisfies Record<string, CatalogEntry>
