/**
 * The one list of failures: every code that this version can raise, with all that is derived from it: HTTP replies, exit codes,
 * JSON-RPC codes, retries, logs and docs/errors.md. `native` marks the codes of csrc/core/status.h; a test holds the two equal.
 */

/** What kind of failure it is: the caller's choice, a lack of something, a wrong route, or something that went wrong while running. */
export type ErrorCategory = 'configuration' | 'resource' | 'routing' | 'runtime'
/** Fatal means that the thing named by the scope cannot go on; the process always can. */
export type ErrorSeverity = 'recoverable' | 'fatal'
export type ErrorScope = 'request' | 'model' | 'engine' | 'process'
/** When the same call may be tried again: `after` = after details.retryAfterSeconds, `inherit` = as the cause says. */
export type RetryClass = 'never' | 'immediate' | 'backoff' | 'after' | 'inherit'
export type LogLevel = 'info' | 'warn' | 'error'

/** The names that mlx-serving gives to failures, each with its JSON-RPC code. */
export const engineCodes = {
  ParseError: -32700,
  InvalidRequest: -32600,
  MethodNotFound: -32601,
  InvalidParams: -32602,
  InternalError: -32603,
  ServerError: -32000,
  ModelLoadError: -32001,
  GenerationError: -32002,
  TokenizerError: -32003,
  GuidanceError: -32004,
  ModelNotLoaded: -32005,
  RuntimeError: -32006,
  TransportError: -32007,
  Timeout: -32008,
  Cancelled: -32009,
  UnknownError: -32010
} as const
export type EngineCode = keyof typeof engineCodes

export interface CatalogEntry {
  /** When it is raised, one sentence. */
  meaning: string
  category: ErrorCategory
  severity: ErrorSeverity
  scope: ErrorScope
  retry: RetryClass
  logLevel: LogLevel
  /** Someone who runs the machine has to do something. */
  operator: boolean
  httpStatus: number
  exitCode: number
  engineCode: EngineCode
  suggestedAction: string
  /** Also a code of the addon's status enum. */
  native: boolean
}

const request = {
  severity: 'recoverable',
  scope: 'request',
  retry: 'never',
  logLevel: 'warn',
  operator: false
} as const
const badModel = { severity: 'fatal', scope: 'model', retry: 'never', logLevel: 'error', operator: true } as const

