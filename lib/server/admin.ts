/** `/admin`: what an operator has the engine and its server do. The engine puts each change into its audit log. */
import type { FastifyRequest } from 'fastify'
import { z } from 'zod'
import { disposeSchema, freezeSchema } from '../engine/calls.js'
import type { LoadModelRequest } from '../engine/options.js'
import { camelCase } from '../errors/wire.js'
import type { ExpertChange } from '../experts/changes.js'
import { validated } from '../schemas.js'
import { refusal } from '../validation.js'
import { callerOf, type Routes, type ServerContext } from './context.js'
import { unreadyReason } from './health.js'

const model = z.string().min(1).describe('the id of a loaded model')

const tierSetSchema = z.strictObject({
  model,
  tier_set: z
    .union([z.string(), z.array(z.string())])
    .optional()
    .describe('a name, or a list of names'),
  latency_budget_ms: z.number().optional().describe('a number of milliseconds, instead of tier_set')
})
const changesSchema = z.strictObject({
  model,
  changes: z
    .array(z.looseObject({ action: z.string() }))
    .min(1)
    .describe('a list of changes, at least one')
})
const swapSchema = z.strictObject({
  id: model,
  request: z.looseObject({}).describe('what loadModel takes, without id: {model: a path, …}'),
  drain_ms: z.number().optional().describe('a number of milliseconds')
})

/** The fields of a body with the names of options. */
const optionsOf = (body: unknown): unknown =>
  typeof body === 'object' && body !== null && !Array.isArray(body)
    ? Object.fromEntries(Object.entries(body).map(([key, value]) => [camelCase(key), value]))
    : body

type Action = (body: unknown, context: ServerContext) => Promise<unknown>

const actions: Readonly<Record<string, Action>> = {
  'tier-set': async (body, { engine }) => {
    const { model, tier_set: tierSet, latency_budget_ms: latencyBudgetMs } = validated(tierSetSchema, body, 'tier-set')
    const chosen = tierSet ?? (latencyBudgetMs === undefined ? undefined : { latencyBudgetMs })
    if (chosen === undefined || (tierSet !== undefined && latencyBudgetMs !== undefined)) {
      const found = chosen === undefined ? 'not there' : 'beside latency_budget_ms'
      throw refusal('tier-set', 'tier_set', found, 'exactly one of tier_set and latency_budget_ms')
    }
    return engine.activateTierSet(model, chosen)
  },
  'experts/swap': async (body, { engine }) => {
    const { model, changes } = validated(changesSchema, body, 'experts/swap')
    return engine.swapExperts(model, changes.map(optionsOf) as ExpertChange[])
  },
  'models/swap': async (body, { engine }) => {
    const { id, request, drain_ms: drainMs } = validated(swapSchema, body, 'models/swap')
    return engine.swapModel(id, optionsOf(request) as LoadModelRequest, { ...(drainMs !== undefined && { drainMs }) })
  },
  freeze: async (body, { engine }) => {
    await engine.freeze(validated(freezeSchema, optionsOf(body ?? {}), 'freeze') as Parameters<typeof engine.freeze>[0])
    return { state: engine.state }
  },
  thaw: async (_, { engine }) => {
    await engine.thaw()
    return { state: engine.state }
  },
  drain: async (body, { drain, runs }) => {
    const { drainMs } = validated(disposeSchema, optionsOf(body ?? {}), 'drain')
    // Its end takes this connection too.
    setImmediate(() => void drain(drainMs))
    return { draining: true, requests: runs.size }
  },
  state: async (_, context) => stateOf(context)
}

const stateOf = (context: ServerContext) => {
  const { engine, admission, meter, failures } = context
  return {
    state: engine.state,
    ready: unreadyReason(context) === undefined,
    models: engine.listModels(),
    admission: admission.stats(),
    tokensPerSecond: meter.rate ?? null,
    failures: failures.list()
  }
}

export const adminRoutes: Routes = (app, context) => {
  const handle = (name: string, action: Action) => async (request: FastifyRequest) => {
    const { key } = callerOf(request)
    context.telemetry.event('admin_request', `admin: ${name}`, { action: name, keyId: key?.id ?? null })
    return action(request.body, context)
  }
  for (const [name, action] of Object.entries(actions)) {
    app.post(`/admin/${name}`, { config: { access: 'admin' } }, handle(name, action))
  }
  app.get('/admin/state', { config: { access: 'admin' } }, async () => stateOf(context))
}
