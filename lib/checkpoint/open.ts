/**
 * A tiered checkpoint, opened for loading: its manifest checked (version, checksum, consistency, the size of every file), its base file
 * open, and where each expert lies. One call is S002's first phase; base parameters, experts and routers are read from what it returns.
 */
import { createError, type EngineError } from '../errors/index.js'
import { type HserSizes, PLACEMENTS, type Placement } from '../model/hser.js'
import { type ModelDescription, readModel } from '../model/index.js'
import type { OpOf, Plan } from '../model/plan.js'
import type { DType, ExpertBlobs, GgufTensorInfo, NativeAddon, NativeCancel, NativeGguf } from '../native.js'
import type { TierLabels } from '../tiers/model-tiers.js'
import { BASE_NAME, findShard, isVersionFile } from './folder.js'
import { MANIFEST_NAME, type Manifest, type ManifestShard } from './manifest.js'
import { convertCommand, readSoundManifest } from './sound-manifest.js'
import { findTiers, type TierPlaces } from './tier-folder.js'
import { assignHser } from './tiers.js'
import { verifyShards } from './verify-shards.js'

export interface Checkpoint {
  folder: string
  /** Without what tiers that it does not define have. */
  manifest: Manifest
  /** The open base file, with the tensors of the experts as if they were in it; `close` closes it. */
  file: NativeGguf
  /** The base file itself: what the backend loads from. */
  base: NativeGguf
  description: ModelDescription
  blobs: ExpertBlobs
  tiers: TierLabels
  /** Files that are not here because the archive has them. */
  absent: ManifestShard[]
  /** Tiers that it was opened without. */
  leftOut: string[]
}

/** Where the files of a tier are, by its name: the folder of another checkpoint of the same model, or false: nowhere. */
export type TierFolders = Readonly<Record<string, string | false>>

export interface OpenCheckpointOptions {
  /** Files of archive tiers may be missing. */
  archive?: boolean
  /** Tiers whose files are not in this folder. */
  tierFolders?: TierFolders | undefined
  /** Read everything and compare all checksums first. */
  verify?: boolean
  cancel?: NativeCancel
}

const invalid = (folder: string, message: string, details: Record<string, unknown> = {}): EngineError =>
  createError('CHECKPOINT_INVALID', `${folder}: ${message}`, { folder, file: MANIFEST_NAME, ...details })

/** Finds every file, in the order of the manifest. Throws for a missing one, another size, a link out of the folder. */
async function locateShards(manifest: Manifest, folder: string, archive: boolean, elsewhere: ReadonlySet<string>) {
  const paths: string[] = []
  const absent: ManifestShard[] = []
  const archived = new Set(manifest.tiers.filter(({ placement }) => placement === 'archive').map(({ name }) => name))
  const again = convertCommand(manifest, folder)
  for (const shard of [...manifest.shards, ...(manifest.optimizer?.shards ?? [])]) {
    const { tier } = shard as ManifestShard
    // An expert that was changed is here, wherever the others of its tier are.
    if (tier !== undefined && elsewhere.has(tier) && !isVersionFile(shard.path)) {
      paths.push('')
      continue
    }
    const found = await findShard(folder, shard.path)
    const details = { file: shard.path, expectedBytes: shard.bytes, suggestedAction: again }
    if (found.state === 'foreign') throw invalid(folder, `${shard.path}: ${found.reason}`, details)
    if (found.state === 'absent') {
      if (!archive || tier === undefined || !archived.has(tier)) {
        throw invalid(folder, `${shard.path} is missing`, details)
      }
      absent.push(shard as ManifestShard)
    } else if (found.bytes !== shard.bytes) {
      throw invalid(folder, `${shard.path} has ${found.bytes} bytes, the manifest states ${shard.bytes}`, {
        ...details,
        actualBytes: found.bytes
      })
    }
    paths.push(found.state === 'absent' ? '' : found.path)
  }
  return { paths, absent }
}

