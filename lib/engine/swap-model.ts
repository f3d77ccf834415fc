/** Replaces a model by another one under its id, while requests go on. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { LoadedModel } from '../loaded-model.js'
import { locateModel } from '../model/embedded.js'
import type { ModelDescriptor } from '../model/index.js'
import { packageRoot } from '../native.js'
import { validated } from '../schemas.js'
import { validationError } from '../validation.js'
import { checkLoad, loadedFields, manifestChecksum } from './load-model.js'
import { ModelLoad } from './loading.js'
import type { CheckedLoad, LoadModelOptions, LoadModelRequest } from './options.js'
import { drainAllowed, drainMs, loadCallSchema } from './options.js'
import type { EngineParts } from './parts.js'
import { disposedError } from './parts.js'
import type { Recovery } from './recovery.js'

export interface SwapModelOptions extends LoadModelOptions {
  /** Milliseconds that requests of the old model may go on for. Default: they may take their time. */
  drainMs?: number
}

type Swapped = { descriptor: ModelDescriptor & { id: string } }

const callSchema = loadCallSchema.extend({ drainMs: drainMs.optional().describe(drainAllowed) })

/** Milliseconds between two looks at whether the old model still has requests. */
const lookAgain = 20

/** Throws what Engine.swapModel names. */
export async function swapModel(
  parts: EngineParts,
  id: string,
  request: Omit<LoadModelRequest, 'id'>,
  options: SwapModelOptions,
  recovery: Recovery
): Promise<Swapped> {
  const { models } = parts
  const checked = checkLoad('swapModel', request)
  const { drainMs, ...call } = validated(callSchema, options, 'swapModel')
  if (checked.id !== undefined && checked.id !== id)
    throw validationError('swapModel', 'id', checked.id, `none, or ${id}`)
  const { path } = locateModel(packageRoot(), checked.model)
  models.checkReplaceable(id)
  const load = new ModelLoad(parts, id, path, checked, call as LoadModelOptions, recovery, `${id} (coming)`)
  const done = finish(parts, load, { ...checked, id, model: path }, drainMs)
  models.beginLoad(id, { interruption: load.interruption, done })
  return done
}

async function finish(
  parts: EngineParts,
  load: ModelLoad,
  request: CheckedLoad & { id: string; model: string },
  drainMs: number | undefined
): Promise<Swapped> {
  const { id, model: path } = request
  const { models, reserve, telemetry } = parts
  try {
    const model = await load.done
    const old = await replaced(parts, load, request, model)
    reserve.move(id, `${id} (going)`)
    reserve.move(`${id} (coming)`, id)
    await drained(parts, old, drainMs)
    const checksum = await manifestChecksum(path).catch(() => null)
    telemetry.event('model_swapped', `another model is ${id} now`, { ...loadedFields(model, path), checksum })
    return { descriptor: { id, ...model.info().descriptor } }
  } catch (error) {
    throw load.interruption.explain(error)
  } finally {
    models.endLoad(id)
    load.interruption.end()
  }
}

/** From here on requests get the new model. Where there is nothing to replace any more, the new one is freed again. */
async function replaced(
  { models, lifecycle, reserve }: EngineParts,
  load: ModelLoad,
  request: CheckedLoad & { id: string },
  model: LoadedModel
): Promise<LoadedModel> {
  const { id } = request
  try {
    if (!lifecycle.serving) throw disposedError('swapModel')
    return models.replace(id, { model, request, identity: load.identity })
  } catch (error) {
    await model.close(() => models.notLoaded(id, 'was unloaded'))
    reserve.giveBack(`${id} (coming)`)
    throw error
  }
}

/** Frees the old model once it has no requests, or its time is up. An engine that ends closes it itself. */
async function drained(
  { models, ledger, reserve }: EngineParts,
  old: LoadedModel,
  drainMs = Number.POSITIVE_INFINITY
): Promise<void> {
  const { id } = old.info()
  const end = performance.now() + drainMs
  while (models.isRetired(old) && old.info().activeSequences > 0 && performance.now() < end) await sleep(lookAgain)
  if (models.isRetired(old)) {
    models.ended(old)
    await old.close(() => models.notLoaded(id, 'was replaced by another model'))
  }
  // With a journal a later load may go on with its changed experts.
  await old.swaps.versions.close(ledger.journal !== undefined)
  reserve.giveBack(`${id} (going)`)
}
