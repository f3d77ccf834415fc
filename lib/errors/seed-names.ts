/** What became of the names that failures have in the documents this library was made from; docs/errors.md has it as a table. */
import type { ErrorCode } from './catalog.js'

export interface SeedName {
  document: 'Lite LLM 008' | 'llama-orch, hand-off' | 'llama-orch, patterns' | 'mlx-serving'
  name: string
  /** The codes that it became; none where it is no failure here, or not yet. */
  codes: readonly ErrorCode[]
  /** The event that it became. */
  event?: string
  note?: string
}

const withRanks = 'comes with expert parallelism over several processes'

/** The rows of one document; a name alone is that of its code. */
const of = (document: SeedName['document'], rows: readonly (ErrorCode | Omit<SeedName, 'document'>)[]): SeedName[] =>
  rows.map((row) => (typeof row === 'string' ? { document, name: row, codes: [row] } : { document, ...row }))

export const seedNames: readonly SeedName[] = [
  ...of('Lite LLM 008', [
    { name: 'unknown tier', codes: ['CONFIG_UNKNOWN_TIER'] },
    { name: 'mismatched group counts', codes: ['CONFIG_GROUP_COUNT_MISMATCH'] },
    { name: 'insufficient memory', codes: ['RESOURCE_MEMORY_EXHAUSTED', 'RESOURCE_BUDGET_TOO_SMALL'] },
    { name: 'exhausted file descriptors', codes: ['RESOURCE_FILES_EXHAUSTED'] },
    { name: 'invalid device state', codes: ['GPU_DEVICE_LOST'] },
    { name: 'invalid expert', codes: ['ROUTING_INVALID_EXPERT'] },
    { name: 'mismatch of routes between nodes, failed consensus', codes: [], note: withRanks },
    { name: 'NaN', codes: ['RUNTIME_NAN_DETECTED'] },
    { name: 'memory corruption', codes: ['RUNTIME_MEMORY_CORRUPTION'] },
    { name: 'panic in a kernel', codes: ['RUNTIME_INVARIANT_VIOLATED'] },
    { name: 'corrupted checkpoint', codes: ['CHECKPOINT_INVALID', 'MODEL_CORRUPTED'] },
    { name: 'version mismatch', codes: ['MODEL_VERSION_MISMATCH'] },
    { name: 'broken invariant', codes: ['RUNTIME_INVARIANT_VIOLATED'] },
    { name: 'starvation of an expert', codes: [], event: 'expert_starved', note: 'no failure' }
  ]),
  ...of('llama-orch, hand-off', [
    { name: 'CUDA_ERROR', codes: ['CUDA_DEVICE_FAILED'] },
    { name: 'CUDA_OUT_OF_MEMORY', codes: ['GPU_VRAM_EXHAUSTED'] },
    { name: 'BACKEND_FALLBACK', codes: [], note: 'never: nothing changes the backend by itself' },
    'MODEL_CORRUPTED',
    'SERVICE_UNAVAILABLE',
    'INFERENCE_TIMEOUT',
    'NETWORK_PARTITION',
    { name: 'DOWNLOAD_RETRY', codes: [], event: 'download_retry', note: 'no failure' },
    { name: 'RAM exhausted', codes: ['RESOURCE_MEMORY_EXHAUSTED', 'RESOURCE_BUDGET_TOO_SMALL'] },
    { name: 'disk exhausted', codes: ['RESOURCE_DISK_EXHAUSTED'] },
    {
      name: 'worker binary not found, crash at start, crash, out of memory',
      codes: ['WORKER_BINARY_NOT_FOUND', 'WORKER_INIT_CRASHED', 'WORKER_CRASHED', 'WORKER_OUT_OF_MEMORY']
    },
    { name: 'port in use', codes: ['PORT_IN_USE'], note: 'the event `port_moved` where a later one was free' },
    { name: 'expired token', codes: ['AUTH_TOKEN_EXPIRED'] }
  ]),
  ...of('llama-orch, patterns', [
    'CUDA_DEVICE_FAILED',
    'GPU_VRAM_EXHAUSTED',
    'CIRCUIT_BREAKER_OPEN',
    { name: 'RETRY_BACKOFF', codes: [], event: 'retry_backoff', note: 'no failure' },
    'RESOURCE_LEAK_DETECTED',
    'VALIDATION_ERROR',
    'UNAUTHORIZED',
    'FORBIDDEN',
    {
      name: 'NOT_FOUND',
      codes: ['NOT_FOUND', 'MODEL_NOT_FOUND', 'MODEL_NOT_LOADED', 'REQUEST_NOT_FOUND'],
      note: 'the class of 404'
    },
    'RATE_LIMITED',
    { name: 'INTERNAL_ERROR', codes: ['RUNTIME_INVARIANT_VIOLATED'], note: 'the class of 500' },
    {
      name: 'BAD_GATEWAY',
      codes: ['WORKER_CRASHED', 'ARCHIVE_REFUSED', 'NETWORK_PARTITION'],
      note: 'the class of 502'
    },
    'SERVICE_UNAVAILABLE',
    {
      name: 'GATEWAY_TIMEOUT',
      codes: ['INFERENCE_TIMEOUT', 'CALL_TIMEOUT', 'MODEL_LOAD_TIMEOUT', 'GPU_SUBMIT_TIMEOUT'],
      note: 'the class of 504'
    },
    { name: 'HTTP_ERROR', codes: ['UNKNOWN_ERROR'] }
  ]),
  ...of('mlx-serving', [
    { name: 'the sixteen codes', codes: [], note: '`engineCode`, above' },
    { name: 'EngineClientError', codes: [], note: 'the class `EngineError`, exported under both names' },
    {
      name: 'TimeoutError',
      codes: ['INFERENCE_TIMEOUT', 'MODEL_LOAD_TIMEOUT', 'CALL_TIMEOUT'],
      note: 'a class of this name'
    },
    { name: 'CircuitBreakerOpenError', codes: ['CIRCUIT_BREAKER_OPEN'], note: 'a class of this name' },
    { name: 'RetryAbortedError', codes: ['CANCELLED'], note: 'a class of this name' }
  ])
]
