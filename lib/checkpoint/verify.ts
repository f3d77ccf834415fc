/** Whether a checkpoint is what its manifest states, and can be loaded: everything wrong is reported with its fix. */
import { createError, isEngineError } from '../errors/index.js'
import type { NativeAddon, NativeCancel } from '../native.js'
import { findFaults, withoutUnknownTiers } from './consistency.js'
import { findShard, readManifest } from './folder.js'
import { MANIFEST_NAME, type Manifest } from './manifest.js'
import { openCheckpoint } from './open.js'
import { type Damage, fixOf, type VerifyProgress, type VerifyReport, verifyShards } from './verify-shards.js'

export interface VerifyOptions {
  cancel?: NativeCancel
  onProgress?: (progress: VerifyProgress) => void
}

/**
 * Checks a checkpoint completely: the manifest's checksum and consistency, and of every file the size, the SHA-256 and both sums of each
 * blob, then that it can be opened. What is damaged is in the report. Throws where nothing can be checked: MODEL_NOT_FOUND, MODEL_CORRUPTED and CHECKPOINT_INVALID for
 * a manifest that cannot be read, MODEL_VERSION_MISMATCH, CANCELLED.
 */
export async function verifyCheckpoint(
  addon: NativeAddon,
  folder: string,
  { cancel = addon.createCancel(), onProgress }: VerifyOptions = {}
): Promise<VerifyReport> {
  const manifest = await readManifest(folder)
  const layOut = addon.expertLayout.bind(addon)
  const known = layOut({ gate: 'F32', up: 'F32', down: 'F32', width: 1, hidden: 1 }).id === manifest.layout
  const faults = findFaults(manifest, known ? layOut : undefined)
  if (faults.length > 0) {
    const fix = fixOf(manifest, folder)
    const damage = faults.map(({ path, message: what }): Damage => {
      const message = `${MANIFEST_NAME}, ${path}: ${what}`
      const details = { file: MANIFEST_NAME, folder, path, suggestedAction: fix }
      return { file: MANIFEST_NAME, message, fix, error: createError('CHECKPOINT_INVALID', message, details) }
    })
    return { folder, files: 0, blobs: 0, bytes: 0, absent: [], damage }
  }
  const absent = await archivedOnly(manifest, folder)
  const report = await verifyShards(addon, folder, withoutUnknownTiers(manifest), { cancel, onProgress, absent })
  if (manifest.archive) report.archiveUrl = manifest.archive.url
  if (report.damage.length === 0) report.damage.push(...(await openingFails(addon, folder)))
  return report
}

/** Files of archive tiers that are not here: the archive has them. */
async function archivedOnly({ tiers, shards }: Manifest, folder: string): Promise<Set<string>> {
  const archived = new Set(tiers.filter(({ placement }) => placement === 'archive').map(({ name }) => name))
  const absent = new Set<string>()
  for (const { path, tier } of shards) {
    if (tier === undefined || !archived.has(tier)) continue
    const found = await findShard(folder, path).catch(() => undefined)
    if (found?.state === 'absent') absent.add(path)
  }
  return absent
}

/** What is wrong with whole files all the same: a base file of another model, a layout of another version. */
async function openingFails(addon: NativeAddon, folder: string): Promise<Damage[]> {
  try {
    const { file } = await openCheckpoint(addon, folder, { archive: true })
    file.close()
    return []
  } catch (error) {
    if (!isEngineError(error)) throw error
    return [{ file: MANIFEST_NAME, message: error.message, fix: error.details.suggestedAction, error }]
  }
}
