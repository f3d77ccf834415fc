/** `/health/live`: the process turns. `/health/ready`: it takes requests now, or why not. `/metrics`: what it counts. */
import type { Engine } from '../engine.js'
import type { EngineError } from '../errors/index.js'
import { isEngineError } from '../errors/index.js'
import { refusal } from '../resilience/admission-errors.js'
import type { Routes, ServerContext } from './context.js'
import { metricsText, metricsType } from './metrics-text.js'

/** Why no text can be had now; undefined where one can. */
export function unreadyReason({ engine, admission }: Pick<ServerContext, 'engine' | 'admission'>): string | undefined {
  if (admission.draining) return 'draining'
  if (engine.state !== 'active' && engine.state !== 'expanding')
    return engine.state === 'warm' ? 'loading' : engine.state
  return engine.listModels().length === 0 ? 'loading' : undefined
}

const none = { required: 1, available: 0, current: 0 }

/** SERVICE_UNAVAILABLE {reason: loading} for MODEL_NOT_LOADED of a model that will be there; undefined for any other failure. */
export function loadingRefusal(error: unknown): EngineError | undefined {
  const loading = isEngineError(error) && error.code === 'MODEL_NOT_LOADED' && error.details.loading === true
  return loading ? refusal('loading', { ...none, limit: 0 }, undefined, error) : undefined
}

/** SERVICE_UNAVAILABLE {reason: loading, workers} while the engine computes no text whatever is asked for; undefined where it may. */
export function engineRefusal(engine: Engine): EngineError | undefined {
  if (engine.state === 'warm') return refusal('loading', { ...none, limit: 0 }, undefined)
  const workers = engine.workers()
  // Where none will come any more the engine says why.
  const away = workers.some(({ state }) => state === 'restarting') && workers.every(({ state }) => state !== 'ready')
  return away ? refusal('workers', { ...none, limit: workers.length }, undefined) : undefined
}

export const healthRoutes: Routes = (app, context) => {
  app.get('/health/live', { config: { access: 'open' } }, async () => ({ status: 'live' }))
  app.get('/health/ready', { config: { access: 'open' } }, async (_, reply) => {
    const reason = unreadyReason(context)
    const { state } = context.engine
    if (reason === undefined) return { status: 'ready', state }
    reply.code(503).header('retry-after', '30')
    return { status: 'unready', state, reason }
  })
  app.get('/metrics', async (_, reply) => {
    reply.type(metricsType)
    return metricsText([...context.engine.metrics(), ...context.metrics.read()])
  })
}
