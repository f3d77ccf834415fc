/** The live page and what it asks for. The page is open and has nothing in it; the data are for administrators. */
import { z } from 'zod'
import { toSnakeCase } from '../errors/wire.js'
import { expertsFrame } from '../live-page/experts.js'
import { livePage } from '../live-page/page.js'
import { liveState } from '../live-page/state.js'
import { validated } from '../schemas.js'
import type { Routes } from './context.js'

const expertsQuery = z.strictObject({ model: z.string().min(1).max(200).describe('the id of a loaded model') })

export const pageRoutes: Routes = (app, { engine, admission, limits, failures }) => {
  const { body, headers } = livePage()
  const data = { config: { access: 'admin' } } as const

  app.get('/', { config: { access: 'open' } }, (_, reply) => reply.headers(headers).send(body))

  app.get('/live/state', data, (_, reply) => {
    const { concurrency, queueDepth } = limits
    const queue = { ...admission.stats(), concurrency, queueDepth }
    return reply.header('cache-control', 'no-store').send(toSnakeCase(liveState(engine, queue, failures.list())))
  })

  app.get('/live/experts', data, (request, reply) => {
    const { model } = validated(expertsQuery, request.query, '/live/experts')
    reply.headers({ 'cache-control': 'no-store', 'content-type': 'application/octet-stream' })
    return reply.send(expertsFrame(engine, model))
  })
}
