/** The manifest of a folder, checked in itself: version, layout, and that it does not contradict itself. Its files are not looked at. */
import { join } from 'node:path'
import { createError, type EngineError } from '../errors/index.js'
import type { NativeAddon } from '../native.js'
import { findFaults, withoutUnknownTiers } from './consistency.js'
import { JOURNAL_NAME, readManifest, statIfAny } from './folder.js'
import { MANIFEST_NAME, type Manifest } from './manifest.js'

const invalid = (folder: string, message: string, details: Record<string, unknown> = {}): EngineError =>
  createError('CHECKPOINT_INVALID', `${folder}: ${message}`, { folder, file: MANIFEST_NAME, ...details })

/** Whether a path is a folder that may be a checkpoint, or one that was to become one. */
export async function isCheckpoint(path: string): Promise<boolean> {
  if ((await statIfAny(join(path, MANIFEST_NAME))) !== undefined) return true
  return (await statIfAny(join(path, JOURNAL_NAME))) !== undefined
}

/** The command that makes a checkpoint's folder again. */
export const convertCommand = (manifest: Manifest, folder: string): string =>
  `Convert it again: tiered-moe convert ${manifest.source.name} ${folder}`

/** Refuses a layout that the kernels do not have. */
function checkLayout(manifest: Manifest, folder: string, id: string): void {
  if (manifest.layout === id) return
  throw createError(
    'MODEL_VERSION_MISMATCH',
    `${folder}: its experts are in the layout ${manifest.layout}, this version computes with ${id}`,
    {
      expected: id,
      actual: manifest.layout,
      supported: id,
      suggestedAction: `${convertCommand(manifest, folder)} --replace`
    }
  )
}

/** The manifest of a folder, sound in itself and in a layout of this version's. */
export async function readSoundManifest(addon: NativeAddon, folder: string): Promise<Manifest> {
  if ((await statIfAny(join(folder, MANIFEST_NAME))) === undefined && (await isCheckpoint(folder))) {
    throw invalid(folder, 'its conversion has not ended: there is no manifest yet', {
      suggestedAction: 'Run the same `convert` command again; it goes on where it was.'
    })
  }
  const manifest = await readManifest(folder)
  const layOut = addon.expertLayout.bind(addon)
  checkLayout(manifest, folder, layOut({ gate: 'F32', up: 'F32', down: 'F32', width: 1, hidden: 1 }).id)
  const [fault] = findFaults(manifest, layOut)
  if (!fault) return withoutUnknownTiers(manifest)
  throw invalid(folder, `${MANIFEST_NAME}, ${fault.path}: ${fault.message}`, { path: fault.path })
}
