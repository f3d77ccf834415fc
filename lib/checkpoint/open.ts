/**
 * A tiered checkpoint, opened for loading: its manifest checked (version, checksum, consistency, the size of every file), its base file
 * open, and where each expert lies. One call is S002's first phase; base parameters, experts and routers are read from what it returns.
 */
import { join } from 'node:path'
import { createError, type EngineError } from '../errors/index.js'
import { type HserSizes, PLACEMENTS, type Placement } from '../model/hser.js'
import { type ModelDescription, readModel } from '../model/index.js'
import type { Plan } from '../model/plan.js'
import type { DType, ExpertBlobs, GgufTensorInfo, NativeAddon, NativeCancel, NativeGguf } from '../native.js'
import type { TierLabels } from '../tiers/model-tiers.js'
import { findFaults, withoutUnknownTiers } from './consistency.js'
import { BASE_NAME, findShard, JOURNAL_NAME, readManifest, statIfAny } from './folder.js'
import { MANIFEST_NAME, type Manifest, type ManifestShard } from './manifest.js'
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
}

export interface OpenCheckpointOptions {
  /** Files of archive tiers may be missing. */
  archive?: boolean
  /** Read everything and compare all checksums first. */
  verify?: boolean
  cancel?: NativeCancel
}

const invalid = (folder: string, message: string, details: Record<string, unknown> = {}): EngineError =>
  createError('CHECKPOINT_INVALID', `${folder}: ${message}`, { folder, ...details })

/** Whether a path is a folder that may be a checkpoint, or one that was to become one. */
export async function isCheckpoint(path: string): Promise<boolean> {
  if ((await statIfAny(join(path, MANIFEST_NAME))) !== undefined) return true
  return (await statIfAny(join(path, JOURNAL_NAME))) !== undefined
}

const convertCommand = (manifest: Manifest, folder: string): string =>
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

/** Finds every file, in the order of the manifest. Throws for a missing one, another size, a link out of the folder. */
async function locateShards(manifest: Manifest, folder: string, archive: boolean) {
  const paths: string[] = []
  const absent: ManifestShard[] = []
  const archived = new Set(manifest.tiers.filter(({ placement }) => placement === 'archive').map(({ name }) => name))
  const again = convertCommand(manifest, folder)
  for (const shard of [...manifest.shards, ...(manifest.optimizer?.shards ?? [])]) {
    const found = await findShard(folder, shard.path)
    const details = { file: shard.path, expectedBytes: shard.bytes, suggestedAction: again }
    if (found.state === 'foreign') throw invalid(folder, `${shard.path}: ${found.reason}`, details)
    if (found.state === 'absent') {
      const own = shard as ManifestShard
      if (!archive || own.tier === undefined || !archived.has(own.tier)) {
        throw invalid(folder, `${shard.path} is missing`, details)
      }
      absent.push(own)
    } else if (found.bytes !== shard.bytes) {
      throw invalid(folder, `${shard.path} has ${found.bytes} bytes, the manifest states ${shard.bytes}`, {
        ...details,
        actualBytes: found.bytes
      })
    }
    paths.push(found.path)
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
    ['layers', model.layers, d.layers],
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
  for (const op of plan.ops) {
    if (op.op !== 'experts') continue
    const parts = manifest.layers.find(({ layer }) => layer === op.layer)
    for (const name of ['gate', 'up', 'down'] as const) {
      if (parts?.[name].tensor === op[name]) continue
      throw invalid(folder, `layer ${op.layer}: ${name} is ${parts?.[name].tensor}, the model needs ${op[name]}`)
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

function blobTable(manifest: Manifest, paths: readonly string[], absent: readonly ManifestShard[]): ExpertBlobs {
  const { layers, experts } = manifest.model
  const table: ExpertBlobs = {
    files: [],
    types: Array.from({ length: layers }, () => ['F32', 'F32', 'F32']),
    fileIndex: new Uint32Array(layers * experts),
    offset: new Float64Array(layers * experts),
    crc32c: new Uint32Array(layers * experts)
  }
  const indexOf = new Map<number, number>()
  const archived = new Set(absent.map(({ path }) => path))
  manifest.shards.forEach(({ kind, path }, shard) => {
    if (kind !== 'experts' || archived.has(path)) return
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
  return table
}

/** The tiers that the experts are in. A placement that this version does not know is cold: the file is here. */
function tierLabels({ tiers, layers, model }: Manifest): TierLabels {
  const indexOf = new Map(tiers.map(({ name }, i) => [name, i]))
  const assignment = Array.from({ length: model.layers }, () => new Array<number>(model.experts).fill(0))
  for (const { layer, experts } of layers) {
    for (const { expert, tier } of experts) assignment[layer]![expert] = indexOf.get(tier)!
  }
  const known = (placement: string): Placement => PLACEMENTS.find((name) => name === placement) ?? 'cold'
  return { tiers: tiers.map(({ name, placement }) => ({ name, placement: known(placement) })), assignment }
}

/**
 * Opens a checkpoint. The caller closes `file`. MODEL_NOT_FOUND; MODEL_CORRUPTED {file, expectedSha256, actualSha256};
 * MODEL_VERSION_MISMATCH {expected, actual, supported} for another major version or layout; CHECKPOINT_INVALID for everything else that is
 * wrong with manifest or files; FILE_READ_FAILED; the errors of readModel on the base file; CANCELLED.
 */
export async function openCheckpoint(
  addon: NativeAddon,
  folder: string,
  { archive = false, verify = false, cancel = addon.createCancel() }: OpenCheckpointOptions = {}
): Promise<Checkpoint> {
  const manifest = await readSoundManifest(addon, folder)
  const { paths, absent } = await locateShards(manifest, folder, archive)
  if (verify) {
    const { damage } = await verifyShards(addon, folder, manifest, {
      cancel,
      absent: new Set(absent.map((s) => s.path))
    })
    if (damage[0]) throw damage[0].error
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
      blobs: blobTable(manifest, paths, absent),
      tiers: tierLabels(manifest),
      absent
    }
  } catch (error) {
    base.close()
    throw error
  }
}
