/** Whether a model's file is the one that it was: by its bytes where it is small, by samples, size and time of change where it is large. */
import { createHash } from 'node:crypto'
import type { BigIntStats } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { readFailed } from '../errors/index.js'
import type { ModelIdentity } from '../journal/index.js'
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

/** Of a checkpoint folder it is the manifest's: that has the checksum of everything else. Throws what the file system throws. */
export async function identify(path: string): Promise<ModelIdentity> {
  const { file, info } = await fileOf(path)
  const bytes = Number(info.size)
  const sampled = bytes > wholeBytes
  const hash = createHash('sha256')
  const handle = await open(file)
  try {
    const buffer = Buffer.alloc(sampleBytes)
    const step = sampled ? (bytes - sampleBytes) / (samples - 1) : sampleBytes
    for (let i = 0; sampled ? i < samples : i * step < bytes; i++) {
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
export async function identifyLoad(path: string, labels: TierLabels): Promise<LoadIdentity> {
  try {
    return { identity: await identify(path), tiersSha256: hashOf(labels) }
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
