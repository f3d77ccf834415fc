/** What one engine tells of its work: events and errors to a logger and to hooks, counts to metrics, both to the audit log. */
import { performance } from 'node:perf_hooks'
import type { EngineError } from '../errors/index.js'
import { isEngineError } from '../errors/index.js'
import { EngineMetrics } from './engine-metrics.js'
import { EventBuffer } from './event-buffer.js'
import type { EngineEvent, EventEntry, EventName } from './event-catalog.js'
import { eventCatalog } from './event-catalog.js'
import type { EventLevel, Logger } from './logger.js'
import { loggedDetails, loggedMessage } from './redaction.js'
import type { Tracing } from './tracing.js'
import { noTracing, openTracing } from './tracing.js'

/** Where records for audit go; AuditLog is one. */
export interface AuditSink {
  /** `data` is chained, `note` stands beside the chain. Never throws. */
  append(event: string, data: Readonly<Record<string, unknown>>, note: Readonly<Record<string, unknown>>): void
  /** Resolves when everything is on the disk. */
  sync(): Promise<void>
  close(): Promise<void>
}

/** Where an error came up. */
export interface ErrorContext {
  /** The method that was called. */
  method?: string
  model?: string
  requestId?: string
}

export interface TelemetryOptions {
  logger?: Logger | undefined
  onEvent?: ((event: EngineEvent) => void) | undefined
  onError?: ((error: EngineError, context: ErrorContext) => void) | undefined
  /** Events that wait for the logger at most. Default 1024. */
  bufferedEvents?: number | undefined
  /** Bridge to OpenTelemetry where its API is installed. Default true. */
  openTelemetry?: boolean | undefined
}

interface Delivery {
  level: EventLevel
  message: string
  fields: Readonly<Record<string, unknown>>
  event?: EngineEvent
}

const defaultBufferedEvents = 1024

export class Telemetry {
  readonly metrics = new EngineMetrics()
  readonly #options: TelemetryOptions
  readonly #buffer: EventBuffer<Delivery>
  readonly #began = performance.now()
  /** An error passes several layers on its way to the caller, and is told once. */
  readonly #told = new WeakSet<object>()
  #tracing: Tracing = noTracing
  #audit: AuditSink | undefined

  constructor(options: TelemetryOptions = {}) {
    this.#options = options
    this.#buffer = new EventBuffer(options.bufferedEvents ?? defaultBufferedEvents, (delivery) =>
      this.#deliver(delivery)
    )
  }

  get tracing(): Tracing {
    return this.#tracing
  }

  /** Takes up tracing and the audit log; what was told before is in neither. */
  async start(audit?: AuditSink): Promise<void> {
    this.#audit = audit
    if (this.#options.openTelemetry !== false) this.#tracing = await openTracing(this.metrics)
  }

  /** Lets events through to the logger and the hooks: on in every state of the engine but init. */
  open(): void {
    this.#buffer.open()
  }

  event(
    event: EventName,
    message: string,
    fields: Readonly<Record<string, unknown>> = {},
    level: EventLevel = eventCatalog[event].level
  ): void {
    const entry: EventEntry = eventCatalog[event]
    this.metrics.events.add(1, { event })
    if (entry.chained) {
      const data: Record<string, unknown> = {}
      const note: Record<string, unknown> = {}
      for (const [key, value] of Object.entries(fields)) (entry.chained.includes(key) ? data : note)[key] = value
      this.#audit?.append(event, data, note)
    }
    const elapsedMs = performance.now() - this.#began
    this.#push({
      level,
      message,
      fields: { event, ...fields },
      event: { event, level, message, elapsedMs, fields }
    })
  }

  /** Tells of an error, once; of what is not an EngineError nothing is told, it is the caller's own. Returns it. */
  error(error: unknown, context: ErrorContext = {}): unknown {
    if (!isEngineError(error) || this.#told.has(error)) return error
    this.#told.add(error)
    const { code, details, logLevel, timestamp } = error
    const message = loggedMessage(error.message, details)
    const text = (key: 'model' | 'requestId'): string | null => {
      const value = context[key] ?? details[key]
      return typeof value === 'string' ? value : null
    }
    const [model, requestId] = [text('model'), text('requestId')]
    const { method } = context
    this.metrics.errors.add(1, { code })
    // Messages have times and sizes of the moment; the code is what the same run has again.
    this.#audit?.append('error', { code, model, method: method ?? null }, { requestId, message })
    const told = { ...loggedDetails(details), ...(method !== undefined && { method }) }
    this.#push({ level: logLevel, message, fields: { code, message, details: told, model, requestId, timestamp } })
    if (logLevel !== 'info') guarded(() => this.#options.onError?.(error, context))
    return error
  }

  /** Hands everything to the logger, and the audit log to the disk. */
  async flush(): Promise<void> {
    this.#buffer.flush()
    await this.#audit?.sync()
  }

  async close(): Promise<void> {
    this.#buffer.flush()
    this.#tracing.close()
    await this.#audit?.close()
  }

  #push(delivery: Delivery): void {
    const { logger, onEvent } = this.#options
    if (!logger && !onEvent) return
    this.#buffer.push(delivery)
    // What went wrong is told at once: the process may not live to the next turn of its loop.
    if (delivery.level === 'error') this.#buffer.flush()
  }

  #deliver(delivery: Delivery): void {
    const dropped = this.#buffer.takeDropped()
    if (dropped > 0) {
      this.metrics.eventsDropped.add(dropped)
      this.event('events_dropped', `${dropped} events were dropped`, { count: dropped })
    }
    const { level, fields, message, event } = delivery
    guarded(() => this.#options.logger?.[level](fields, message))
    if (event) guarded(() => this.#options.onEvent?.(event))
  }
}

/** A logger's or a hook's own failure is not the engine's. */
function guarded(call: () => void): void {
  try {
    call()
  } catch {
    // It has nowhere to be told: the logger itself may be what failed.
  }
}
