/** The states that an operator asks for: frozen, in which nothing new begins, and expanding, in which a model gains experts. */
import type { EngineParts } from './parts.js'
import { defaultRetryAfter, frozenError } from './parts.js'

export interface FreezeOptions {
  /** For the log. */
  reason?: string | undefined
  /** What runs is ended after this many milliseconds, with ENGINE_FROZEN and its partial text. Default: it may take its time. */
  drainMs?: number | undefined
  /** What requests are told that are refused meanwhile. Default 30. */
  retryAfterSeconds?: number | undefined
}

/**
 * active → frozen, at once: new requests throw ENGINE_FROZEN. Resolves when no request is under way any more, or when the maintenance is
 * over before. LIFECYCLE_INVALID_TRANSITION from any other state.
 */
export async function freeze({ lifecycle, models, requests }: EngineParts, options: FreezeOptions): Promise<void> {
  const { reason = 'maintenance', drainMs, retryAfterSeconds = defaultRetryAfter } = options
  let over: () => void = () => {}
  const thawed = new Promise<void>((resolve) => {
    over = resolve
  })
  const before = lifecycle.frozen
  const own = { reason, retryAfterSeconds, over }
  // A listener of the change may already thaw it.
  lifecycle.frozen = own
  try {
    lifecycle.to('frozen', reason)
  } catch (error) {
    lifecycle.frozen = before
    throw error
  }
  const quiet = Promise.race([requests.idle(), thawed])
  if (drainMs !== undefined && !(await within(drainMs, quiet)) && lifecycle.frozen === own) {
    const error = frozenError('generation', retryAfterSeconds)
    await Promise.all(models.serving().map((model) => model.endRequests(error)))
  }
  await quiet
}

/** frozen → active, or warm where nothing is loaded. LIFECYCLE_INVALID_TRANSITION from any other state. */
export function thaw({ lifecycle, models }: EngineParts): void {
  const next = models.ids().length > 0 ? 'active' : 'warm'
  const { frozen, state } = lifecycle
  if (state === 'frozen') lifecycle.frozen = undefined
  lifecycle.from('frozen', next, 'maintenance is over')
  frozen?.over()
}

/**
 * active → expanding while `work` runs, then active again, whether it succeeded or not; requests go on meanwhile. The signal is aborted
 * when the engine drains or recovers: `work` then has to undo what it has begun, and the state is no longer its own.
 * LIFECYCLE_INVALID_TRANSITION from any other state; what `work` throws.
 */
export async function whileExpanding<Result>(
  parts: EngineParts,
  reason: string,
  work: (signal: AbortSignal) => Promise<Result>
): Promise<Result> {
  const { lifecycle } = parts
  const abort = new AbortController()
  // Before the state changes: a listener of that may already end it.
  const stop = lifecycle.onLeave('expanding', () => abort.abort())
  let began = false
  try {
    lifecycle.to('expanding', reason)
    began = true
    return await work(abort.signal)
  } finally {
    stop()
    if (began && lifecycle.state === 'expanding') lifecycle.to('active', `${reason}: done`)
  }
}

/** Whether a promise is fulfilled within so many milliseconds. */
export async function within(milliseconds: number, promise: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), milliseconds)
  })
  try {
    return await Promise.race([promise.then(() => true), late])
  } finally {
    clearTimeout(timer)
  }
}
