/**
 * Makes a tiered checkpoint: base file, then the experts of each layer and tier, then the manifest, which makes it one. Killed at any
 * moment it leaves a folder without a manifest, or a whole checkpoint; the same call goes on where it was.
 */
import { createHash } from 'node:crypto'
import { copyFile, open, realpath } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { checkRoom, explainWrite } from '../disk-room.js'
import { createError } from '../errors/index.js'
import type { ExpertLayout, NativeAddon, NativeCancel } from '../native.js'
import { packageVersion } from '../native.js'
import type { QuantizeType } from '../safetensors/open.js'
import { ConvertJournal, type FileRecord } from './convert-journal.js'
import {
  BASE_NAME,
  EXPERTS_FOLDER,
  findShard,
  LOCK_NAME,
  layerFile,
  makeFolder,
  removeFile,
  syncFolder,
  writeFailed,
  writeManifest
} from './folder.js'
import {
  CHECKPOINT_FORMAT,
  CHECKPOINT_VERSION,
  LARGEST_MANIFEST,
  type Manifest,
  type ManifestPart,
  type OptimizerState
} from './manifest.js'
import { type ConvertSource, openSource } from './source.js'
import { lockTarget, prepareTarget, type Target } from './target.js'
import {
  type Assignment,
  assignHser,
  assignTiers,
  hserTiers,
  ONE_TIER,
  type RoutingStatistics,
  type TierSpec
} from './tiers.js'

export interface ConvertRequest {
  /** A GGUF file, a folder with safetensors files, or the folder of another checkpoint. */
  from: string
  to: string
  /** Of safetensors files: matrices become this type. Default: they stay what they are. */
  quantize?: QuantizeType | undefined
  /** Default: a hierarchical model's own, one tier for others. */
  tiers?: readonly TierSpec[]
  /** How often each expert was used, for tiers that are a share of the most used. */
  statistics?: RoutingStatistics
  /** Take the place of another checkpoint in the folder. */
  replace?: boolean
  /** Where the files of archive tiers will be. Default: what the manifest of an earlier run says. */
  archiveUrl?: string | undefined
}

export interface ConvertProgress {
  /** The file that is being written or, where an earlier run wrote it, compared. */
  file: string
  bytesDone: number
  bytesTotal: number
}

export interface ConvertOptions {
  cancel?: NativeCancel
  onProgress?: ((progress: ConvertProgress) => void) | undefined
}

export interface ConvertResult {
  folder: string
  manifest: Manifest
  bytes: number
  /** Files that were written, and files of an earlier run that were kept. */
  written: number
  kept: number
}

/** About what an expert takes in the manifest. */
const MANIFEST_BYTES = 400

/** A file to be made. */
interface Work {
  path: string
  bytes: number
  /** Experts of a layer and tier; not there for the base file. */
  experts?: { layer: number; tier: number; ids: number[]; groups: number[] }
}

function planWork(source: ConvertSource, tiers: readonly TierSpec[], assignment: Assignment): Work[] {
  const work: Work[] = [{ path: BASE_NAME, bytes: source.baseBytes }]
  assignment.tiers.forEach((own, layer) => {
    tiers.forEach(({ name }, tier) => {
      const ids = own.flatMap((index, expert) => (index === tier ? [expert] : []))
      if (ids.length === 0) return
      const bytes = ids.length * source.layers[layer]!.layout.bytes
      work.push({
        path: layerFile(name, layer),
        bytes,
        experts: { layer, tier, ids, groups: ids.map((id) => assignment.groups[layer]![id]!) }
      })
    })
  })
  return work
}

class Conversion {
  readonly records = new Map<string, FileRecord>()
  written = 0
  kept = 0
  #bytesDone = 0

  constructor(
    readonly addon: NativeAddon,
    readonly source: ConvertSource,
    readonly target: Target,
    readonly work: readonly Work[],
    readonly cancel: NativeCancel,
    readonly onProgress: ConvertOptions['onProgress']
  ) {}

