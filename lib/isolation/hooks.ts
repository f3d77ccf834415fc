/** Hands what a worker's engine tells to the hooks of whoever created the engine. */
import type { CheckedOptions } from '../engine/options.js'
import type { PhaseEvent } from '../engine/phases.js'
import type { EngineError } from '../errors/index.js'
import type { EngineEvent } from '../telemetry/event-catalog.js'
import type { ErrorContext } from '../telemetry/telemetry.js'
import type { LogParams } from './protocol.js'
import type { RpcPeer } from './rpc.js'

/** `heard`: called with an event before the hook, so that the hook finds what it has led to. */
export function listenFor(
  rpc: RpcPeer,
  { logger, onEvent, onError, onPhase }: Pick<CheckedOptions, 'logger' | 'onEvent' | 'onError' | 'onPhase'>,
  heard: (event: EngineEvent) => void
): void {
  rpc.handle('log', ({ level, fields, message }: LogParams) => guarded(() => logger?.[level](fields, message)))
  rpc.handle('event', (event: EngineEvent) => {
    heard(event)
    guarded(() => onEvent?.(event))
  })
  rpc.handle('phase', (event: PhaseEvent) => guarded(() => onPhase?.(event)))
  rpc.handle('error', ({ error, context }: { error: EngineError; context: ErrorContext }) =>
    guarded(() => onError?.(error, context))
  )
}

/** A hook's own failure is not the engine's. */
function guarded(call: () => void): void {
  try {
    call()
  } catch {
    // It has nowhere to be told: the logger itself may be what failed.
  }
}
