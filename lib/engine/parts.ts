/** What the pieces of one engine share. */
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import type { Lifecycle } from '../lifecycle.js'
import type { NativeAddon, NativeBackend } from '../native.js'
import type { Telemetry } from '../telemetry/telemetry.js'
import type { Ledger } from './ledger.js'
import type { Models } from './models.js'
import type { CheckedOptions } from './options.js'
import type { Requests } from './requests.js'
import type { MemoryReserve } from './reserve.js'
import type { RoutingSeed } from './routing-seed.js'

/** What a piece has to do at a step of the shutdown. */
export interface ShutdownHooks {
  /** Bring to the disk what was told and promised. */
  flush: (() => Promise<void>)[]
  /** Close files and give memory back. */
  release: (() => Promise<void>)[]
}

export interface EngineParts {
  readonly options: CheckedOptions
  readonly lifecycle: Lifecycle
  readonly addon: NativeAddon
  readonly backend: NativeBackend
  readonly models: Models
  readonly reserve: MemoryReserve
  readonly ledger: Ledger
  readonly requests: Requests
  readonly routingSeed: RoutingSeed
  readonly telemetry: Telemetry
  readonly hooks: ShutdownHooks
}

/** Seconds after which a request that was refused may be tried again, where nobody knows better. */
export const defaultRetryAfter = 30

/** What a method of an engine that drains or is closed throws. */
export const disposedError = (method: string): EngineError =>
  createError('ENGINE_DISPOSED', `${method}: the engine has been disposed`, { method })

/** The gate of every method: nothing once the engine drains. Throws ENGINE_DISPOSED. */
export function checkOpen({ lifecycle }: Pick<EngineParts, 'lifecycle'>, method: string): void {
  const { state } = lifecycle
  if (state === 'draining' || state === 'closed') throw disposedError(method)
}

/** The gate of every request. Throws ENGINE_DISPOSED, ENGINE_FROZEN {retryAfterSeconds}. */
export function checkServing(parts: Pick<EngineParts, 'lifecycle'>, method: string): void {
  checkOpen(parts, method)
  checkThawed(parts, method)
}

/** The gate of a request's first step: one that was made before the engine drains may still begin. Throws ENGINE_FROZEN {retryAfterSeconds}. */
export function checkThawed({ lifecycle }: Pick<EngineParts, 'lifecycle'>, method: string): void {
  const { state, frozen } = lifecycle
  if (state === 'frozen' || frozen) throw frozenError(method, frozen?.retryAfterSeconds ?? defaultRetryAfter)
}

export const frozenError = (method: string, retryAfterSeconds: number): EngineError =>
  createError('ENGINE_FROZEN', `${method}: the engine is frozen for maintenance`, { method, retryAfterSeconds })
