/** What is converted: a GGUF file, a folder of safetensors files, or another checkpoint whose experts go to other tiers. All give the same checkpoint. */
import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { createError } from '../errors/index.js'
import { type ModelDescription, readModel } from '../model/index.js'
import type { PlanOp } from '../model/plan.js'
import type {
  DType,
  ExpertLayout,
  ExpertsFile,
  GgufTensorInfo,
  NativeAddon,
  NativeCancel,
  NativeGguf,
  ShardFile
} from '../native.js'
import { isModelFolder, modelFiles } from '../safetensors/model-folder.js'
import { openWeights, type QuantizeType, refuseQuantize } from '../safetensors/open.js'
import { isAbsent, readFailed } from './folder.js'
import type { Manifest, OptimizerState } from './manifest.js'
import { openCheckpoint } from './open.js'
import { isCheckpoint } from './sound-manifest.js'

/** The experts of one layer: the tensors that they come from, and their blobs. */
export interface SourceLayer {
  tensors: { gate: string; up: string; down: string }
  layout: ExpertLayout
}

type OnBytes = (bytes: number) => void

export interface ConvertSource {
  description: ModelDescription
  /** Tells this source from others and from itself after a change. */
  identity: Manifest['source']
  layers: SourceLayer[]
  /** Bytes that the base file will take, at most. */
  baseBytes: number
  /** Folder of the optimizer state, where there is one. */
  optimizer: { folder: string; state: OptimizerState } | undefined
  writeBase(to: string, cancel: NativeCancel): Promise<ShardFile>
  writeExperts(
    to: string,
    layer: number,
    experts: number[],
    cancel: NativeCancel,
    onBytes: OnBytes
  ): Promise<ExpertsFile>
  /** FILE_READ_FAILED where the source is no longer what it was. */
  checkUnchanged(): Promise<void>
  close(): void
}

type ExpertsOp = Extract<PlanOp, { op: 'experts' }>

/** The layers of experts, from the plan and the types of the tensors. */
export function sourceLayers(
  addon: NativeAddon,
  { plan, sizes }: ModelDescription,
  tensors: readonly GgufTensorInfo[]
): SourceLayer[] {
  const types = new Map(tensors.map(({ name, type }) => [name, type as DType]))
  const source = new Map(plan.tensors.map((tensor) => [tensor.name, tensor.source ?? tensor.name]))
  const ops = plan.ops.filter((op): op is ExpertsOp => op.op === 'experts').sort((a, b) => a.layer - b.layer)
  return ops.map((op) => {
    const [gate, up, down] = [op.gate, op.up, op.down].map((name) => source.get(name)!) as [string, string, string]
    const [gateType, upType, downType] = [gate, up, down].map((name) => types.get(name)!) as [DType, DType, DType]
    const options = { gate: gateType, up: upType, down: downType, width: sizes.embedding, hidden: sizes.feedForward }
    return { tensors: { gate, up, down }, layout: addon.expertLayout(options) }
  })
}

/** `files`: what else tells the source from another one. */
const headerHash = ({ version, metadata, tensors }: NativeGguf, files: readonly string[]): string =>
  createHash('sha256')
    .update(JSON.stringify([version, metadata, tensors, ...files]))
    .digest('hex')

interface FileState {
  bytes: number
  /** Nanoseconds, as a text; empty where there is no file. */
  modified: string
  /** Of a folder of safetensors files: name, size and last change of each. A file of an older date can take the place of another. */
  files: string[]
}

/** Of a folder: all sizes together, and the newest change. */
async function stateOf(path: string): Promise<FileState> {
  try {
    if (isModelFolder(path)) {
      const infos = await Promise.all(
        modelFiles(path).map(async (file) => ({ name: basename(file), ...(await stat(file, { bigint: true })) }))
      )
      const modified = infos.reduce((newest, { mtimeNs }) => (mtimeNs > newest ? mtimeNs : newest), 0n)
      const files = infos.map(({ name, size, mtimeNs }) => `${name} ${size} ${mtimeNs}`)
      return { bytes: infos.reduce((sum, { size }) => sum + Number(size), 0), modified: modified.toString(), files }
    }
    const { size, mtimeNs } = await stat(path, { bigint: true })
    return { bytes: Number(size), modified: mtimeNs.toString(), files: [] }
  } catch (error) {
    if (isAbsent(error)) return { bytes: 0, modified: '', files: [] }
    throw readFailed(path, error)
  }
}

async function openGgufSource(addon: NativeAddon, path: string, quantize?: QuantizeType): Promise<ConvertSource> {
  const { files, ...before } = await stateOf(path)
  const file = await openWeights(addon, path, 'convert', quantize)
  try {
    const description = readModel(file)
    const layers = sourceLayers(addon, description, file.tensors)
    const leaveOut = layers.flatMap(({ tensors }) => Object.values(tensors))
    const bytesOf = new Map(file.tensors.map(({ name, bytes }) => [name, bytes]))
    return {
      description,
      identity: { name: basename(path), ...before, header: headerHash(file, files) },
      layers,
      baseBytes: file.fileBytes - leaveOut.reduce((sum, name) => sum + bytesOf.get(name)!, 0),
      optimizer: undefined,
      writeBase: (to, cancel) => addon.writeBase(file, to, { leaveOut }, cancel),
      writeExperts: (to, layer, experts, cancel, onProgress) =>
        addon.packExperts(
          file,
          to,
          { ...layers[layer]!.tensors, experts: Uint32Array.from(experts), onProgress },
          cancel
        ),
      async checkUnchanged() {
        const now = await stateOf(path)
        const same = now.bytes === before.bytes && now.modified === before.modified
        if (same && now.files.join() === files.join()) return
        throw createError('FILE_READ_FAILED', `${path} was changed while it was being converted`, { path })
      },
      close: () => file.close()
    }
  } catch (error) {
    file.close()
    throw error
  }
}

async function openCheckpointSource(addon: NativeAddon, folder: string): Promise<ConvertSource> {
  const checkpoint = await openCheckpoint(addon, folder)
  const { manifest, base, file, description, blobs } = checkpoint
  const { experts: count } = manifest.model
  const layers = sourceLayers(addon, description, file.tensors)
  const optimizer = manifest.optimizer && { folder, state: manifest.optimizer }
  return {
    description,
    identity: manifest.source,
    layers,
    baseBytes: base.fileBytes,
    optimizer,
    writeBase: (to, cancel) => addon.writeBase(base, to, { leaveOut: [] }, cancel),
    writeExperts(to, layer, experts, cancel, onProgress) {
      const at = experts.map((expert) => layer * count + expert)
      const options = {
        blobBytes: layers[layer]!.layout.bytes,
        fileIndex: Uint32Array.from(at, (i) => blobs.fileIndex[i]!),
        offset: Float64Array.from(at, (i) => blobs.offset[i]!),
        crc32c: Uint32Array.from(at, (i) => blobs.crc32c[i]!),
        onProgress
      }
      return addon.copyExperts(blobs.files, to, options, cancel)
    },
    // Every blob is compared with its sum as it is copied.
    checkUnchanged: async () => {},
    close: () => file.close()
  }
}

/**
 * Opens a model for converting. The errors of opening a GGUF file, a folder of safetensors files or a checkpoint, and of readModel; VALIDATION_ERROR
 * for `quantize` of what are no safetensors files.
 */
export async function openSource(addon: NativeAddon, path: string, quantize?: QuantizeType): Promise<ConvertSource> {
  if (!(await isCheckpoint(path))) return openGgufSource(addon, path, quantize)
  refuseQuantize('convert', quantize)
  return openCheckpointSource(addon, path)
}