export const catalog = {
  VALIDATION_ERROR: {
    ...request,
    meaning: 'An argument has the wrong type, is out of range, or is unknown.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 2,
    engineCode: 'InvalidParams',
    suggestedAction: 'Correct the argument named by details.path; details.allowed says what it may be.',
    native: true
  },
  ISA_UNSUPPORTED: {
    ...request,
    meaning: 'The instruction set asked for is not one that this CPU and this build have.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidParams',
    suggestedAction: "Leave out 'isa' to use the fastest one, or choose one that `tiered-moe doctor` lists.",
    native: true
  },
  BACKEND_UNAVAILABLE: {
    ...request,
    meaning: 'The backend asked for is not part of this version or cannot start on this machine.',
    category: 'configuration',
    scope: 'engine',
    logLevel: 'error',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction: 'Choose a backend of details.available; nothing falls back to another one by itself.',
    native: false
  },
  ADDON_UNAVAILABLE: {
    meaning: 'The native addon is missing, or was built for another platform.',
    category: 'configuration',
    severity: 'fatal',
    scope: 'process',
    retry: 'never',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction:
      'Install the package for this platform, or run `npm run build:addon` in a checkout (Python 3 and a C++17 compiler).',
    native: false
  },
  AUDIT_LOG_INVALID: {
    ...request,
    meaning: 'An audit log was changed, cut, reordered, or is being written by somebody else.',
    category: 'runtime',
    scope: 'engine',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction:
      'Keep the file as evidence, find out what changed it (details.line is the first bad line), and begin a new log.',
    native: false
  },
  ENGINE_DISPOSED: {
    ...request,
    meaning: 'The engine is shutting down or has been disposed.',
    category: 'configuration',
    scope: 'engine',
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'InvalidRequest',
    suggestedAction: 'Create a new engine with createEngine().',
    native: false
  },
  ENGINE_FROZEN: {
    ...request,
    meaning: 'The engine is frozen for maintenance and takes no new requests.',
    category: 'resource',
    scope: 'engine',
    retry: 'after',
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction: 'Try again after details.retryAfterSeconds, or thaw the engine.',
    native: false
  },
  LIFECYCLE_INVALID_TRANSITION: {
    meaning: 'A change of state was asked for that the lifecycle does not have.',
    category: 'runtime',
    severity: 'recoverable',
    scope: 'engine',
    retry: 'never',
    logLevel: 'error',
    operator: false,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'InternalError',
    suggestedAction: 'Ask only for a state of details.allowed.',
    native: false
  },
  MODEL_NOT_FOUND: {
    ...request,
    meaning: 'There is no file at the path of the model, and no built-in model has that name.',
    category: 'configuration',
    httpStatus: 404,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: 'Check the path; leave the model out to use the embedded one.',
    native: true
  },
  MODEL_FILE_INVALID: {
    ...badModel,
    meaning: 'The file is not a GGUF file, or it is damaged or cut off.',
    category: 'runtime',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: 'Fetch the file again and compare its size and checksum with the source.',
    native: true
  },
  MODEL_VERSION_MISMATCH: {
    ...badModel,
    meaning: 'The file has a version of its format that is not supported.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: 'Convert the model to a version of details.supported.',
    native: true
  },
  MODEL_CORRUPTED: {
    ...badModel,
    meaning: 'A file of a model does not hold the bytes that its manifest states.',
    category: 'runtime',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction:
      'Run the `convert` command again with the same source (only damaged files are written anew), or fetch the file again.',
    native: true
  },
  CHECKPOINT_INVALID: {
    ...badModel,
    meaning: 'The manifest of a tiered checkpoint is damaged, contradicts itself, or does not fit the files beside it.',
    category: 'runtime',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: 'Convert the model again; `tiered-moe verify` lists everything that is wrong with a checkpoint.',
    native: false
  },
  ARCHITECTURE_UNSUPPORTED: {
    ...badModel,
    meaning: 'The model has an architecture that is not supported.',
    category: 'configuration',
    operator: false,
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: 'Use a Mixture-of-Experts model with an architecture of details.supported.',
    native: false
  },
  METADATA_INVALID: {
    ...badModel,
    meaning: "A value of the model's metadata is missing, has the wrong type, is out of range, or is not supported.",
    category: 'runtime',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: 'Convert the model again with a current converter; details.key names the value.',
    native: false
  },
  TENSOR_TYPE_UNSUPPORTED: {
    ...badModel,
    meaning: 'A tensor has a weight type that is not supported.',
    category: 'configuration',
    operator: false,
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: 'Quantise the model to a type of details.supported (`tiered-moe quantize` writes Q8_0 and Q4_0).',
    native: true
  },
  TENSOR_MISSING: {
    ...badModel,
    meaning: 'A tensor that the architecture needs is not in the file.',
    category: 'runtime',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: 'Convert the model again; of a split model, join the parts first.',
    native: true
  },
  TENSOR_SHAPE_MISMATCH: {
    ...badModel,
    meaning: "A tensor has another shape than the model's metadata says.",
    category: 'runtime',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: 'Convert the model again; details has the expected and the actual shape.',
    native: true
  },
  CONFIG_UNKNOWN_TIER: {
    ...request,
    meaning: 'A configuration, a TierSet or a request names a tier that the model does not have.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 2,
    engineCode: 'InvalidParams',
    suggestedAction: 'Use names of details.known, or one of details.tierSets.',
    native: false
  },
  CONFIG_GROUP_COUNT_MISMATCH: {
    ...badModel,
    meaning:
      'The configuration, the manifest (or metadata) and the router do not have the same number of expert groups.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: "Make the group counts agree; details has the configured, the manifest's and the router's.",
    native: false
  },
  TOKENIZER_UNSUPPORTED: {
    ...request,
    meaning: 'The model has a tokenizer that is not supported, or none.',
    category: 'configuration',
    scope: 'model',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'TokenizerError',
    suggestedAction:
      'Pass token ids (promptTokens) instead of text, or use a model with a byte-level or SentencePiece BPE tokenizer.',
    native: false
  },
  CHAT_TEMPLATE_INVALID: {
    ...request,
    meaning: 'The model has no chat template, or the template failed on these messages.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'TokenizerError',
    suggestedAction:
      "Pass a prompt instead of messages, or use an instruction-tuned model; details.reason has the template's own message.",
    native: false
  },
  MODEL_NOT_LOADED: {
    ...request,
    meaning: 'No model with this id is loaded (generating never loads one by itself), or it was unloaded meanwhile.',
    category: 'configuration',
    httpStatus: 404,
    exitCode: 1,
    engineCode: 'ModelNotLoaded',
    suggestedAction: 'Call loadModel() first and use the id it returns; details.loaded lists the ids there are.',
    native: true
  },
  MODEL_ALREADY_LOADED: {
    ...request,
    meaning: 'A model with this id is loaded already.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction: 'Use the loaded model, give the new one another id, or unload the old one first.',
    native: false
  },
  MODEL_LOAD_TIMEOUT: {
    ...request,
    meaning: 'Loading a model took longer than its timeoutMs.',
    category: 'resource',
    retry: 'backoff',
    logLevel: 'error',
    httpStatus: 504,
    exitCode: 124,
    engineCode: 'Timeout',
    suggestedAction: 'Raise timeoutMs, or use a smaller weight type or a faster disk.',
    native: false
  },
  CONTEXT_LENGTH_EXCEEDED: {
    ...request,
    meaning: "The tokens do not fit the model's context.",
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidParams',
    suggestedAction: 'Shorten the prompt, or load the model with a larger contextLength if it supports one.',
    native: true
  },
  RESOURCE_MEMORY_EXHAUSTED: {
    ...request,
    meaning: 'There is not enough memory for a model or for a sequence.',
    category: 'resource',
    retry: 'backoff',
    logLevel: 'error',
    operator: true,
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction: 'Free memory, or take one of details.alternatives: a smaller weight type, context or batch.',
    native: true
  },
  EXPERT_UNAVAILABLE: {
    ...request,
    meaning: 'An expert could not be read, twice in a row; requests that need it fail, the others go on.',
    category: 'resource',
    retry: 'backoff',
    logLevel: 'error',
    operator: true,
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'GenerationError',
    suggestedAction: 'Check the disk and the file of details.path; the next use of the expert tries again.',
    native: true
  },
  FILE_READ_FAILED: {
    ...request,
    meaning: 'The system could not read a file.',
    category: 'resource',
    scope: 'model',
    retry: 'backoff',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction: 'Check permissions and the disk; details.errno has the reason of the system.',
    native: true
  },
  FILE_WRITE_FAILED: {
    ...request,
    meaning: 'The system could not write a file; nothing half-written is left.',
    category: 'resource',
    retry: 'backoff',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction: 'Check permissions and free space; details.errno has the reason of the system.',
    native: true
  },
  NETWORK_PARTITION: {
    ...request,
    meaning: 'The archive could not be reached, or did not answer to the end, in any of the attempts.',
    category: 'resource',
    retry: 'backoff',
    logLevel: 'error',
    operator: true,
    httpStatus: 502,
    exitCode: 255,
    engineCode: 'TransportError',
    suggestedAction: 'Check the network and the server named by details.target; details.reason has what happened last.',
    native: false
  },
  ARCHIVE_REFUSED: {
    ...request,
    meaning:
      'The archive answered, but will not give the bytes: not found, not allowed, or another file than the manifest describes.',
    category: 'resource',
    logLevel: 'error',
    operator: true,
    httpStatus: 502,
    exitCode: 255,
    engineCode: 'TransportError',
    suggestedAction:
      "Check the archive's address, its files and the credentials in archive.headers; details.reason has what it answered.",
    native: false
  },
  CIRCUIT_BREAKER_OPEN: {
    ...request,
    meaning: 'What is behind has failed several times in a row; it is left alone for a while.',
    category: 'resource',
    retry: 'after',
    logLevel: 'error',
    httpStatus: 503,
    exitCode: 255,
    engineCode: 'TransportError',
    suggestedAction: 'Try again after details.retryAfterSeconds; repair what details.circuit names.',
    native: false
  },
  EXPERT_CORRUPTED: {
    ...request,
    meaning:
      "An expert's bytes do not have the checksum that the manifest says; requests that need it fail, the others go on.",
    category: 'runtime',
    scope: 'model',
    retry: 'immediate',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'RuntimeError',
    suggestedAction:
      'Restore the file that details.file names from its source, or convert the model again; `tiered-moe verify` finds all.',
    native: true
  },
  RESOURCE_BUDGET_TOO_SMALL: {
    ...request,
    meaning:
      'A budget is smaller than the least that can work: that for experts holds one for every thread and one in flight, beside those pinned.',
    category: 'resource',
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction: 'Raise the budget to details.resourceInfo.required bytes, use fewer threads, or unpin experts.',
    native: true
  },
  RESOURCE_DISK_EXHAUSTED: {
    ...request,
    meaning: 'A disk has no room for what is to be written; nothing half-written is left.',
    category: 'resource',
    retry: 'backoff',
    logLevel: 'error',
    operator: true,
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction: 'Free space on the disk (details.resourceInfo has the bytes), or write to another one.',
    native: false
  },
  ROUTING_INVALID_EXPERT: {
    ...request,
    meaning: 'A route names an expert that does not exist.',
    category: 'routing',
    logLevel: 'error',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidParams',
    suggestedAction: 'Use expert ids from 0 to experts - 1; details has the token, the slot and the id.',
    native: true
  },
  ROUTING_TOO_FEW_EXPERTS: {
    ...request,
    meaning: 'A TierSet enables fewer experts of a layer than a token uses.',
    category: 'routing',
    logLevel: 'warn',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidParams',
    suggestedAction:
      'Enable more tiers; details has the layer, how many experts are enabled and how many a token uses.',
    native: true
  },
  RUNTIME_NAN_DETECTED: {
    ...request,
    meaning: 'A value that is not finite appeared; this sequence stops, the others of its batch go on with equal bits.',
    category: 'runtime',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'GenerationError',
    suggestedAction:
      'Check the weights of the model (a damaged or badly quantised file); the same input gives it again.',
    native: true
  },
  RUNTIME_MEMORY_CORRUPTION: {
    ...request,
    meaning:
      'The bytes of an expert have changed in memory since they were read; what was computed with it may be wrong.',
    category: 'runtime',
    scope: 'engine',
    retry: 'immediate',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'RuntimeError',
    suggestedAction:
      "Generate again (the expert is read again); test the machine's memory and look for addons that write where they should not.",
    native: true
  },
  RUNTIME_INVARIANT_VIOLATED: {
    meaning: 'An internal check failed: a fault of this library.',
    category: 'runtime',
    severity: 'fatal',
    scope: 'engine',
    retry: 'never',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'InternalError',
    suggestedAction:
      'Report it with the message and details; running requests were ended and the engine has recovered.',
    native: true
  },
  INFERENCE_TIMEOUT: {
    ...request,
    meaning: 'A generation took longer than its timeoutMs; the details have the text up to then.',
    category: 'resource',
    retry: 'backoff',
    logLevel: 'error',
    httpStatus: 504,
    exitCode: 124,
    engineCode: 'Timeout',
    suggestedAction: 'Raise timeoutMs, ask for fewer tokens, or use a smaller model.',
    native: false
  },
  JOURNAL_LOCKED: {
    ...request,
    meaning: 'Another engine, of this process or another one, has the journal open.',
    category: 'configuration',
    scope: 'engine',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction:
      'Stop the other engine (details.pid), or give this one a journal folder of its own. A lock whose process died holds nobody.',
    native: false
  },
  JOURNAL_CORRUPTED: {
    ...request,
    meaning: 'The journal is damaged in a way that no crash leaves: bytes before its last record cannot be read.',
    category: 'resource',
    severity: 'fatal',
    scope: 'engine',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction:
      "Put the file back from a copy, or open the journal with onDamage: 'salvage' to keep what can be read; details.damage says what cannot.",
    native: false
  },
  JOURNAL_VERSION_UNSUPPORTED: {
    ...request,
    meaning: 'The journal was written by a later version, in a format that this one does not know.',
    category: 'configuration',
    scope: 'engine',
    logLevel: 'error',
    operator: true,
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction: 'Use the version that wrote it until its requests are done, or another folder.',
    native: false
  },
  JOURNAL_WRITE_FAILED: {
    ...request,
    meaning: 'The journal could not take a request, so it was not accepted. Those that run go on.',
    category: 'resource',
    retry: 'backoff',
    logLevel: 'error',
    operator: true,
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'ServerError',
    suggestedAction:
      'Free space where the journal is (details.resourceInfo has the bytes); the next request tries again.',
    native: false
  },
  TRACE_INVALID: {
    ...request,
    meaning: 'A file is no trace of an expert cache, is of a newer version, or was damaged.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidParams',
    suggestedAction: 'Record the trace again; details.reason says what is wrong with the file.',
    native: false
  },
  REQUEST_ALREADY_EXISTS: {
    ...request,
    meaning: 'A request with this id is running, or is in the journal and was not acknowledged.',
    category: 'configuration',
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'InvalidRequest',
    suggestedAction: 'Resume it with resumeGenerator(), acknowledge it, or use another requestId.',
    native: false
  },
  REQUEST_NOT_FOUND: {
    ...request,
    meaning: 'No request with this id is in the journal: never accepted, acknowledged, or expired.',
    category: 'configuration',
    httpStatus: 404,
    exitCode: 1,
    engineCode: 'InvalidRequest',
    suggestedAction:
      'Check the id (engine.recovered lists those of an earlier run), or begin it again with createGenerator().',
    native: false
  },
  MODEL_CHANGED: {
    ...request,
    meaning: 'The model of a request is not the one that it began with, so going on would give another text.',
    category: 'configuration',
    operator: true,
    httpStatus: 400,
    exitCode: 1,
    engineCode: 'ModelLoadError',
    suggestedAction:
      'Put the file back that details.expected describes and load it as it was, or begin the request again with createGenerator().',
    native: false
  },
  CANCELLED: {
    ...request,
    meaning: 'The caller aborted; the details of a generation have the text up to then.',
    category: 'runtime',
    logLevel: 'info',
    httpStatus: 499,
    exitCode: 130,
    engineCode: 'Cancelled',
    suggestedAction: 'Nothing to do: the caller asked for it.',
    native: true
  }
} as const satisfies Record<string, CatalogEntry>

export type ErrorCode = keyof typeof catalog
