/** Writes the experts that serving has changed into the manifest of their checkpoint. Their blobs are files of its folder already. */
import { createHash } from 'node:crypto'
import { open, stat } from 'node:fs/promises'
import { join, relative, sep } from 'node:path'
import { isVersionFile, LOCK_NAME, readManifest, writeFailed, writeManifest } from '../checkpoint/folder.js'
import type { Manifest, ManifestExpert, ManifestShard } from '../checkpoint/manifest.js'
import { manifestText } from '../checkpoint/manifest.js'
import { createError } from '../errors/index.js'
import type { ExpertPlace, ExpertVersion, VersionBlob } from './history.js'

export interface PersistedExpert extends ExpertPlace {
  version: number
  sha256: string
}

export interface Persisted {
  experts: PersistedExpert[]
  /** Files that the manifest names in the folder of versions. */
  files: ReadonlySet<string>
}

const hexCrc = (crc32c: number): string => crc32c.toString(16).padStart(8, '0')

/** Files of versions that a manifest names. */
export const versionFiles = (folder: string, { shards }: Manifest): Set<string> =>
  new Set(shards.filter(({ path }) => isVersionFile(path)).map(({ path }) => join(folder, path)))

/**
 * The manifest is written anew (`known`: the SHA-256 that it had for an expert), whole or not at all; no other file is. JOURNAL_LOCKED where a conversion into the folder is under way,
 * MODEL_CHANGED where the manifest is no longer the one that was loaded, FILE_WRITE_FAILED, and the errors of reading a manifest and of `beforeWriting`.
 */
export async function persistVersions(
  folder: string,
  changed: readonly (ExpertPlace & ExpertVersion)[],
  known: (place: ExpertPlace) => string | undefined,
  tryLock: (descriptor: number) => boolean,
  beforeWriting: (manifest: string) => Promise<void>
): Promise<Persisted> {
  const path = join(folder, LOCK_NAME)
  const lock = await open(path, 'a').catch((error) => {
    throw writeFailed(path, error)
  })
  try {
    if (!tryLock(lock.fd)) {
      const text = `a conversion into ${folder} is under way`
      throw createError('JOURNAL_LOCKED', text, { path: folder, suggestedAction: 'Wait until it has ended.' })
    }
    const manifest = await readManifest(folder)
    const experts: PersistedExpert[] = []
    for (const { layer, expert, version, blob } of changed) {
      const entry = manifest.layers.find((own) => own.layer === layer)?.experts.find((own) => own.expert === expert)
      if (!entry || (entry.sha256 !== blob!.sha256 && entry.sha256 !== known({ layer, expert }))) {
        throw createError('MODEL_CHANGED', `${folder}: its manifest is not the one that was loaded`, {
          path: folder,
          layer,
          expert
        })
      }
      if (entry.sha256 === blob!.sha256) continue
      await takeOver(manifest, folder, layer, entry, version, blob!)
      experts.push({ layer, expert, version, sha256: blob!.sha256 })
    }
    if (experts.length > 0) {
      dropUnused(manifest)
      // No conversion gives these files.
      manifest.conversion = createHash('sha256')
        .update(JSON.stringify([manifest.conversion, experts]))
        .digest('hex')
      await beforeWriting(manifestText(manifest))
      await writeManifest(folder, manifest)
    }
    return { experts, files: versionFiles(folder, manifest) }
  } finally {
    await lock.close()
  }
}

/** The entry is the blob from now on. */
async function takeOver(
  manifest: Manifest,
  folder: string,
  layer: number,
  entry: ManifestExpert,
  version: number,
  { path: file, offset, crc32c, sha256 }: VersionBlob
): Promise<void> {
  const path = relative(folder, file).split(sep).join('/')
  let shard = manifest.shards.findIndex((own) => own.path === path)
  if (shard < 0) {
    const { size: bytes } = await stat(file)
    const own: ManifestShard = { path, kind: 'experts', tier: entry.tier, layer, bytes, sha256, version }
    shard = manifest.shards.push(own) - 1
  }
  Object.assign(entry, { shard, offset, crc32c: hexCrc(crc32c), sha256, version })
}

/** Files of versions that no expert names any more leave the manifest. */
function dropUnused(manifest: Manifest): void {
  const used = new Set(manifest.layers.flatMap(({ experts }) => experts.map(({ shard }) => shard)))
  const kept = manifest.shards.map(({ path }, i) => used.has(i) || !isVersionFile(path))
  const place = new Map<number, number>()
  kept.forEach((stays, i) => {
    if (stays) place.set(i, place.size)
  })
  manifest.shards = manifest.shards.filter((_, i) => kept[i])
  for (const { experts } of manifest.layers) for (const entry of experts) entry.shard = place.get(entry.shard)!
}
