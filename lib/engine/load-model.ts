/** Loads a model into an engine: the fifth step of booting, as often as there are models. */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { isCheckpoint } from '../checkpoint/sound-manifest.js'
import type { EngineError } from '../errors/index.js'
import type { LoadedModel } from '../loaded-model.js'
import { locateModel } from '../model/embedded.js'
import type { ModelDescriptor } from '../model/index.js'
import { packageRoot } from '../native.js'
import { validated } from '../schemas.js'
import { reading, validationError } from '../validation.js'
import { ModelLoad } from './loading.js'
import type { CheckedLoad, LoadModelOptions, LoadModelRequest } from './options.js'
import { loadCallSchema, loadSchema } from './options.js'
import type { EngineParts } from './parts.js'
import { disposedError } from './parts.js'
import { Phases, reportPhases } from './phases.js'
import type { Recovery } from './recovery.js'

type Loaded = { id: string; descriptor: ModelDescriptor & { id: string } }

/** Throws what Engine.loadModel names. */
export async function loadModel(
  parts: EngineParts,
  request: LoadModelRequest | CheckedLoad,
  options: LoadModelOptions,
  recovery: Recovery
): Promise<Loaded> {
  const { models, telemetry } = parts
  const checked = checkLoad('loadModel', request)
  const call = validated(loadCallSchema, options, 'loadModel') as LoadModelOptions
  const location = locateModel(packageRoot(), checked.model)
  const id = checked.id ?? location.id
  models.checkFree(id)
  const phases = new Phases(reportPhases('boot_phase', telemetry, parts.options.onPhase), undefined, id)
  phases.begin('model')
  const load = new ModelLoad(parts, id, location.path, checked, call, recovery)
  const done = finish(parts, id, load, phases, { ...checked, id, model: location.path })
  models.beginLoad(id, { interruption: load.interruption, done })
  return done
}

/**
 * With copies of what the schema leaves as the caller has it, and absolute paths: what loads the model again whenever that is. VALIDATION_ERROR.
 */
export function checkLoad(method: string, request: LoadModelRequest | CheckedLoad): CheckedLoad {
  const checked = validated(loadSchema, request, method)
  const { tiers, archive, tierFolders, tierSet, latencyBudgetMs } = checked
  if (tierSet !== undefined && latencyBudgetMs !== undefined) {
    throw validationError(method, 'latencyBudgetMs', latencyBudgetMs, 'only without tierSet')
  }
  const folders = Object.entries(tierFolders ?? {}).map(([tier, folder]) => [tier, folder && resolve(folder)])
  const copied = () => (typeof tiers === 'string' ? resolve(tiers) : structuredClone(tiers))
  return {
    ...checked,
    ...(tiers !== undefined && { tiers: reading(method, copied) }),
    ...(tierFolders && { tierFolders: Object.fromEntries(folders) }),
    ...(archive && { archive: { ...archive, coldFolder: resolve(archive.coldFolder) } })
  }
}

/** From the weights to a model that is there for requests. `request` has its path. */
async function finish(
  parts: EngineParts,
  id: string,
  load: ModelLoad,
  phases: Phases,
  request: CheckedLoad & { model: string }
): Promise<Loaded> {
  const path = request.model
  const { models, lifecycle, telemetry } = parts
  try {
    const model = await load.done
    const checksum = await manifestChecksum(path).catch(() => null)
    phases.end()
    if (!lifecycle.serving && lifecycle.state !== 'recovering') {
      await model.close(() => disposedError('loadModel'))
      parts.reserve.giveBack(id)
      throw disposedError('loadModel')
    }
    models.add(id, { model, request, identity: load.identity })
    const { descriptor } = model.info()
    telemetry.event('model_loaded', `model ${id} is loaded`, { ...loadedFields(model, path), checksum })
    if (lifecycle.state === 'warm') lifecycle.to('active', `model ${id} loaded`)
    return { id, descriptor: { id, ...descriptor } }
  } catch (error) {
    phases.fail(error)
    throw load.interruption.explain(error)
  } finally {
    models.endLoad(id)
    load.interruption.end()
  }
}

/** What an event tells of a model that is there now. */
export function loadedFields(model: LoadedModel, path: string): Record<string, unknown> {
  const { id, descriptor, weightBytes, tierSet } = model.info()
  const { architecture, layers, experts, weightType, fileBytes } = descriptor
  return { model: id, path, architecture, layers, experts, weightType, fileBytes, weightBytes, tierSet: tierSet.tiers }
}

/** SHA-256 of a checkpoint's manifest, which has those of all its files; null of a single file, which nobody reads as a whole. */
export async function manifestChecksum(path: string): Promise<string | null> {
  if (!(await isCheckpoint(path))) return null
  return createHash('sha256')
    .update(await readFile(join(path, 'manifest.json')))
    .digest('hex')
}

/**
 * Throws what Models.take does. The id is free again when everything of the model is gone. `again`: what its requests are told where it will be loaded
 * again; then the files of its changed experts stay.
 */
export async function unloadModel(parts: EngineParts, id: string, again?: () => EngineError): Promise<void> {
  const { models } = parts
  const model = models.take(id)
  const done = unload(parts, id, model, again).finally(() => models.endUnload(id))
  models.beginUnload(id, done)
  await done
}

async function unload(
  { models, ledger, reserve, telemetry }: EngineParts,
  id: string,
  model: LoadedModel,
  again: (() => EngineError) | undefined
): Promise<void> {
  await model.close(again ?? (() => models.notLoaded(id, 'was unloaded')))
  ledger.modelUnloaded(id)
  await model.swaps.versions.close(again !== undefined || ledger.unfinishedEpochs(id).length > 0)
  reserve.giveBack(id)
  telemetry.metrics.forgetModel(id)
  telemetry.event('model_unloaded', `model ${id} is unloaded`, { model: id })
}