/** The experts' tensors as a GGUF file would have them. */
function expertTensors(manifest: Manifest): GgufTensorInfo[] {
  const { experts } = manifest.model
  return manifest.layers.flatMap(({ gate, up, down }) =>
    [gate, up, down].map(({ tensor: name, type, rows, columns, bytes }) => ({
      name,
      type,
      shape: [columns, rows, experts],
      bytes: bytes * experts
    }))
  )
}

function checkModel(
  manifest: Manifest,
  folder: string,
  { descriptor: d, plan, sizes: { hser } }: ModelDescription
): void {
  const { model } = manifest
  const facts = [
    ['architecture', model.architecture, d.architecture],
    ['layers with experts', model.layers, d.expertLayers],
    ['experts', model.experts, d.experts],
    ['experts used', model.expertsUsed, d.expertsUsed],
    ['width', model.width, d.embedding],
    ['width inside an expert', model.hidden, d.expertFeedForward]
  ] as const
  for (const [name, stated, actual] of facts) {
    if (stated === actual) continue
    throw invalid(folder, `the manifest states ${name} ${stated}, ${BASE_NAME} has ${actual}`, {
      expected: stated,
      actual
    })
  }
  const expertOps = plan.ops.filter((op): op is OpOf<'experts'> => op.op === 'experts')
  for (const [index, op] of expertOps.entries()) {
    const parts = manifest.layers.find(({ layer }) => layer === index)
    for (const name of ['gate', 'up', 'down'] as const) {
      if (parts?.[name].tensor === op[name]) continue
      throw invalid(folder, `layer ${index}: ${name} is ${parts?.[name].tensor}, the model needs ${op[name]}`)
    }
  }
  if (hser) checkTopology(manifest, folder, hser)
}

/** A hierarchical model's tiers and groups are its own: a manifest cannot have others. */
function checkTopology(manifest: Manifest, folder: string, hser: HserSizes): void {
  const { tiers, groups } = assignHser(hser, manifest.model.layers)
  for (const { layer, experts } of manifest.layers) {
    for (const { expert, tier, group } of experts) {
      const own = hser.tiers[tiers[layer]![expert]!]!.name
      if (tier === own && group === groups[layer]![expert]) continue
      const where = `layer ${layer}, expert ${expert}`
      throw invalid(folder, `${where}: the manifest states tier ${tier}, group ${group}; ${BASE_NAME} has another`)
    }
  }
}

/** The place of what is in no local file: the native side's kInArchive. */
const inArchive = 0xffffffff

/** `paths`: of every shard; empty for one that is not here. */
function blobTable(manifest: Manifest, paths: readonly string[], elsewhere: readonly TierPlaces[]): ExpertBlobs {
  const { layers, experts } = manifest.model
  const table: ExpertBlobs = {
    files: [],
    types: Array.from({ length: layers }, () => ['F32', 'F32', 'F32']),
    fileIndex: new Uint32Array(layers * experts),
    offset: new Float64Array(layers * experts),
    crc32c: new Uint32Array(layers * experts)
  }
  const indexOf = new Map<number, number>()
  manifest.shards.forEach(({ kind }, shard) => {
    if (kind !== 'experts' || paths[shard] === '') return
    indexOf.set(shard, table.files.length)
    table.files.push(paths[shard]!)
  })
  for (const { layer, gate, up, down, experts: entries } of manifest.layers) {
    table.types[layer] = [gate.type as DType, up.type as DType, down.type as DType]
    for (const { expert, shard, offset, crc32c } of entries) {
      const at = layer * experts + expert
      table.fileIndex[at] = indexOf.get(shard) ?? inArchive
      table.offset[at] = offset
      table.crc32c[at] = Number.parseInt(crc32c, 16)
    }
  }
  for (const places of elsewhere) {
    const first = table.files.length
    table.files.push(...places.files)
    for (const { layer, expert, file, offset } of places.experts) {
      table.fileIndex[layer * experts + expert] = first + file
      table.offset[layer * experts + expert] = offset
    }
  }
  return table
}

