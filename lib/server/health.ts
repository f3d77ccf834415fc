/** `/health/live`: the process turns. `/health/ready`: it takes requests now, or why not. `/metrics`: what it counts. */
import type { Routes, ServerContext } from './context.js'
import { metricsText, metricsType } from './metrics-text.js'

/** Why no text can be had now; undefined where one can. */
export function unreadyReason({ engine, admission }: Pick<ServerContext, 'engine' | 'admission'>): string | undefined {
  if (admission.stats().draining) return 'draining'
  if (engine.state !== 'active' && engine.state !== 'expanding')
    return engine.state === 'warm' ? 'loading' : engine.state
  return engine.listModels().length === 0 ? 'loading' : undefined
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
