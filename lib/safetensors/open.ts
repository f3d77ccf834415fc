/**
 * Opens a folder of safetensors files as what the addon would make of a GGUF file of the same model: config.json and tokenizer.json become its
 * metadata, tensors get the names, shapes and types that converters give them, and experts are stacked. No weight is read here.
 */
import { basename } from 'node:path'
import type { Metadata } from '../model/metadata.js'
import type { NativeAddon, NativeGguf } from '../native.js'
import { validationError } from '../validation.js'
import { findFolderArchitecture, folderMetadata } from './architectures.js'
import { CONFIG_FILE, readConfig } from './config.js'
import { type GatheredTensor, gatherTensors } from './gather.js'
import { ggufHeader, type HeaderTensor, type HeaderTensorType, type MetadataValue, tensorTypes } from './gguf-header.js'
import { isModelFolder } from './model-folder.js'
import { readShards } from './shards.js'
import { tokenizerEntries } from './tokenizer.js'

/** What matrices become as they are read. */
export type QuantizeType = 'Q8_0' | 'Q4_0'

/** `general.file_type` of the specification, by the type that most weights have. */
const fileTypes: Record<HeaderTensorType, number> = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 7, BF16: 32, MXFP4: 38 }
const quantizationVersion = 2

/** The type that a tensor has in memory: what converters and `tiered-moe quantize` give it. */
function typeOf(
  addon: NativeAddon,
  { name, shape, stored }: GatheredTensor,
  quantize: QuantizeType | undefined,
  tied: boolean
): HeaderTensorType {
  const quantised = addon.quantizedType({ name, shape, type: stored }, quantize ?? 'Q8_0', tied)
  // Norms and routers are F32 in every GGUF file.
  return quantize === undefined && quantised !== 'F32' ? stored : (quantised as HeaderTensorType)
}

const blocks: Record<HeaderTensorType, readonly [weights: number, bytes: number]> = {
  F32: [1, 4],
  F16: [1, 2],
  BF16: [1, 2],
  Q8_0: [32, 34],
  Q4_0: [32, 18],
  MXFP4: [32, 17]
}

function described(tensor: GatheredTensor, type: HeaderTensorType): HeaderTensor {
  const [weights, bytes] = blocks[type]
  const { name, shape } = tensor
  return { name, type, shape, bytes: (shape.reduce((product, size) => product * size, 1) / weights) * bytes }
}

/** Whether the output matrix is the embedding, as config.json says it. */
const isTied = (config: Metadata, tied: boolean): boolean => config.boolean('.tie_word_embeddings', tied)

/**
 * The model of a folder. `quantize`: matrices become that type as they are read, those that `tiered-moe quantize` would write in it. MODEL_NOT_FOUND,
 * FILE_READ_FAILED, MODEL_FILE_INVALID {path}, METADATA_INVALID {key}, ARCHITECTURE_UNSUPPORTED, TENSOR_MISSING, TENSOR_SHAPE_MISMATCH,
 * TENSOR_TYPE_UNSUPPORTED.
 */
export async function openModelFolder(
  addon: NativeAddon,
  folder: string,
  quantize?: QuantizeType
): Promise<NativeGguf> {
  const config = await readConfig(folder, CONFIG_FILE)
  const architecture = findFolderArchitecture(config)
  const entries = folderMetadata(architecture, config)
  const { files, tensors } = await readShards(folder)
  const gathered = gatherTensors(architecture, config, tensors, isTied(config, architecture.tied), folder)
  const tied = !gathered.some(({ name }) => name === 'output.weight')
  if (tied && !isTied(config, architecture.tied)) {
    config.refuse('.tie_word_embeddings', 'true where there is no lm_head.weight')
  }
  const typed = gathered.map((tensor) => described(tensor, typeOf(addon, tensor, quantize, tied)))
  const most = [...typed].sort((a, b) => b.bytes - a.bytes)[0]?.type ?? 'F32'
  const metadata = new Map<string, MetadataValue>([
    ...entries,
    ['general.name', { type: 'string', value: basename(folder) }],
    ['general.file_type', { type: 'u32', value: fileTypes[quantize ?? most] }],
    ['general.quantization_version', { type: 'u32', value: quantizationVersion }],
    ...(await tokenizerEntries(folder, config, `${architecture.ggufName}.vocab_size`))
  ])
  const { header, dataBytes } = ggufHeader(metadata, typed)
  const [parts, scales] = [gathered.flatMap((tensor) => tensor.parts), gathered.flatMap((tensor) => tensor.scales)]
  return addon.openGathered(folder, {
    header,
    dataBytes,
    files: files.map(({ path }) => path),
    fileBytes: Float64Array.from(files, ({ bytes }) => bytes),
    stored: Uint32Array.from(gathered, ({ stored }) => tensorTypes[stored]),
    halfHead: Uint32Array.from(gathered, (tensor) => tensor.halfHead),
    rowStep: Float64Array.from(gathered, ({ rowStep }) => rowStep),
    columnStep: Float64Array.from(gathered, ({ columnStep }) => columnStep),
    parts: Uint32Array.from(gathered, (tensor) => tensor.parts.length),
    partFile: Uint32Array.from(parts, ({ file }) => file),
    partOffset: Float64Array.from(parts, ({ offset }) => offset),
    scaleFile: Uint32Array.from(scales, ({ file }) => file),
    scaleOffset: Float64Array.from(scales, ({ offset }) => offset)
  })
}

/**
 * A GGUF file, or a folder as openModelFolder reads it. Those of both; VALIDATION_ERROR for `quantize` of a file, by `method`.
 */
export async function openWeights(
  addon: NativeAddon,
  path: string,
  method: string,
  quantize?: QuantizeType
): Promise<NativeGguf> {
  if (isModelFolder(path)) return openModelFolder(addon, path, quantize)
  refuseQuantize(method, quantize)
  return addon.openGguf(path)
}

/** Of everything but a folder of safetensors files. VALIDATION_ERROR. */
export function refuseQuantize(method: string, quantize: QuantizeType | undefined): void {
  if (quantize === undefined) return
  throw validationError(method, 'quantize', quantize, 'only with a folder of safetensors files')
}
