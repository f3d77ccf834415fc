/**
 * Tiers of a checkpoint that are taken from the folder of another one. What is taken are the same bytes, expert by expert, whatever tiers
 * and files the other checkpoint has them in: so nothing that is computed changes, and no router needs rows that it has not.
 */
import { createError, type EngineError, isEngineError } from '../errors/index.js'
import type { NativeAddon, NativeCancel } from '../native.js'
import { findShard, isVersionFile } from './folder.js'
import type { Manifest, ManifestExpert } from './manifest.js'
import { readSoundManifest } from './sound-manifest.js'
import { verifyShards } from './verify-shards.js'

/** Where the experts of some tiers lie. */
export interface TierPlaces {
  tiers: string[]
  folder: string
  files: string[]
  /** `file`: index into `files`. */
  experts: { layer: number; expert: number; file: number; offset: number }[]
  bytes: number
}

const mismatch = (folder: string, tier: string, what: string, details: Record<string, unknown>): EngineError =>
  createError('CHECKPOINT_MISMATCH', `${folder} cannot give the tier ${tier}: ${what}`, { folder, tier, ...details })

const baseOf = ({ shards }: Manifest): string | undefined => shards.find(({ kind }) => kind === 'base')?.sha256

function checkExpert(folder: string, tier: string, layer: number, own: ManifestExpert, other?: ManifestExpert): void {
  const at = { layer, expert: own.expert }
  const text = `expert ${own.expert} of layer ${layer}`
  if (!other) throw mismatch(folder, tier, `it does not have ${text}`, at)
  if (own.sha256 === other.sha256 && own.crc32c === other.crc32c && own.bytes === other.bytes) return
  const versions = { expected: own.sha256, actual: other.sha256, versions: [own.version, other.version] }
  throw mismatch(folder, tier, `${text} has other bytes there`, { ...at, ...versions })
}

/**
 * The places of these tiers' experts in another folder, but of those that were changed in their own. Its base file need not be there, nor files of other tiers. Throws what reading its manifest
 * does; CHECKPOINT_MISMATCH {folder, tier, expected, actual} for another model or other bytes of an expert; CHECKPOINT_INVALID {folder, file,
 * tier} where a file is missing or has another size; with `verify` MODEL_CORRUPTED; CANCELLED.
 */
export async function findTiers(
  addon: NativeAddon,
  manifest: Manifest,
  tiers: readonly string[],
  folder: string,
  { cancel, verify = false }: { cancel: NativeCancel; verify?: boolean }
): Promise<TierPlaces> {
  const [first] = tiers
  try {
    const other = await readSoundManifest(addon, folder)
    const [expected, actual] = [baseOf(manifest), baseOf(other)]
    if (expected !== actual) throw mismatch(folder, first!, 'it is of another model', { expected, actual })
    const entries = new Map(
      other.layers.flatMap(({ layer, experts }) => experts.map((entry) => [`${layer}/${entry.expert}`, entry]))
    )
    const found: TierPlaces = { tiers: [...tiers], folder, files: [], experts: [], bytes: 0 }
    const fileOf = new Map<number, number>()
    for (const { layer, experts } of manifest.layers) {
      for (const own of experts) {
        if (!tiers.includes(own.tier) || isVersionFile(manifest.shards[own.shard]!.path)) continue
        const entry = entries.get(`${layer}/${own.expert}`)
        checkExpert(folder, own.tier, layer, own, entry)
        const { shard, offset, bytes } = entry!
        if (!fileOf.has(shard)) fileOf.set(shard, found.files.push(await locate(other, folder, shard, own.tier)) - 1)
        found.experts.push({ layer, expert: own.expert, file: fileOf.get(shard)!, offset })
        found.bytes += bytes
      }
    }
    if (verify) {
      const others = [...other.shards.filter((_, shard) => !fileOf.has(shard)), ...(other.optimizer?.shards ?? [])]
      const absent = new Set(others.map(({ path }) => path))
      const { damage } = await verifyShards(addon, folder, other, { cancel, absent })
      if (damage[0]) throw damage[0].error
    }
    return found
  } catch (error) {
    // Whoever loads several tiers from several folders wants to know which one it was.
    if (isEngineError(error) && error.code !== 'CANCELLED') error.details.tier ??= first
    throw error
  }
}

async function locate({ shards }: Manifest, folder: string, shard: number, tier: string): Promise<string> {
  const { path, bytes } = shards[shard]!
  const found = await findShard(folder, path)
  const refuse = (message: string, details = {}) =>
    createError('CHECKPOINT_INVALID', `${folder}: ${path} ${message}`, { folder, file: path, tier, ...details })
  if (found.state === 'foreign') throw refuse(`is no file of this folder: ${found.reason}`)
  if (found.state === 'absent') throw refuse('is missing', { expectedBytes: bytes })
  if (found.bytes === bytes) return found.path
  const sizes = { expectedBytes: bytes, actualBytes: found.bytes }
  throw refuse(`has ${found.bytes} bytes, its manifest states ${bytes}`, sizes)
}
