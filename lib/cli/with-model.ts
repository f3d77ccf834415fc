/** The engine that a command's options and the configuration ask for. Commands import it when they run: it takes most of a start's time. */
import { createEngine, type LoadedConfig, type LoadModelRequest, loadRuntimeConfig } from '../index.js'
import { engineOptions } from '../open-configured.js'
import { modelId } from '../runtime-schema.js'
import { given } from './arguments.js'
import { type EngineChoices, type OpenModel, tierSetOf } from './engine.js'
import type { Session } from './session.js'

/** The configuration with what it says of a model: of the one with that id or path, of another nothing; without a name, of its first one. */
export async function configured(
  model: string | undefined,
  path: string | false | undefined
): Promise<LoadedConfig & { request: LoadModelRequest }> {
  const from = path === false ? { text: '', env: {} } : given({ path })
  const loaded = await loadRuntimeConfig(from)
  const { config } = loaded
  const own = config.models.find((entry) => model === undefined || modelId(entry) === model || entry.model === model)
  if (own) return { ...loaded, request: own }
  const other = await loadRuntimeConfig({ ...from, options: { models: [given({ model })] } })
  return { ...other, request: other.config.models[0] as LoadModelRequest }
}

/** What the command line says goes over what the configuration does. */
export function requested(request: LoadModelRequest, choices: EngineChoices): LoadModelRequest {
  const { archive: url, coldFolder, tierSet, latencyBudget } = choices
  const { tierSet: _, latencyBudgetMs: __, ...rest } = request
  const choosesTiers = tierSet !== undefined || latencyBudget !== undefined
  return {
    ...(choosesTiers ? rest : request),
    ...given({
      kvType: choices.kvType,
      quantize: choices.quantize,
      contextLength: choices.contextLength,
      memory: choices.memory,
      gpuMemory: choices.gpuMemory,
      prefetch: choices.prefetch,
      tierSet: tierSet === undefined ? undefined : tierSetOf(tierSet),
      latencyBudgetMs: latencyBudget,
      tiers: choices.tiers,
      recordTrace: choices.recordTrace,
      // Headers were meant for the address that they stood beside.
      archive: url === undefined ? undefined : { ...request.archive, headers: {}, url, ...given({ coldFolder }) }
    })
  }
}

/** Starts an engine with a loaded model, runs `use`, and releases everything however it ends. */
export async function withModel<Result>(
  model: string | undefined,
  choices: EngineChoices,
  session: Session,
  use: (open: OpenModel) => Promise<Result>
): Promise<Result> {
  const started = performance.now()
  const { backend, threads, isa, audit, drain, config: path } = choices
  const { config, request } = await configured(model, path)
  const draining = drain !== undefined && { drainMs: drain * 1000, signals: true }
  const options = { ...engineOptions(config), ...given({ backend, threads, isa, audit }), ...draining }
  const engine = await createEngine(options)
  if (options.signals) session.releaseSignals()
  try {
    const { id, descriptor } = await engine.loadModel(requested(request, choices), {
      signal: session.signal,
      ...given({ timeoutMs: config.timeouts.loadMs }),
      onProgress: (progress) => session.progress('loading', progress)
    })
    session.clearProgress()
    return await use({ engine, id, descriptor, loadMs: performance.now() - started })
  } finally {
    await engine.dispose()
  }
}
