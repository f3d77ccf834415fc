import { join } from 'node:path'
import t from 'tap'
import type { EngineEvent } from 'tiered-moe'
import { loadRuntimeConfig, openConfigured } from 'tiered-moe'

const load = (text: string) => loadRuntimeConfig({ text, env: {} })

t.test('an engine with the models of a configuration', async (t) => {
  const told: EngineEvent[] = []
  const loaded = await load(`
    engine: { threads: 1, isa: scalar, max_batch_tokens: 16 }
    models: [{ id: a, context_length: 32, tier_set: max }, { id: b, context_length: 48, kv_type: f32 }]
    timeouts: { request_ms: 60000, load_ms: 60000 }
    telemetry: { open_telemetry: false }`)
  const engine = await openConfigured(loaded, { onEvent: (event) => told.push(event) })
  t.match(engine.backend, { threads: 1, isa: 'scalar' })
  t.same(
    engine.listModels().map(({ id, contextLength }) => [id, contextLength]),
    [
      ['a', 32],
      ['b', 48]
    ]
  )
  t.equal((await engine.generate({ model: 'b', prompt: 'x', maxTokens: 2, ignoreEos: true })).usage.completionTokens, 2)
  const events = told.map(({ event }) => event)
  t.equal(events.filter((event) => event === 'model_loaded').length, 2)
  t.match(told[0], { event: 'config_loaded', level: 'info', fields: { file: null, environment: null, models: 2 } })
  t.ok(events.indexOf('config_loaded') < events.indexOf('boot_phase'))
  await engine.dispose()
  const path = join(t.testdir({ 'a.yaml': 'environments: { small: { engine: { threads: 1 } } }' }), 'a.yaml')
  const small = await loadRuntimeConfig({ path, environment: 'small', env: {} })
  told.length = 0
  await (await openConfigured(small, { onEvent: (event) => told.push(event) })).dispose()
  t.match(told[0], { message: `configuration: ${path}, environment small`, fields: { file: path, models: 0 } })
})

t.test('its deadlines hold', async (t) => {
  const loaded = await load('models: [{ id: a }]\ntimeouts: { request_ms: 1 }')
  const engine = await openConfigured(loaded)
  await t.rejects(engine.generate({ model: 'a', prompt: 'x', maxTokens: 400, ignoreEos: true }), {
    code: 'INFERENCE_TIMEOUT'
  })
  await engine.dispose()
  await t.rejects(openConfigured(await load('models: [{ id: a }]\ntimeouts: { load_ms: 0.001 }')), {
    code: 'MODEL_LOAD_TIMEOUT'
  })
})

t.test('what fails leaves no engine behind', async (t) => {
  const states: string[] = []
  const absent = await load('models: [{ id: a }, { id: b, model: absent.gguf }]')
  await t.rejects(openConfigured(absent, { onTransition: ({ next }) => states.push(next) }), {
    code: 'MODEL_NOT_FOUND'
  })
  t.equal(states.at(-1), 'closed')
})

t.test('models that a journal has brought back are not loaded again', async (t) => {
  const journal = join(t.testdir(), 'journal')
  const loaded = await load(
    `engine: { journal: { path: ${JSON.stringify(journal)}, recover: load } }\nmodels: [{ id: a }]`
  )
  await (await openConfigured(loaded)).dispose()
  const engine = await openConfigured(loaded)
  t.same(
    engine.listModels().map(({ id }) => id),
    ['a']
  )
  await engine.dispose()
})
