/** Failures of what looks after the process: its descriptors, what it gives back, and steps that get nowhere. */
import type { CatalogEntry } from './entry.js'
import { operators } from './entry.js'

export const guards = {
  RESOURCE_FILES_EXHAUSTED: {
    ...operators,
    meaning: 'No more files can be open, of this process (errno EMFILE) or of the system (ENFILE).',
    category: 'resource',
    scope: 'process',
    retry: 'backoff',
    httpStatus: 503,
    details: ['path', 'errno', 'resourceInfo'],
    suggestedAction:
      'Raise the limit (`ulimit -n`, LimitNOFILE=; details.resourceInfo has it where known), serve fewer connections at a time, or look for a leak with `tiered-moe doctor --leaks`.',
    native: true
  },
  RESOURCE_LEAK_DETECTED: {
    ...operators,
    meaning: 'Something was not given back: handles, descriptors, native memory, child processes or temporary folders.',
    category: 'resource',
    scope: 'process',
    engineCode: 'InternalError',
    details: ['leakedProcesses', 'leakedTempFiles', 'leakedHandles', 'leakedFiles'],
    suggestedAction:
      'Dispose of engines and end generators that are not read to their end; what is left then is a fault of this library: report details.',
    native: false
  },
  RUNTIME_STEP_STUCK: {
    ...operators,
    meaning: 'A native step got nowhere for longer than guards.step_ms; its requests, and those behind it, ended.',
    category: 'runtime',
    severity: 'fatal',
    scope: 'engine',
    retry: 'backoff',
    httpStatus: 504,
    exitCode: 124,
    engineCode: 'Timeout',
    details: ['model', 'elapsedMs', 'limitMs', 'requests'],
    suggestedAction:
      'Look at the disk and the CPUs of the machine; raise guards.step_ms where steps really take that long. The engine goes on when the step ends; one that never ends goes with its process.',
    native: false
  }
} as const satisfies Record<string, CatalogEntry>
