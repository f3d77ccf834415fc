/** `/v1/models`: the models that a caller may use. */
import { createError } from '../errors/index.js'
import type { ModelInfo } from '../loaded-model.js'
import { callerOf, type Routes } from './context.js'
import { checkModel } from './keys.js'

export const modelRoutes: Routes = (app, { engine, began }) => {
  const shown = ({ id, contextLength, descriptor, tierSet, hasChatTemplate }: ModelInfo) => ({
    id,
    object: 'model',
    created: began,
    owned_by: 'tiered-moe',
    tiered_moe: {
      architecture: descriptor.architecture,
      layers: descriptor.layers,
      experts: descriptor.experts,
      context_length: contextLength,
      tier_set: tierSet.tiers,
      chat: hasChatTemplate
    }
  })
  app.get('/v1/models', async (request) => {
    const allowed = callerOf(request).key?.models
    const models = engine.listModels().filter(({ id }) => !allowed || allowed.includes(id))
    return { object: 'list', data: models.map(shown) }
  })
  app.get<{ Params: { '*': string } }>('/v1/models/*', async (request) => {
    const model = request.params['*']
    checkModel(callerOf(request), model)
    const loaded = engine.listModels()
    const found = loaded.find(({ id }) => id === model)
    if (found) return shown(found)
    const ids = loaded.map(({ id }) => id)
    const list = ids.length > 0 ? `loaded: ${ids.join(', ')}` : 'none is loaded'
    throw createError('MODEL_NOT_LOADED', `model ${model} is not loaded; ${list}`, { model, loaded: ids })
  })
}
