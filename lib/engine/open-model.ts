/** Opens what a load is asked for, a GGUF file, a folder of safetensors files or that of a tiered checkpoint, into one shape. */
import type { Checkpoint, OpenCheckpointOptions } from '../checkpoint/open.js'
import { openCheckpoint } from '../checkpoint/open.js'
import { isCheckpoint } from '../checkpoint/sound-manifest.js'
import type { ModelDescription } from '../model/index.js'
import { readModel } from '../model/index.js'
import type { ExpertBlobs, GgufTensorInfo, NativeAddon, NativeCancel, NativeGguf } from '../native.js'
import { openWeights, type QuantizeType, refuseQuantize } from '../safetensors/open.js'
import { modelTierLabels } from '../tiers/describe.js'
import type { TierLabels } from '../tiers/model-tiers.js'
import { validationError } from '../validation.js'

export interface OpenModel {
  /** What the backend loads from. The caller closes it. */
  file: NativeGguf
  /** Every tensor, those of the experts too. */
  tensors: readonly GgufTensorInfo[]
  description: ModelDescription
  tiers: TierLabels
  /** Whether the tiers are the file's own: a hierarchical model's or a checkpoint's. */
  ownTiers: boolean
  /** Where the experts are, if not in the file. */
  blobs?: ExpertBlobs
  /** A checkpoint's manifest, its files that are in the archive only, and the tiers that it was opened without. */
  checkpoint?: Pick<Checkpoint, 'manifest' | 'absent' | 'leftOut'>
}

/**
 * MODEL_NOT_FOUND, FILE_READ_FAILED, the errors of readModel; of a folder those of openCheckpoint or openModelFolder too. `verify`: every byte of a
 * checkpoint is compared first. `archive`: files of a checkpoint's archive tiers may be absent. VALIDATION_ERROR for `tierFolders` of anything
 * else, and for `quantize` of what are no safetensors files.
 */
export async function openModel(
  addon: NativeAddon,
  path: string,
  cancel: NativeCancel,
  {
    verify = false,
    archive = false,
    tierFolders,
    quantize
  }: Omit<OpenCheckpointOptions, 'cancel'> & { quantize?: QuantizeType | undefined } = {}
): Promise<OpenModel> {
  if (await isCheckpoint(path)) {
    refuseQuantize('loadModel', quantize)
    const opened = await openCheckpoint(addon, path, { cancel, verify, archive, tierFolders })
    const { base, file, description, tiers, blobs, manifest, absent, leftOut } = opened
    const checkpoint = { manifest, absent, leftOut }
    return { file: base, tensors: file.tensors, description, tiers, ownTiers: true, blobs, checkpoint }
  }
  if (tierFolders) throw validationError('loadModel', 'tierFolders', tierFolders, 'only with a tiered checkpoint')
  const file = await openWeights(addon, path, 'loadModel', quantize)
  try {
    const description = readModel(file)
    return {
      file,
      tensors: file.tensors,
      description,
      tiers: modelTierLabels(description),
      ownTiers: !!description.sizes.hser
    }
  } catch (error) {
    file.close()
    throw error
  }
}
