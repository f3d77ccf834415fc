/** What the pieces of one engine share. */
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import type { Lifecycle } from '../lifecycle.js'
import type { NativeAddon, NativeBackend } from '../native.js'
import type { Models } from './models.js'
import type { CheckedOptions } from './options.js'

export interface EngineParts {
  readonly options: CheckedOptions
  readonly lifecycle: Lifecycle
  readonly addon: NativeAddon
  readonly backend: NativeBackend
  readonly models: Models
}

/** What a method of an engine that drains or is closed throws. */
export const disposedError = (method: string): EngineError =>
  createError('ENGINE_DISPOSED', `${method}: the engine has been disposed`, { method })

/** The gate of every method: no new work once the engine drains. Throws ENGINE_DISPOSED. */
export function checkOpen({ lifecycle }: Pick<EngineParts, 'lifecycle'>, method: string): void {
  const { state } = lifecycle
  if (state === 'draining' || state === 'closed') throw disposedError(method)
}