  /** Makes or keeps every file, in order. */
  async run(journal: ConvertJournal): Promise<void> {
    for (const work of this.work) {
      const before = this.#bytesDone
      const report = (bytes: number) => this.#report(work.path, before + bytes)
      report(0)
      const known = await this.#unchanged(work, report)
      const record = known ?? (await this.#make(work, report))
      if (known) this.kept++
      else {
        this.written++
        journal.add(record)
      }
      this.records.set(work.path, record)
      this.#bytesDone = before + work.bytes
    }
  }

  /** Bytes that are still to be written, where every file that an earlier run finished is kept. */
  async missingBytes(): Promise<number> {
    let missing = 0
    for (const { path, bytes } of this.work) {
      const found = await findShard(this.target.folder, path)
      if (!this.target.known.has(path) || found.state !== 'present') missing += bytes
    }
    return missing
  }

  #report(file: string, bytesDone: number): void {
    const bytesTotal = this.work.reduce((sum, { bytes }) => sum + bytes, 0)
    this.#bytesDone = Math.min(bytesDone, bytesTotal)
    this.onProgress?.({ file, bytesDone: this.#bytesDone, bytesTotal })
  }

  /** The record of an earlier run, where the file still is what it says. */
  async #unchanged({ path, experts }: Work, report: (bytes: number) => void): Promise<FileRecord | undefined> {
    const known = this.target.known.get(path)
    if (!known || (experts && known.crc32c.length !== experts.ids.length)) return undefined
    const found = await findShard(this.target.folder, path)
    if (found.state !== 'present' || found.bytes !== known.bytes) return undefined
    const options = { offset: new Float64Array(0), bytes: new Float64Array(0), onProgress: report }
    const { sha256 } = await this.addon.measureShard(found.path, options, this.cancel)
    return sha256 === known.sha256 ? known : undefined
  }

  async #make({ path, experts }: Work, report: (bytes: number) => void): Promise<FileRecord> {
    const to = join(this.target.folder, ...path.split('/'))
    if (!experts) {
      const { bytes, sha256 } = await this.source.writeBase(to, this.cancel)
      return { path, bytes, sha256, crc32c: [], blobSha256: [] }
    }
    await makeFolder(dirname(to))
    const made = await this.source.writeExperts(to, experts.layer, experts.ids, this.cancel, report)
    const crc32c = Array.from(made.crc32c, (crc) => crc.toString(16).padStart(8, '0'))
    return { path, bytes: made.bytes, sha256: made.sha256, crc32c, blobSha256: made.blobSha256 }
  }
}

const partOf = (layout: ExpertLayout, name: 'gate' | 'up' | 'down', tensor: string): ManifestPart => ({
  tensor,
  ...layout[name]
})

function makeManifest(
  { source, work, records }: Conversion,
  tiers: readonly TierSpec[],
  conversion: string,
  optimizer: OptimizerState | undefined
): Manifest {
  const { description, identity, layers } = source
  const { descriptor, plan, sizes } = description
  const manifest: Manifest = {
    format: CHECKPOINT_FORMAT,
    version: CHECKPOINT_VERSION,
    layout: layers[0]!.layout.id,
    createdBy: `tiered-moe ${packageVersion()}`,
    source: identity,
    conversion,
    model: {
      ...(descriptor.name === undefined ? {} : { name: descriptor.name }),
      architecture: description.architecture,
      layers: sizes.expertLayers,
      experts: sizes.experts,
      expertsUsed: sizes.expertsUsed,
      width: sizes.embedding,
      hidden: sizes.feedForward
    },
    routing: { seed: [...plan.routingSeed] },
    tiers: tiers.map(({ name, placement, budget }) => ({
      name,
      placement,
      ...(budget === undefined ? {} : { budget }),
      groups: 1,
      experts: 0,
      bytes: 0
    })),
    shards: [],
    layers: layers.map(({ tensors, layout }, layer) => ({
      layer,
      blobBytes: layout.bytes,
      gate: partOf(layout, 'gate', tensors.gate),
      up: partOf(layout, 'up', tensors.up),
      down: partOf(layout, 'down', tensors.down),
      experts: []
    })),
    ...(optimizer ? { optimizer } : {})
  }
  for (const { path, experts } of work) {
    const { bytes, sha256, crc32c, blobSha256 } = records.get(path)!
    const shard = manifest.shards.length
    if (!experts) {
      manifest.shards.push({ path, kind: 'base', bytes, sha256, version: 0 })
      continue
    }
    const tier = manifest.tiers[experts.tier]!
    manifest.shards.push({ path, kind: 'experts', tier: tier.name, layer: experts.layer, bytes, sha256, version: 0 })
    const blobBytes = layers[experts.layer]!.layout.bytes
    experts.ids.forEach((expert, i) => {
      tier.experts++
      tier.bytes += blobBytes
      const group = experts.groups[i]!
      tier.groups = Math.max(tier.groups, group + 1)
      const place = { tier: tier.name, group, shard, offset: i * blobBytes, bytes: blobBytes }
      const sums = { crc32c: crc32c[i]!, sha256: blobSha256[i]! }
      manifest.layers[experts.layer]!.experts.push({ expert, ...place, ...sums, version: 0 })
    })
  }
  for (const { experts } of manifest.layers) experts.sort((a, b) => a.expert - b.expert)
  return manifest
}

async function copyDurably(from: string, to: string): Promise<void> {
  try {
    await copyFile(from, to)
    const handle = await open(to, 'r+')
    await handle.sync().finally(() => handle.close())
  } catch (error) {
    throw writeFailed(to, error)
  }
  await syncFolder(dirname(to))
}

