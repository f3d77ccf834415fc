/** An engine with the models of a configuration. */
import { createEngine } from './create-engine.js'
import type { EngineOptions } from './engine/options.js'
import type { Engine } from './engine.js'
import type { CallOptions } from './generation/options.js'
import type { LoadedConfig } from './runtime-config.js'
import type { EngineHooks, RuntimeConfig } from './runtime-schema.js'
import { modelId } from './runtime-schema.js'
import { Telemetry } from './telemetry/telemetry.js'

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

/** A configuration, and where it was read, where it was. */
type Configured = Pick<LoadedConfig, 'config'> & Partial<Pick<LoadedConfig, 'file' | 'environment'>>

/** Tells of the configuration that an engine will be made of (event config_loaded). */
export async function tellConfig(
  { config, file, environment }: Configured,
  { logger, onEvent }: Pick<EngineHooks, 'logger' | 'onEvent'>
): Promise<void> {
  const telemetry = new Telemetry({ logger, onEvent, openTelemetry: false })
  telemetry.open()
  const of = environment === undefined ? '' : `, environment ${environment}`
  telemetry.event('config_loaded', `configuration: ${file ?? 'no file'}${of}`, {
    file: file ?? null,
    environment: environment ?? null,
    models: config.models.length
  })
  await telemetry.flush()
}

/**
 * Starts the engine of a configuration and loads its models one after another, each within `timeouts.load_ms`; those that a journal has
 * brought back stay as they are. `hooks`: what no file can say, such as a logger. The errors of createEngine and loadModel; the engine is
 * disposed of then.
 */
export async function openConfigured(
  loaded: Configured,
  hooks: EngineHooks = {},
  call: CallOptions = {}
): Promise<Engine> {
  const { config } = loaded
  await tellConfig(loaded, hooks)
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
