/** Opens what a load is asked for, a GGUF file or the folder of a tiered checkpoint, into one shape. */
import { isCheckpoint, openCheckpoint } from '../checkpoint/open.js'
import type { Placement } from '../model/hser.js'
import type { ModelDescription } from '../model/index.js'
import { readModel } from '../model/index.js'
import type { DType, ExpertBlobs, GgufTensorInfo, NativeAddon, NativeCancel, NativeGguf } from '../native.js'
import { modelTierLabels } from '../tiers/describe.js'
import type { TierLabels } from '../tiers/model-tiers.js'

export interface OpenModel {
  /** What the backend loads from. The caller closes it. */
  file: NativeGguf
  /** Every tensor, those of the experts too. */
  tensors: readonly GgufTensorInfo[]
  description: ModelDescription
  tiers: TierLabels
  /** Where the experts are, if not in the file. */
  blobs?: ExpertBlobs
}

/** MODEL_NOT_FOUND, FILE_READ_FAILED, the errors of readModel; of a folder those of openCheckpoint too. */
export async function openModel(addon: NativeAddon, path: string, cancel: NativeCancel): Promise<OpenModel> {
  if (await isCheckpoint(path)) return fromCheckpoint(addon, path, cancel)
  const file = await addon.openGguf(path)
  try {
    const description = readModel(file)
    return { file, tensors: file.tensors, description, tiers: modelTierLabels(description) }
  } catch (error) {
    file.close()
    throw error
  }
}

async function fromCheckpoint(addon: NativeAddon, path: string, cancel: NativeCancel): Promise<OpenModel> {
  const { base, file, description, blobs, manifest } = await openCheckpoint(addon, path, { cancel })
  const layers = [...manifest.layers].sort((a, b) => a.layer - b.layer)
  const indexOf = new Map(manifest.tiers.map(({ name }, index) => [name, index]))
  const assignment = layers.map(({ experts }) => {
    const row = new Array<number>(experts.length)
    for (const { expert, tier } of experts) row[expert] = indexOf.get(tier)!
    return row
  })
  const tiers = manifest.tiers.map(({ name, placement }) => ({ name, placement: placement as Placement }))
  const types = layers.map(({ gate, up, down }) => [gate.type, up.type, down.type] as [DType, DType, DType])
  const labels = { tiers, assignment }
  return { file: base, tensors: file.tensors, description, tiers: labels, blobs: { ...blobs, types } }
}
