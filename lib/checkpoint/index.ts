/** Tiered checkpoints: made from a model, checked, and described. Loading one is the engine's. */
import { createError } from '../errors/index.js'
import { native } from '../native.js'
import type { QuantizeType } from '../safetensors/open.js'
import { validated } from '../schemas.js'
import { type ConvertOptions, type ConvertResult, convertCheckpoint } from './convert.js'
import { convertCallSchema, convertSchema, verifyCallSchema, verifySchema } from './requests.js'
import { MEASURED_TIERS, type RoutingStatistics, type TierSpec } from './tiers.js'
import { readStatistics, readTiers, type TierConfig, tierSpecs } from './tiers-file.js'
import { verifyCheckpoint as verify } from './verify.js'
import type { VerifyProgress, VerifyReport } from './verify-shards.js'

export type { Placement } from '../model/hser.js'
export type { ConvertProgress, ConvertResult } from './convert.js'
export type { Manifest } from './manifest.js'
export type { RoutingStatistics } from './tiers.js'
export type { TierConfig } from './tiers-file.js'
export type { Damage, VerifyProgress, VerifyReport } from './verify-shards.js'

export interface ConvertModelRequest {
  /** A GGUF file, a folder with safetensors files, or the folder of a checkpoint whose experts are to go to other tiers. */
  from: string
  /** The folder to write: a new or empty one, or one where the same conversion was begun. */
  to: string
  /** Of safetensors files: matrices become this type, as `tiered-moe quantize` would write them. Default: they stay what they are. */
  quantize?: QuantizeType
  /** A list, the path of a YAML file, or `measured` (the more used half of each layer is hot). Default: one tier. */
  tiers?: string | readonly TierConfig[]
  /** How often each expert was used, or the path of a JSON file with that. */
  statistics?: string | RoutingStatistics
  /** Take the place of another checkpoint in the folder. */
  replace?: boolean
  /** Where the files of its archive tiers will be: written into the manifest, for loads that do not say. http or https, without credentials or a query. */
  archiveUrl?: string
}

interface Interruptible {
  signal?: AbortSignal
}

/** Runs native work that a signal ends. CANCELLED with the signal's reason as its cause. */
async function interruptible<Result>(
  signal: AbortSignal | undefined,
  run: (cancel: ReturnType<ReturnType<typeof native>['createCancel']>) => Promise<Result>
): Promise<Result> {
  const cancel = native().createCancel()
  const onAbort = () => cancel.cancel()
  signal?.addEventListener('abort', onAbort, { once: true })
  try {
    if (signal?.aborted) throw createError('CANCELLED', 'the caller aborted', {}, { cause: signal.reason })
    return await run(cancel)
  } finally {
    signal?.removeEventListener('abort', onAbort)
  }
}

async function specsOf(tiers: string | readonly object[]): Promise<readonly TierSpec[]> {
  if (tiers === 'measured') return MEASURED_TIERS
  return typeof tiers === 'string' ? readTiers(tiers) : tierSpecs({ tiers }, 'convertModel')
}

/**
 * Makes a tiered checkpoint of a model; called again after it was cut short, it goes on where it was. Errors: those of opening the model;
 * VALIDATION_ERROR for tiers that do not fit it and for a folder that holds something else; RESOURCE_DISK_EXHAUSTED {required, available},
 * FILE_READ_FAILED, FILE_WRITE_FAILED, RESOURCE_MEMORY_EXHAUSTED, CANCELLED.
 */
export async function convertModel(
  request: ConvertModelRequest,
  options: Interruptible & { onProgress?: ConvertOptions['onProgress'] } = {}
): Promise<ConvertResult> {
  const { from, to, quantize, tiers, statistics, replace, archiveUrl } = validated(
    convertSchema,
    request,
    'convertModel'
  )
  const { signal, onProgress } = validated(convertCallSchema, options, 'convertModel')
  const counts = typeof statistics === 'string' ? await readStatistics(statistics) : statistics
  const specs = tiers === undefined ? undefined : await specsOf(tiers)
  const checked = {
    from,
    to,
    quantize,
    replace,
    archiveUrl,
    ...(specs && { tiers: specs }),
    ...(counts && { statistics: counts })
  }
  return interruptible(signal, (cancel) => convertCheckpoint(native(), checked, { cancel, onProgress }))
}

/**
 * Reads a whole checkpoint and reports everything that is damaged, each with its fix. Throws where the manifest itself cannot be read:
 * MODEL_NOT_FOUND, MODEL_CORRUPTED, CHECKPOINT_INVALID, MODEL_VERSION_MISMATCH, FILE_READ_FAILED; CANCELLED.
 */
export async function verifyCheckpoint(
  folder: string,
  options: Interruptible & { onProgress?: (progress: VerifyProgress) => void } = {}
): Promise<VerifyReport> {
  const { folder: path } = validated(verifySchema, { folder }, 'verifyCheckpoint')
  const { signal, onProgress } = validated(verifyCallSchema, options, 'verifyCheckpoint')
  return interruptible(signal, (cancel) => verify(native(), path, { cancel, ...(onProgress && { onProgress }) }))
}
