/** Reads every byte of a checkpoint's files and compares it with what the manifest states. */
import { availableParallelism } from 'node:os'
import { createError, type EngineError, isEngineError } from '../errors/index.js'
import type { NativeAddon, NativeCancel } from '../native.js'
import { findShard } from './folder.js'
import type { Manifest, ManifestExpert } from './manifest.js'

/** One thing that is wrong. */
export interface Damage {
  /** The path in the folder. */
  file: string
  /** Whose blob it is, where it is one expert's. */
  layer?: number
  expert?: number
  message: string
  /** What to do about it. */
  fix: string
  error: EngineError
}

export interface VerifyProgress {
  bytesDone: number
  bytesTotal: number
}

export interface VerifyReport {
  folder: string
  files: number
  blobs: number
  bytes: number
  /** Files of archive tiers that are not here, which were not looked at. */
  absent: string[]
  /** Where those are, as the manifest says. */
  archiveUrl?: string
  damage: Damage[]
}

export interface VerifyShardsOptions {
  cancel: NativeCancel
  /** Paths that are not looked at. */
  absent?: ReadonlySet<string>
  onProgress?: ((progress: VerifyProgress) => void) | undefined
}

/** A file to read, with what is in it. */
interface Shard {
  path: string
  bytes: number
  sha256: string
  blobs: (ManifestExpert & { layer: number })[]
}

function shardsOf(manifest: Manifest): Shard[] {
  const shards: Shard[] = manifest.shards.map(({ path, bytes, sha256 }) => ({ path, bytes, sha256, blobs: [] }))
  for (const { layer, experts } of manifest.layers) {
    for (const entry of experts) shards[entry.shard]!.blobs.push({ ...entry, layer })
  }
  for (const { blobs } of shards) blobs.sort((a, b) => a.offset - b.offset)
  for (const { path, bytes, sha256 } of manifest.optimizer?.shards ?? [])
    shards.push({ path, bytes, sha256, blobs: [] })
  return shards
}

/** What mends a damaged file. */
export const fixOf = (manifest: Manifest, folder: string): string =>
  `Run \`tiered-moe convert ${manifest.source.name} ${folder}\` with the same source and tiers (only damaged files are written anew), or copy the file again.`

class ShardCheck {
  readonly damage: Damage[] = []

  constructor(
    readonly folder: string,
    readonly shard: Shard,
    readonly fix: string
  ) {}

  report(
    code: 'MODEL_CORRUPTED' | 'CHECKPOINT_INVALID',
    what: string,
    details: Record<string, unknown>,
    blob?: Shard['blobs'][number]
  ) {
    const { path: file } = this.shard
    const owner = blob && { layer: blob.layer, expert: blob.expert }
    const message = blob ? `${file}: expert ${blob.expert} of layer ${blob.layer}: ${what}` : `${file}: ${what}`
    const all = { file, folder: this.folder, ...owner, ...details, suggestedAction: this.fix }
    this.damage.push({ file, ...owner, message, fix: this.fix, error: createError(code, message, all) })
  }

  async run(addon: NativeAddon, cancel: NativeCancel, onBytes: (bytes: number) => void): Promise<void> {
    const { path, bytes, sha256, blobs } = this.shard
    const found = await findShard(this.folder, path)
    if (found.state === 'absent') return this.report('CHECKPOINT_INVALID', 'it is missing', { expectedBytes: bytes })
    if (found.state === 'foreign') return this.report('CHECKPOINT_INVALID', found.reason, {})
    if (found.bytes !== bytes) {
      const sizes = { expectedBytes: bytes, actualBytes: found.bytes }
      this.report('CHECKPOINT_INVALID', `it has ${found.bytes} bytes, the manifest states ${bytes}`, sizes)
    }
    const offset = Float64Array.from(blobs, (blob) => blob.offset)
    const bytesOfBlobs = Float64Array.from(blobs, (blob) => blob.bytes)
    const actual = await addon.measureShard(found.path, { offset, bytes: bytesOfBlobs, onProgress: onBytes }, cancel)
    blobs.forEach((blob, i) => {
      const crc = actual.crc32c[i]!.toString(16).padStart(8, '0')
      const hash = actual.blobSha256[i]!
      if (crc === blob.crc32c && hash === blob.sha256) return
      const what =
        crc === blob.crc32c
          ? `its SHA-256 is ${hash}, the manifest states ${blob.sha256}`
          : `its CRC-32C is ${crc}, the manifest states ${blob.crc32c}`
      this.report(
        'MODEL_CORRUPTED',
        what,
        { expectedSha256: blob.sha256, actualSha256: hash, offset: blob.offset },
        blob
      )
    })
    if (actual.sha256 === sha256) return
    const hashes = { expectedSha256: sha256, actualSha256: actual.sha256 }
    this.report('MODEL_CORRUPTED', `its SHA-256 is ${actual.sha256}, the manifest states ${sha256}`, hashes)
  }
}

/** Reads every file of a sound manifest, several at a time. Damage in the manifest's order. CANCELLED. */
export async function verifyShards(
  addon: NativeAddon,
  folder: string,
  manifest: Manifest,
  { cancel, absent = new Set(), onProgress }: VerifyShardsOptions
): Promise<VerifyReport> {
  const shards = shardsOf(manifest).filter(({ path }) => !absent.has(path))
  const bytesTotal = shards.reduce((sum, { bytes }) => sum + bytes, 0)
  const fix = fixOf(manifest, folder)
  const checks = shards.map((shard) => new ShardCheck(folder, shard, fix))
  const done = new Array<number>(shards.length).fill(0)
  const queue = checks.map((check, i) => ({ check, i }))
  let bytesDone = 0
  const worker = async (): Promise<void> => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      const { check, i } = next
      try {
        await check.run(addon, cancel, (bytes) => {
          bytesDone += bytes - done[i]!
          done[i] = bytes
          onProgress?.({ bytesDone, bytesTotal })
        })
      } catch (error) {
        if (!isEngineError(error) || error.code === 'CANCELLED') throw error
        const { path: file } = check.shard
        check.damage.push({ file, message: error.message, fix: error.details.suggestedAction, error })
      }
    }
  }
  const workers = Array.from({ length: Math.min(availableParallelism(), shards.length) }, worker)
  const results = await Promise.allSettled(workers)
  for (const result of results) if (result.status === 'rejected') throw result.reason
  return {
    folder,
    files: shards.length,
    blobs: shards.reduce((sum, { blobs }) => sum + blobs.length, 0),
    bytes: bytesTotal,
    absent: [...absent],
    damage: checks.flatMap(({ damage }) => damage)
  }
}
