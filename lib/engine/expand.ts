/** Adds tiers to a loaded checkpoint from the folder of another one, while requests go on: the state `expanding`. */
import { resolve } from 'node:path'
import { z } from 'zod'
import { checkTierNames } from '../checkpoint/open.js'
import { findTiers, type TierPlaces } from '../checkpoint/tier-folder.js'
import { createError } from '../errors/index.js'
import type { CallOptions } from '../generation/options.js'
import { Interruption } from '../interruption.js'
import type { TierFiles } from '../tiers/tier-files.js'
import { validationError } from '../validation.js'
import { whileExpanding } from './maintenance.js'
import type { EngineParts } from './parts.js'
import { disposedError } from './parts.js'

export interface ExpandRequest {
  /** The folder of a checkpoint of the same model that has the tiers' files. */
  from: string
  /** Their names. Default: every tier whose files are not here. */
  tiers?: readonly string[]
  /** Compare every byte of the files with the manifest first. Default false: blobs are checked when they are read. */
  verify?: boolean
}

export interface Expansion {
  /** The tiers that requests can use now. The active TierSet is what it was. */
  tiers: string[]
  experts: number
  bytes: number
}

export const expandSchema = z.strictObject({
  from: z
    .string()
    .min(1)
    .refine((path) => !path.includes('\0'))
    .describe('the path of a folder'),
  tiers: z.array(z.string()).min(1).optional().describe('a list of names of tiers'),
  verify: z.boolean().default(false).describe('true or false')
})

/** Throws what Engine.expand names; then everything is as it was. */
export async function expand(
  parts: EngineParts,
  id: string,
  request: z.output<typeof expandSchema>,
  call: CallOptions
): Promise<Expansion> {
  const { addon, models, telemetry } = parts
  const model = models.get(id)
  const { files } = model
  if (!files) throw validationError('expand', 'model', id, 'a model that was loaded from a tiered checkpoint')
  const tiers = wanted(files, request)
  const cancel = addon.createCancel()
  const work = async (left: AbortSignal): Promise<Expansion> => {
    const interruption = new Interruption(cancel, 'expand', `expanding ${id}`, 'MODEL_LOAD_TIMEOUT', call)
    const leave = () => interruption.interrupt(leftError(parts))
    left.addEventListener('abort', leave, { once: true })
    if (left.aborted) leave()
    try {
      const from = resolve(request.from)
      const places = await findTiers(addon, files.manifest, tiers, from, { cancel, verify: request.verify })
      const check = () => {
        interruption.check()
        if (models.get(id) !== model) throw models.notLoaded(id, 'was loaded anew')
      }
      check()
      await files.adopt(places)
      await commit(parts, id, files, places, check)
      for (const tier of tiers) {
        telemetry.event('tier_added', `the tier ${tier} of ${id} comes from ${from}`, { model: id, tier, from })
      }
      return { tiers, experts: places.experts.length, bytes: places.bytes }
    } catch (error) {
      interruption.check()
      throw error
    } finally {
      left.removeEventListener('abort', leave)
      interruption.end()
    }
  }
  return whileExpanding(parts, `${id} gains tiers`, work)
}

function wanted(files: TierFiles, { tiers }: z.output<typeof expandSchema>): string[] {
  const away = files.away()
  checkTierNames(files.manifest, tiers ?? [])
  const here = tiers?.find((name) => !away.includes(name))
  const allowed = away.length > 0 ? `tiers whose files are not here: ${away.join(', ')}` : 'nothing: no tier is missing'
  if (here !== undefined) throw validationError('expand', 'tiers', here, allowed)
  if (away.length === 0) throw validationError('expand', 'tiers', tiers, allowed)
  return away.filter((name) => !tiers || tiers.includes(name))
}

/** From here on requests can use the tiers: the journal knows it before the first of them can be accepted. */
async function commit(
  { ledger, models }: EngineParts,
  id: string,
  files: TierFiles,
  places: TierPlaces,
  check: () => void
): Promise<void> {
  const { tiers, folder } = places
  const told = ledger.tierFolders(id, tiers, folder)
  try {
    await told.done
    check()
  } catch (error) {
    told.undo()
    // A model that has been unloaded meanwhile took its places along.
    if (models.ids().includes(id)) files.abandon(places)
    throw error
  }
  models.moveTiers(id, tiers, folder)
  files.publish(tiers)
}

/** Why the engine has left the state. */
function leftError({ lifecycle }: EngineParts) {
  if (lifecycle.state === 'draining' || lifecycle.state === 'closed') return disposedError('expand')
  return createError('CANCELLED', `expand: the engine is ${lifecycle.state}`, { method: 'expand' })
}
