/** What the archive does, as events of the engine. */
import type { ArchiveEvent } from '../archive/archive.js'
import { retryTold } from '../resilience/retry-told.js'
import type { EventLevel } from '../telemetry/logger.js'
import type { Telemetry } from '../telemetry/telemetry.js'

const circuitLevels = { OPEN: 'error', HALF_OPEN: 'warn', CLOSED: 'info' } as const satisfies Record<string, EventLevel>

/** Evictions, and transfers that begin anew, are not told one by one. */
export function tellArchive(telemetry: Telemetry, model: string, event: ArchiveEvent): void {
  const { type, ...fields } = event
  if (event.type === 'archive.fetched') {
    telemetry.event('archive_fetched', `${event.bytes} bytes of ${event.file} came`, { model, ...fields })
  } else if (event.type === 'archive.failed') {
    const { file, offset, error } = event
    const reason = error instanceof Error ? error.message : String(error)
    telemetry.event('archive_failed', `an expert in ${file} could not be fetched`, { model, file, offset, reason })
  } else if (event.type === 'archive.retry') {
    const { message, fields: wait } = retryTold(event, event.delaysMs)
    telemetry.event('retry_backoff', message, { model, method: 'archive', target: event.target, ...wait })
  } else if (event.type === 'archive.circuit') {
    const message = `the circuit to ${event.name} is ${event.next}`
    telemetry.event('archive_circuit', message, { model, ...fields }, circuitLevels[event.next])
  }
}
