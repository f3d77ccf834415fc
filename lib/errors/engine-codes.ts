/** The sixteen names that mlx-serving gives to failures, with their JSON-RPC codes and what they say about another attempt. */

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

/** For failures that have such a name alone; of an error of the catalogue its own class decides. `inherit`: as the cause says. */
export const engineCodeRetry = {
  ParseError: 'never',
  InvalidRequest: 'never',
  MethodNotFound: 'never',
  InvalidParams: 'never',
  InternalError: 'backoff',
  ServerError: 'backoff',
  ModelLoadError: 'inherit',
  GenerationError: 'inherit',
  TokenizerError: 'never',
  GuidanceError: 'never',
  ModelNotLoaded: 'never',
  RuntimeError: 'backoff',
  TransportError: 'backoff',
  Timeout: 'backoff',
  Cancelled: 'never',
  UnknownError: 'inherit'
} as const satisfies Record<EngineCode, 'never' | 'backoff' | 'inherit'>

const byNumber = new Map<number, EngineCode>(
  Object.entries(engineCodes).map(([name, number]) => [number, name as EngineCode])
)

/** The name that a foreign error has in its `code`, as a text or as a JSON-RPC number (-32000 to -32099 are a server's own). */
export function engineCodeOf(error: unknown): EngineCode | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code
  if (typeof code === 'string') return Object.hasOwn(engineCodes, code) ? (code as EngineCode) : undefined
  if (typeof code !== 'number') return undefined
  return byNumber.get(code) ?? (code <= -32000 && code >= -32099 ? 'ServerError' : undefined)
}
