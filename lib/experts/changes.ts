/** What can be done to an expert while its model serves, and the blobs that come of it. */
import { randomUUID } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { makeFolder } from '../checkpoint/folder.js'
import type { SourceLayer } from '../checkpoint/source.js'
import { openSource } from '../checkpoint/source.js'
import { explainWrite } from '../disk-room.js'
import { createError } from '../errors/index.js'
import type { ExpertLayout, ExpertsFile, ExpertUse, NativeAddon, NativeCancel } from '../native.js'
import { validationError } from '../validation.js'
import type { ExpertPlace, ExpertVersion, VersionBlob } from './history.js'
import type { NewVersion } from './versions.js'

const index = z.number().int().min(0).max(4095)
const filePath = z
  .string()
  .min(1)
  .refine((path) => !path.includes('\0'))

export const changeSchema = z.discriminatedUnion('action', [
  z.strictObject({
    action: z.literal('replace'),
    layer: index,
    expert: index,
    from: filePath.optional(),
    fromLayer: index.optional(),
    fromExpert: index.optional(),
    blob: filePath.optional()
  }),
  z.strictObject({
    action: z.literal('merge'),
    layer: index,
    experts: z.array(index).min(2).max(4096),
    weights: z.array(z.number().min(0)).max(4096).optional()
  }),
  z.strictObject({
    action: z.literal('reinitialise'),
    layer: index,
    expert: index,
    seed: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)
  })
])

/** A change of one expert, or of several that become one. */
export type ExpertChange =
  | {
      /** By an expert of another GGUF file or checkpoint folder (by default the one at the same place), or by a file that is one blob. */
      action: 'replace'
      layer: number
      expert: number
      /** Exactly one of `from` and `blob`. */
      from?: string
      fromLayer?: number
      fromExpert?: number
      /** In the kernels' layout, exactly as long as the layer's blobs. */
      blob?: string
    }
  | {
      /** All of these get the same weights: the average, by `weights` or by the tokens that went to each since the load. */
      action: 'merge'
      layer: number
      experts: readonly number[]
      weights?: readonly number[]
    }
  | {
      /** Random weights, uniform in ± 1 / √columns of each matrix. */
      action: 'reinitialise'
      layer: number
      expert: number
      seed: number
    }

export type CheckedChange = z.output<typeof changeSchema>

/** The model whose experts change. */
export interface ChangedModel {
  addon: NativeAddon
  /** What it was loaded from. */
  path: string
  isCheckpoint: boolean
  /** Throws MODEL_CHANGED where the file at `path` is no longer the one that was loaded. */
  checkUnchanged(): void
  /** Experts per layer. */
  experts: number
  /** In the order of routing. */
  layers: readonly SourceLayer[]
  use(): ExpertUse
  newest(place: ExpertPlace): ExpertVersion
  /** Folder for the new files. */
  folder: string
}

/** The experts that a change gives new versions. */
const targets = (change: CheckedChange): number[] => (change.action === 'merge' ? change.experts : [change.expert])

/** VALIDATION_ERROR for what does not exist or stands twice. */
export function checkChanges(changes: readonly CheckedChange[], layers: number, experts: number): void {
  const seen = new Set<string>()
  for (const [i, change] of changes.entries()) {
    const at = `changes[${i}]`
    const { layer } = change
    if (layer >= layers) throw validationError('swapExperts', `${at}.layer`, layer, `0 to ${layers - 1}`)
    for (const expert of targets(change)) {
      if (expert >= experts) throw validationError('swapExperts', `${at}.expert`, expert, `0 to ${experts - 1}`)
      const key = `${layer} ${expert}`
      if (seen.has(key)) throw validationError('swapExperts', at, `expert ${expert} of layer ${layer}`, 'each once')
      seen.add(key)
    }
    if (change.action === 'replace' && (change.from === undefined) === (change.blob === undefined)) {
      throw validationError('swapExperts', `${at}.from`, change.from, 'exactly one of from and blob')
    }
    if (change.action === 'merge' && change.weights && change.weights.length !== change.experts.length) {
      throw validationError('swapExperts', `${at}.weights`, change.weights, `${change.experts.length} numbers`)
    }
  }
}