/** Copies the files of a source's optimizer state, each compared with its sum. MODEL_CORRUPTED. */
async function copyOptimizer(addon: NativeAddon, source: ConvertSource, folder: string, cancel: NativeCancel) {
  const { optimizer } = source
  if (!optimizer) return undefined
  for (const { path, sha256 } of optimizer.state.shards) {
    const [from, to] = [optimizer.folder, folder].map((root) => join(root, ...path.split('/'))) as [string, string]
    const options = { offset: new Float64Array(0), bytes: new Float64Array(0) }
    await makeFolder(dirname(to))
    await copyDurably(from, to)
    const actual = await addon.measureShard(to, options, cancel)
    if (actual.sha256 === sha256) continue
    const details = { file: path, expectedSha256: sha256, actualSha256: actual.sha256 }
    throw createError('MODEL_CORRUPTED', `${from}: its SHA-256 is ${actual.sha256}, not ${sha256}`, details)
  }
  return optimizer.state
}

async function refuseSameFolder(from: string, to: string): Promise<void> {
  const [a, b] = await Promise.all([from, to].map((path) => realpath(path).catch(() => undefined)))
  if (a === undefined || a !== b) return
  const details = { path: 'to', found: to, allowed: 'another folder' }
  throw createError('VALIDATION_ERROR', `convert: ${to} is what is to be converted`, details)
}

/**
 * Converts a model. MODEL_NOT_FOUND and the other errors of opening the source (types and architectures that cannot be kept included);
 * VALIDATION_ERROR for tiers that do not fit the model, and for a folder that holds something else; RESOURCE_DISK_EXHAUSTED {required,
 * available}, FILE_READ_FAILED, FILE_WRITE_FAILED, RESOURCE_MEMORY_EXHAUSTED, CANCELLED. After any of them the same call goes on.
 */
export async function convertCheckpoint(
  addon: NativeAddon,
  { from, to, tiers: asked, statistics, quantize, replace = false, archiveUrl }: ConvertRequest,
  { cancel = addon.createCancel(), onProgress }: ConvertOptions = {}
): Promise<ConvertResult> {
  const source = await openSource(addon, from, quantize)
  try {
    await refuseSameFolder(from, to)
    const { expertLayers: layers, experts, hser } = source.description.sizes
    const tiers = hser ? hserTiers(hser, asked) : (asked ?? ONE_TIER)
    const assignment = hser ? assignHser(hser, layers) : assignTiers(tiers, layers, experts, statistics)
    if (layers * experts * MANIFEST_BYTES > LARGEST_MANIFEST) {
      const details = {
        path: 'from',
        found: `${layers * experts} experts`,
        allowed: `${LARGEST_MANIFEST / MANIFEST_BYTES}`
      }
      throw createError('VALIDATION_ERROR', `convert: ${from} has more experts than a manifest can hold`, details)
    }
    const identity = [
      source.identity,
      source.layers[0]!.layout.id,
      tiers.map(({ experts: _, ...tier }) => tier),
      assignment
    ]
    const conversion = createHash('sha256').update(JSON.stringify(identity)).digest('hex')
    const lock = await lockTarget(to, addon.tryLockFile.bind(addon))
    try {
      const target = await prepareTarget(to, conversion, source.identity, replace)
      const run = new Conversion(addon, source, target, planWork(source, tiers, assignment), cancel, onProgress)
      return await finish(run, tiers, conversion, archiveUrl)
    } finally {
      await removeFile(join(to, LOCK_NAME)).finally(() => lock.close())
    }
  } finally {
    source.close()
  }
}

async function finish(
  run: Conversion,
  tiers: readonly TierSpec[],
  conversion: string,
  archiveUrl: string | undefined
): Promise<ConvertResult> {
  const { addon, source, target, cancel } = run
  const { folder } = target
  const manifestBytes = run.work.reduce((sum, { experts }) => sum + (experts?.ids.length ?? 0) * MANIFEST_BYTES, 65536)
  const required = (await run.missingBytes()) + manifestBytes
  await checkRoom(folder, required)
  try {
    const optimizer = (await copyOptimizer(addon, source, folder, cancel)) ?? target.optimizer
    const journal = await ConvertJournal.begin(folder, { conversion, optimizer }, target.known.values())
    try {
      await run.run(journal)
    } finally {
      journal.close()
    }
    await source.checkUnchanged()
    await syncFolder(join(folder, EXPERTS_FOLDER))
    await syncFolder(folder)
    const same = run.work.every(({ path }) => run.records.get(path)!.sha256 === target.known.get(path)?.sha256)
    const made = (same && target.manifest) || makeManifest(run, tiers, conversion, optimizer)
    const url = archiveUrl ?? target.manifest?.archive?.url
    const manifest = made.archive?.url === url ? made : { ...made, archive: { url: url! } }
    if (manifest !== target.manifest) await writeManifest(folder, manifest)
    await journal.remove()
    const bytes = manifest.shards.reduce((sum, shard) => sum + shard.bytes, 0)
    return { folder, manifest, bytes, written: run.written, kept: run.kept }
  } catch (error) {
    throw await explainWrite(error, folder, required)
  }
}
