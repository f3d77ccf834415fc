/** An engine with the models of a configuration. */
import { createEngine } from './create-engine.js'
import type { EngineOptions } from './engine/options.js'
import type { Engine } from './engine.js'
import type { CallOptions } from './generation/options.js'
import type { EngineHooks, RuntimeConfig } from './runtime-schema.js'
import { modelId } from './runtime-schema.js'

/** What createEngine takes of a configuration. */
export function engineOptions({
  engine,
  guards,
  telemetry,
  timeouts,
  worker,
  streamRegistry
}: RuntimeConfig): EngineOptions {
  const { loadMs: _, ...deadlines } = timeouts
  const { isolation, count, ...settings } = worker
  const { maxActiveStreams, ...limits } = streamRegistry
  const streams = { ...limits, maxActive: maxActiveStreams }
  const options = { ...engine, guards, telemetry, timeouts: deadlines }
  if (isolation === 'none') return options
  return { ...options, isolation: { mode: isolation, workers: count, ...settings, streams } }
}

/**
 * Starts the engine of a configuration and loads its models one after another, each within `timeouts.load_ms`; those that a journal has
 * brought back stay as they are. `hooks`: what no file can say, such as a logger. The errors of createEngine and loadModel; the engine is
 * disposed of then.
 */
export async function openConfigured(
  { config }: { config: RuntimeConfig },
  hooks: EngineHooks = {},
  call: CallOptions = {}
): Promise<Engine> {
  const engine = await createEngine({ ...engineOptions(config), ...hooks }, call)
  try {
    const { loadMs = call.timeoutMs } = config.timeouts
    const options = { ...call, ...(loadMs !== undefined && { timeoutMs: loadMs }) }
    for (const model of config.models) {
      const loaded = engine.listModels().some(({ id }) => id === modelId(model))
      if (!loaded) await engine.loadModel(model, options)
    }
    return engine
  } catch (error) {
    await engine.dispose()
    throw error
  }
}
