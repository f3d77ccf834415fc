/** Maintenance of an engine in other processes: all of its workers are frozen, or none, and processes that come later are told. */
import type { FreezeOptions } from '../engine/maintenance.js'
import { defaultRetryAfter } from '../engine/parts.js'
import { isEngineError } from '../errors/index.js'
import type { RemoteParts } from './remote-parts.js'

/** As maintenance.ts has it. */
export async function freezeAll({ state, calls }: RemoteParts, options: FreezeOptions): Promise<void> {
  const before = state.frozen
  const own = { retryAfterSeconds: options.retryAfterSeconds ?? defaultRetryAfter, options }
  state.frozen = own
  try {
    await calls.all('freeze', [options], {}, { undo: (worker) => worker.call('engine.thaw', []) })
  } catch (error) {
    if (state.frozen === own) state.frozen = before
    throw error
  }
}

/** As maintenance.ts has it. Where a worker cannot be reached, the others are thawed, and a further call reaches the rest. */
export async function thawAll({ state, pool, calls }: RemoteParts): Promise<void> {
  const wasFrozen = state.frozen !== undefined || pool.workers.some(({ engineState }) => engineState === 'frozen')
  // First: a process that comes meanwhile is told of no maintenance.
  state.frozen = undefined
  const answers = await Promise.allSettled(pool.alive().map((worker) => calls.one(worker, 'thaw', [])))
  // A worker that began anew, or was thawed before, has nothing to end.
  const isDone = (error: unknown) => wasFrozen && isEngineError(error) && error.code === 'LIFECYCLE_INVALID_TRANSITION'
  const failed = answers.find((answer) => answer.status === 'rejected' && !isDone(answer.reason))
  if (failed?.status === 'rejected') throw failed.reason
}
