/** What the pieces of one server share. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Engine } from '../engine.js'
import type { EngineError } from '../errors/index.js'
import type { RecentErrors } from '../live-page/recent-errors.js'
import type { AdmissionControl } from '../resilience/index.js'
import type { Telemetry } from '../telemetry/telemetry.js'
import type { HttpMetrics } from './http-metrics.js'
import type { Caller } from './keys.js'
import type { TokenMeter } from './meter.js'
import type { Quotas } from './quotas.js'
import type { Runs } from './runs.js'
import type { CheckedAdmission, CheckedServer } from './settings.js'

export interface ServerContext {
  readonly engine: Engine
  readonly settings: CheckedServer
  readonly admission: AdmissionControl
  /** Of the admission. */
  readonly limits: CheckedAdmission
  readonly quotas: Quotas
  readonly meter: TokenMeter
  readonly metrics: HttpMetrics
  readonly failures: RecentErrors
  readonly telemetry: Telemetry
  readonly runs: Runs
  /** Whether KV caches are in the memory of this machine. */
  readonly inHostMemory: boolean
  /** When the server began, seconds since the epoch. */
  readonly began: number
  /** Why a text cannot be had now whatever is asked for; undefined where that is not known before the request is read. */
  precheck(client: string): EngineError | undefined
  /** Counts and logs a failure that a client got. */
  tell(error: EngineError, requestId: string | null): void
  /** Ends the server's work as `Server.drain` does; for `/admin/drain`. */
  drain(ms?: number): Promise<void>
}

/** Adds routes to a server. */
export type Routes = (app: FastifyInstance, context: ServerContext) => void

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Who may ask: everybody, everybody with a key (the default), or only an admin's key. Without keys in the settings everybody may do everything. */
    access?: 'open' | 'key' | 'admin'
    /** It computes a text: refused before its body is read where there is no room for one. */
    text?: boolean
  }
  interface FastifyRequest {
    /** Of routes that are not open. */
    caller: Caller
  }
}

/** Of a route that is not open. */
export const callerOf = (request: FastifyRequest): Caller => request.caller