/** CONFIG_UNKNOWN_TIER {tier, known} for a name that no tier has. */
export function checkTierNames({ tiers }: Manifest, names: readonly string[]): void {
  const known = tiers.map(({ name }) => name)
  const tier = names.find((name) => !known.includes(name))
  if (tier === undefined) return
  const text = `there is no tier ${JSON.stringify(tier)} in the checkpoint; tiers: ${known.join(', ')}`
  throw createError('CONFIG_UNKNOWN_TIER', text, { tier, known, tierSets: [] })
}

/** The tiers that the experts are in. A placement that this version does not know is cold: the file is here. */
function tierLabels({ tiers, layers, model }: Manifest): TierLabels {
  const indexOf = new Map(tiers.map(({ name }, i) => [name, i]))
  const table = () => Array.from({ length: model.layers }, () => new Array<number>(model.experts).fill(0))
  const [assignment, groups] = [table(), table()]
  for (const { layer, experts } of layers) {
    for (const { expert, tier, group } of experts) {
      assignment[layer]![expert] = indexOf.get(tier)!
      groups[layer]![expert] = group
    }
  }
  const known = (placement: string): Placement => PLACEMENTS.find((name) => name === placement) ?? 'cold'
  const labels = tiers.map(({ name, placement, budget }) => ({
    name,
    placement: known(placement),
    ...(budget !== undefined && { budget })
  }))
  return { tiers: labels, assignment, groups }
}

/**
 * Opens a checkpoint. The caller closes `file`. MODEL_NOT_FOUND; MODEL_CORRUPTED {file, expectedSha256, actualSha256};
 * MODEL_VERSION_MISMATCH {expected, actual, supported} for another major version or layout; CHECKPOINT_INVALID for everything else that is
 * wrong with manifest or files; FILE_READ_FAILED; the errors of readModel on the base file; CANCELLED. With `tierFolders`
 * CONFIG_UNKNOWN_TIER {tier, known} and what findTiers throws.
 */
export async function openCheckpoint(
  addon: NativeAddon,
  folder: string,
  { archive = false, tierFolders = {}, verify = false, cancel = addon.createCancel() }: OpenCheckpointOptions = {}
): Promise<Checkpoint> {
  const manifest = await readSoundManifest(addon, folder)
  checkTierNames(manifest, Object.keys(tierFolders))
  const named = Object.entries(tierFolders)
  const { paths, absent } = await locateShards(
    manifest,
    folder,
    archive || manifest.archive !== undefined,
    new Set(named.map(([tier]) => tier))
  )
  if (verify) {
    const unread = manifest.shards.filter((_, shard) => paths[shard] === '')
    const { damage } = await verifyShards(addon, folder, manifest, {
      cancel,
      absent: new Set(unread.map((s) => s.path))
    })
    if (damage[0]) throw damage[0].error
  }
  const elsewhere: TierPlaces[] = []
  for (const [tier, from] of named) {
    if (from !== false) elsewhere.push(await findTiers(addon, manifest, [tier], from, { cancel, verify }))
  }
  const base = await addon.openGguf(paths[manifest.shards.findIndex(({ kind }) => kind === 'base')]!)
  try {
    const tensors = [...base.tensors, ...expertTensors(manifest)]
    const fileBytes = manifest.shards.reduce((sum, { bytes }) => sum + bytes, 0)
    const { path, version, metadata } = base
    const file: NativeGguf = { path, version, fileBytes, metadata, tensors, close: () => base.close() }
    const read = readModel(file)
    checkModel(manifest, folder, read)
    const routingSeed = [...manifest.routing.seed] as Plan['routingSeed']
    const description = { ...read, plan: { ...read.plan, routingSeed } }
    return {
      folder,
      manifest,
      file,
      base,
      description,
      blobs: blobTable(manifest, paths, elsewhere),
      tiers: tierLabels(manifest),
      absent,
      leftOut: named.flatMap(([tier, from]) => (from === false ? [tier] : []))
    }
  } catch (error) {
    base.close()
    throw error
  }
}
