/** What an engine does about a native step that gets nowhere: it tells, and recovers until the step ends. */
import { createError } from '../errors/index.js'
import type { StuckOptions } from '../generation/scheduler.js'
import type { NativeModel } from '../native.js'
import type { EngineParts } from './parts.js'
import type { Recovery } from './recovery.js'

export function stuckStep(
  { options, telemetry }: Pick<EngineParts, 'options' | 'telemetry'>,
  model: string,
  native: NativeModel,
  recovery: Recovery
): StuckOptions {
  const { stepMs } = options.guards
  return {
    limitMs: stepMs > 0 ? stepMs : undefined,
    progress: () => readsOf(native),
    tell: (elapsedMs, requests, work) => {
      const details = { model, elapsedMs: Math.round(elapsedMs), limitMs: stepMs, requests }
      const text = `a step of ${model} got nowhere for ${details.elapsedMs} ms, ${requests.length} requests wait for it`
      const error = createError('RUNTIME_STEP_STUCK', text, details)
      telemetry.event('step_stuck', text, details)
      telemetry.error(error, { model })
      recovery.watch(work)
      return error
    }
  }
}

/** Grows with every expert that a step takes up, of a model that does not have all of them in memory. */
function readsOf(native: NativeModel): number {
  const stats = native.expertStats()
  return stats ? stats.uses + stats.demandBytes + (stats.uploads ?? 0) + (stats.host?.demandBytes ?? 0) : 0
}