/**
 * Writes the new versions of all changes, each a file of its own; none stays when one fails. MODEL_NOT_FOUND and the other errors of opening
 * a model, TENSOR_SHAPE_MISMATCH {expected, actual}, TENSOR_TYPE_UNSUPPORTED {type}, RUNTIME_NAN_DETECTED, MODEL_CORRUPTED, MODEL_CHANGED,
 * EXPERT_UNAVAILABLE, FILE_READ_FAILED, FILE_WRITE_FAILED, RESOURCE_DISK_EXHAUSTED, CANCELLED.
 */
export async function makeVersions(model: ChangedModel, changes: readonly CheckedChange[]): Promise<NewVersion[]> {
  await makeFolder(model.folder)
  const work = new VersionWriter(model)
  try {
    const made: NewVersion[] = []
    for (const change of changes) {
      for (const expert of targets(change))
        made.push({ layer: change.layer, expert, blob: await work.make(change, expert) })
    }
    return made
  } catch (error) {
    await work.remove(work.written)
    throw error
  } finally {
    await work.remove(work.temporary)
  }
}

class VersionWriter {
  /** New versions, and what was only read from. */
  readonly written: string[] = []
  readonly temporary: string[] = []
  readonly #model: ChangedModel
  readonly #cancel: NativeCancel
  /** The first result of each merge. */
  readonly #merged = new Map<CheckedChange, VersionBlob>()

  constructor(model: ChangedModel) {
    this.#model = model
    this.#cancel = model.addon.createCancel()
  }

  async remove(paths: readonly string[]): Promise<void> {
    for (const path of paths) await rm(path, { force: true }).catch(() => {})
  }

  async make(change: CheckedChange, expert: number): Promise<VersionBlob> {
    const { addon, layers } = this.#model
    const { layer } = change
    const { layout } = layers[layer]!
    const name = `layer-${String(layer).padStart(3, '0')}-expert-${String(expert).padStart(4, '0')}`
    const path = join(this.#model.folder, `${name}-${randomUUID().slice(0, 13)}.bin`)
    this.written.push(path)
    const cancel = this.#cancel
    if (change.action === 'reinitialise') {
      return this.#write(path, layout, () =>
        addon.initExpert(path, { ...optionsOf(layout), seed: change.seed }, cancel)
      )
    }
    if (change.action === 'merge') {
      const merged = this.#merged.get(change)
      // All of them get the same bytes, each in a file of its own.
      const blob = merged ? await this.#copy(merged, path, layout) : await this.#merge(change, path, layout)
      this.#merged.set(change, blob)
      return blob
    }
    if (change.blob !== undefined) return this.#copy(await this.#measure(change.blob, layout), path, layout)
    return this.#pack(change.from!, change.fromLayer ?? layer, change.fromExpert ?? expert, path, layout)
  }

  async #write(path: string, layout: ExpertLayout, write: () => Promise<ExpertsFile>): Promise<VersionBlob> {
    try {
      const { crc32c, blobSha256 } = await write()
      return { path, offset: 0, crc32c: crc32c[0]!, sha256: blobSha256[0]! }
    } catch (error) {
      throw await explainWrite(error, this.#model.folder, layout.bytes)
    }
  }

