/** Whether a model's file is the one that it was: by its bytes where it is small, by samples, size and time of change where it is large. */
import { createHash } from 'node:crypto'
import type { BigIntStats } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { isCheckpoint } from '../checkpoint/sound-manifest.js'
import { readFailed } from '../errors/index.js'
import type { ModelIdentity } from '../journal/index.js'
import { isModelFolder, modelFiles } from '../safetensors/model-folder.js'
import type { QuantizeType } from '../safetensors/open.js'
import type { TierLabels } from '../tiers/model-tiers.js'

/** By what a later load is recognised as one of the same model: its file, and which experts its tiers have. */
export interface LoadIdentity {
  identity: ModelIdentity
  /** SHA-256 of the tiers' names and their experts. */
  tiersSha256: string
}

/** Files up to this size are read whole; of larger ones so many samples, evenly spread, with both ends. */
const wholeBytes = 64 * 2 ** 20
const sampleBytes = 2 ** 16
const samples = 256

/**
 * Of a checkpoint folder it is the manifest's: that has the checksum of everything else. Of a folder of safetensors files it is that of all its
 * files together, with what its weights become on their way. Throws what the file system throws.
 */
export async function identify(path: string, quantize?: QuantizeType): Promise<ModelIdentity> {
  if (!(await isCheckpoint(path)) && isModelFolder(path)) return identifyFolder(path, quantize)
  const { file, info } = await fileOf(path)
  return identifyFile(file, info, Number(info.size) > wholeBytes ? samples : undefined)
}

async function identifyFolder(folder: string, quantize: QuantizeType | undefined): Promise<ModelIdentity> {
  const hash = createHash('sha256').update(JSON.stringify({ quantize }))
  const files = await Promise.all(
    modelFiles(folder).map(async (path) => ({ path, info: await stat(path, { bigint: true }) }))
  )
  const total = files.reduce((sum, { info }) => sum + Number(info.size), 0)
  let [bytes, modified, sampled] = [0, 0n, false]
  for (const { path, info } of files) {
    // Each has its share of the samples; one that is as small is read whole.
    const share = Math.max(2, Math.ceil((samples * Number(info.size)) / total))
    const own = await identifyFile(path, info, total > wholeBytes ? share : undefined)
    // The time of each counts where not every byte does.
    const time = own.sampled ? own.modifiedNs : ''
    hash.update(JSON.stringify([basename(path), own.bytes, own.sha256, time]))
    bytes += own.bytes
    if (info.mtimeNs > modified) modified = info.mtimeNs
    sampled ||= own.sampled
  }
  return { bytes, modifiedNs: String(modified), sha256: hash.digest('hex'), sampled }
}

/** `count`: samples; undefined: every byte counts. */
async function identifyFile(file: string, info: BigIntStats, count: number | undefined): Promise<ModelIdentity> {
  const bytes = Number(info.size)
  const sampled = count !== undefined && bytes > count * sampleBytes
  const hash = createHash('sha256')
  const handle = await open(file)
  try {
    const buffer = Buffer.alloc(sampleBytes)
    const step = sampled ? (bytes - sampleBytes) / (count - 1) : sampleBytes
    for (let i = 0; sampled ? i < count : i * step < bytes; i++) {
      const { bytesRead } = await handle.read(buffer, 0, sampleBytes, Math.floor(i * step))
      hash.update(buffer.subarray(0, bytesRead))
    }
  } finally {
    await handle.close()
  }
  return { bytes, modifiedNs: String(info.mtimeNs), sha256: hash.digest('hex'), sampled }
}

/** Of a checkpoint whose manifest is about to be written: no manifest is so large that it is sampled. */
export const identityOfManifest = (text: string): ModelIdentity => ({
  bytes: Buffer.byteLength(text),
  modifiedNs: '0',
  sha256: createHash('sha256').update(text).digest('hex'),
  sampled: false
})

/** A copy of a small file is the same model; of a large one only what was not written to since. */
export function sameModel(one: ModelIdentity, other: ModelIdentity): boolean {
  if (one.bytes !== other.bytes || one.sha256 !== other.sha256 || one.sampled !== other.sampled) return false
  return !one.sampled || one.modifiedNs === other.modifiedNs
}

/** Of a load that has come to its end. FILE_READ_FAILED. */
export async function identifyLoad(path: string, labels: TierLabels, quantize?: QuantizeType): Promise<LoadIdentity> {
  try {
    return { identity: await identify(path, quantize), tiersSha256: hashOf(labels) }
  } catch (cause) {
    throw readFailed(path, cause, `the loaded ${path}`)
  }
}

/** Of what decides a request's mask; where experts are kept changes no bit. */
function hashOf({ tiers, assignment }: TierLabels): string {
  const names = tiers.map(({ name }) => name)
  return createHash('sha256').update(JSON.stringify({ names, assignment })).digest('hex')
}

async function fileOf(path: string): Promise<{ file: string; info: BigIntStats }> {
  const info = await stat(path, { bigint: true })
  if (!info.isDirectory()) return { file: path, info }
  const file = join(path, 'manifest.json')
  return { file, info: await stat(file, { bigint: true }) }
}
