/** Loads a model into an engine: the fifth step of booting, as often as there are models. */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isCheckpoint } from '../checkpoint/sound-manifest.js'
import type { LoadedModel } from '../loaded-model.js'
import { locateModel } from '../model/embedded.js'
import type { ModelDescriptor } from '../model/index.js'
import { packageRoot } from '../native.js'
import { validated } from '../schemas.js'
import { validationError } from '../validation.js'
import { ModelLoad } from './loading.js'
import type { LoadModelOptions, LoadModelRequest } from './options.js'
import { loadCallSchema, loadSchema } from './options.js'
import type { EngineParts } from './parts.js'
import { disposedError } from './parts.js'
import { Phases, reportPhases } from './phases.js'
import type { Recovery } from './recovery.js'

type Loaded = { id: string; descriptor: ModelDescriptor & { id: string } }

/** Throws what Engine.loadModel names. */
export async function loadModel(
  parts: EngineParts,
  request: LoadModelRequest,
  options: LoadModelOptions,
  recovery: Recovery
): Promise<Loaded> {
  const { models, telemetry } = parts
  const checked = validated(loadSchema, request, 'loadModel')
  const call = validated(loadCallSchema, options, 'loadModel') as LoadModelOptions
  const { tierSet, latencyBudgetMs } = checked
  if (tierSet !== undefined && latencyBudgetMs !== undefined) {
    throw validationError('loadModel', 'latencyBudgetMs', latencyBudgetMs, 'only without tierSet')
  }
  const location = locateModel(packageRoot(), checked.model)
  const id = checked.id ?? location.id
  models.checkFree(id)
  const phases = new Phases(reportPhases('boot_phase', telemetry, parts.options.onPhase), undefined, id)
  phases.begin('model')
  const load = new ModelLoad(parts, id, location.path, checked, call, recovery)
  const done = finish(parts, id, location.path, load, phases, request)
  models.beginLoad(id, { interruption: load.interruption, done })
  return done
}

/** From the weights to a model that is there for requests. */
async function finish(
  parts: EngineParts,
  id: string,
  path: string,
  load: ModelLoad,
  phases: Phases,
  request: LoadModelRequest
): Promise<Loaded> {
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
    models.add(id, model, request)
    const { descriptor, weightBytes, tierSet } = model.info()
    const { architecture, layers, experts, weightType, fileBytes } = descriptor
    const fields = {
      model: id,
      path,
      architecture,
      layers,
      experts,
      weightType,
      fileBytes,
      weightBytes,
      tierSet: tierSet.tiers,
      checksum
    }
    telemetry.event('model_loaded', `model ${id} is loaded`, fields)
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

/** SHA-256 of a checkpoint's manifest, which has those of all its files; null of a single file, which nobody reads as a whole. */
async function manifestChecksum(path: string): Promise<string | null> {
  if (!(await isCheckpoint(path))) return null
  return createHash('sha256')
    .update(await readFile(join(path, 'manifest.json')))
    .digest('hex')
}

/** Throws MODEL_NOT_LOADED. The id is free again when everything of the model is gone, but `keepVersions`: the files of changed experts. */
export async function unloadModel(parts: EngineParts, id: string, keepVersions = false): Promise<void> {
  const { models } = parts
  const model = models.take(id)
  const done = unload(parts, id, model, keepVersions).finally(() => models.endUnload(id))
  models.beginUnload(id, done)
  await done
}

async function unload(
  { models, ledger, reserve, telemetry }: EngineParts,
  id: string,
  model: LoadedModel,
  keepVersions: boolean
): Promise<void> {
  await model.close(() => models.notLoaded(id, 'was unloaded'))
  ledger.modelUnloaded(id)
  await model.swaps.versions.close(keepVersions || ledger.unfinishedEpochs(id).length > 0)
  reserve.giveBack(id)
  telemetry.metrics.forgetModel(id)
  telemetry.event('model_unloaded', `model ${id} is unloaded`, { model: id })
}