  #copy(blob: VersionBlob, path: string, layout: ExpertLayout): Promise<VersionBlob> {
    const { addon } = this.#model
    const options = { blobBytes: layout.bytes, ...tableOf([blob]) }
    return this.#write(path, layout, () => addon.copyExperts([blob.path], path, options, this.#cancel))
  }

  async #merge(
    { layer, experts, weights }: CheckedChange & { action: 'merge' },
    path: string,
    layout: ExpertLayout
  ): Promise<VersionBlob> {
    const { addon, experts: count } = this.#model
    const { rows } = this.#model.use()
    const counts = weights ?? experts.map((expert) => rows[layer * count + expert]!)
    const used = counts.some((weight) => weight > 0)
    const blobs: VersionBlob[] = []
    for (const expert of experts) blobs.push(await this.#current({ layer, expert }, layout))
    const options = {
      ...optionsOf(layout),
      ...tableOf(blobs),
      // Experts that nothing went to yet count the same.
      weights: Float64Array.from(counts, (weight) => (used ? weight : 1))
    }
    const files = blobs.map((blob) => blob.path)
    return this.#write(path, layout, () => addon.mergeExperts(files, path, options, this.#cancel))
  }

  /** The blob of an expert as it is now; packed first where a GGUF file has it. */
  async #current(place: ExpertPlace, layout: ExpertLayout): Promise<VersionBlob> {
    const { blob } = this.#model.newest(place)
    if (blob) return blob
    if (this.#model.isCheckpoint) {
      const text = `expert ${place.expert} of layer ${place.layer} is in the archive`
      throw createError('EXPERT_UNAVAILABLE', text, { ...place, archived: 1 })
    }
    this.#model.checkUnchanged()
    const path = join(this.#model.folder, `packed-${randomUUID()}.tmp`)
    this.temporary.push(path)
    return this.#pack(this.#model.path, place.layer, place.expert, path, layout)
  }

  /** An expert of a model on disk. */
  async #pack(from: string, layer: number, expert: number, path: string, layout: ExpertLayout): Promise<VersionBlob> {
    const source = await openSource(this.#model.addon, from)
    try {
      const found = source.layers[layer]
      const { experts } = source.description.sizes
      if (!found || expert >= experts) {
        const text = `${from} has ${source.layers.length} layers of ${experts} experts`
        throw createError('VALIDATION_ERROR', `swapExperts: there is no expert ${expert} in layer ${layer}: ${text}`, {
          path: from,
          layer,
          expert
        })
      }
      checkAlike(layout, found.layout, from, { layer, expert })
      return await this.#write(path, layout, () => source.writeExperts(path, layer, [expert], this.#cancel, () => {}))
    } finally {
      source.close()
    }
  }

  /** A file that is one blob. */
  async #measure(path: string, { bytes }: ExpertLayout): Promise<VersionBlob> {
    const options = { offset: Float64Array.of(0), bytes: Float64Array.of(bytes) }
    const found = await this.#model.addon.measureShard(path, options, this.#cancel)
    if (found.bytes !== bytes) {
      const text = `${path} has ${found.bytes} bytes, a blob of this layer has ${bytes}`
      throw createError('TENSOR_SHAPE_MISMATCH', text, { tensor: path, expected: bytes, actual: found.bytes })
    }
    return { path, offset: 0, crc32c: found.crc32c[0]!, sha256: found.blobSha256[0]! }
  }
}

const optionsOf = ({ gate, up, down }: ExpertLayout) => ({
  gate: gate.type,
  up: up.type,
  down: down.type,
  width: gate.columns,
  hidden: gate.rows
})

const tableOf = (blobs: readonly VersionBlob[]) => ({
  fileIndex: Uint32Array.from(blobs, (_, i) => i),
  offset: Float64Array.from(blobs, ({ offset }) => offset),
  crc32c: Uint32Array.from(blobs, ({ crc32c }) => crc32c)
})

/** Another shape or weight type cannot be computed in this one's place. */
function checkAlike(wanted: ExpertLayout, found: ExpertLayout, path: string, place: ExpertPlace): void {
  const shown = ({ gate, up, down }: ExpertLayout) =>
    [gate, up, down].map(({ type, rows, columns }) => `${type} ${rows} × ${columns}`).join(', ')
  const [expected, actual] = [shown(wanted), shown(found)]
  if (expected === actual) return
  const where = `expert ${place.expert} of layer ${place.layer} of ${path}`
  throw createError('TENSOR_SHAPE_MISMATCH', `${where} is ${actual}; ${expected} is needed`, {
    tensor: where,
    expected,
    actual
  })
}
