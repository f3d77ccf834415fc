/**
 * The manifest of a tiered checkpoint: its schema, and its text with the checksum. docs/checkpoint.md describes every field.
 * Fields that this version does not know are kept and otherwise ignored.
 */
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { webAddress } from '../download/options.js'
import { createError } from '../errors/index.js'
import { describeValue } from '../validation.js'

export const MANIFEST_NAME = 'manifest.json'
export const CHECKPOINT_FORMAT = 'tiered-moe-checkpoint'
/** Readers take every minor version of their major one. */
export const CHECKPOINT_VERSION = '1.0'
const major = Number.parseInt(CHECKPOINT_VERSION, 10)

/** A larger manifest is refused unread: this is what 150,000 experts take. */
export const LARGEST_MANIFEST = 64 * 2 ** 20

const size = z.int().min(0).describe('an integer from 0 on')
const sha256 = z
  .string()
  .regex(/^[0-9a-f]{64}$/)
  .describe('64 hexadecimal digits')
const version = z.int().min(0).describe('an integer from 0 on')
/** Forward slashes, no way out of the folder. */
const path = z
  .string()
  .max(500)
  .regex(/^(?!\.{1,2}(?:\/|$))[^/\\\0]+(?:\/(?!\.{1,2}(?:\/|$))[^/\\\0]+)*$/)
  .describe('a relative path inside the folder')

const part = z.looseObject({
  tensor: z.string().min(1).max(200),
  type: z.string().max(20),
  rows: z.int().min(1),
  columns: z.int().min(1),
  offset: size,
  bytes: z.int().min(1)
})

const expert = z.looseObject({
  /** Flat id in its layer, from 0. */
  expert: z.int().min(0).max(4095),
  tier: z.string().max(64),
  group: z.int().min(0),
  /** Index into `shards`. */
  shard: z.int().min(0),
  offset: size,
  bytes: z.int().min(1),
  crc32c: z
    .string()
    .regex(/^[0-9a-f]{8}$/)
    .describe('8 hexadecimal digits'),
  sha256,
  version
})

const layer = z.looseObject({
  layer: z.int().min(0).max(1023),
  blobBytes: z.int().min(1),
  gate: part,
  up: part,
  down: part,
  experts: z.array(expert).max(1_000_000)
})

const tier = z.looseObject({
  name: z.string().min(1).max(64),
  placement: z.string().max(64),
  /** Most bytes of its experts that are pinned where it is hot. */
  budget: z.int().min(1).optional(),
  groups: z.int().min(1),
  /** Experts of all layers, and their bytes. */
  experts: size,
  bytes: size
})

const shard = z.looseObject({
  path,
  kind: z.string().max(64),
  tier: z.string().max(64).optional(),
  layer: z.int().min(0).optional(),
  bytes: size,
  sha256,
  version
})

export const manifestUrl = webAddress
  .refine((text) => URL.canParse(text) && new URL(text).search === '')
  .describe('an address of http or https without a name, a password or a query')

const optimizerShard = z.looseObject({ path, bytes: size, sha256 })

export const manifestSchema = z.looseObject({
  format: z.literal(CHECKPOINT_FORMAT),
  version: z.string().max(64),
  layout: z.string().max(64),
  createdBy: z.string().max(200),
  /** What it was converted from; the same source is recognised by all of it. */
  source: z.looseObject({ name: z.string(), bytes: size, modified: z.string().max(64), header: sha256 }),
  /** SHA-256 over source, layout and tiers: equal for conversions that give equal files. */
  conversion: sha256,
  model: z.looseObject({
    name: z.string().optional(),
    architecture: z.string().min(1).max(64),
    layers: z.int().min(1).max(1024),
    experts: z.int().min(1).max(4096),
    expertsUsed: z.int().min(1).max(4096),
    width: z.int().min(1),
    hidden: z.int().min(1)
  }),
  routing: z.looseObject({ seed: z.array(z.int().min(0).max(0xffffffff)).length(4) }),
  tiers: z.array(tier).min(1).max(256),
  shards: z.array(shard).max(1_000_000),
  layers: z.array(layer).max(1024),
  /** Where the files of archive tiers are, unless a load says otherwise. Without a query: a signature is a secret, and a manifest is copied. */
  archive: z.looseObject({ url: manifestUrl }).optional(),
  /** Kept for training; inference checks it and leaves it alone. */
  optimizer: z.looseObject({ shards: z.array(optimizerShard).max(1_000_000) }).optional()
})

export type Manifest = z.output<typeof manifestSchema>
export type ManifestLayer = Manifest['layers'][number]
export type ManifestExpert = ManifestLayer['experts'][number]
export type ManifestPart = ManifestLayer['gate']
export type ManifestShard = Manifest['shards'][number]
export type ManifestTier = Manifest['tiers'][number]
export type OptimizerState = NonNullable<Manifest['optimizer']>

const noDigits = '0'.repeat(64)
const checksumField = /^\{\s*"checksum":\s*"([0-9a-f]{64})"/

/** SHA-256 of the text with zeros for the digits of its checksum. */
function checksumOf(text: string, digits: string): string {
  const at = text.indexOf(digits)
  return createHash('sha256')
    .update(text.slice(0, at) + noDigits + text.slice(at + digits.length))
    .digest('hex')
}

/** The manifest as a file holds it: JSON whose first field is the checksum. Equal manifests give equal texts. */
export function manifestText(manifest: Manifest): string {
  const { checksum: _, ...fields } = manifest
  const text = `${JSON.stringify({ checksum: noDigits, ...fields }, null, 1)}\n`
  return text.replace(noDigits, checksumOf(text, noDigits))
}

const invalid = (file: string, message: string, details: Record<string, unknown> = {}, cause?: unknown) =>
  createError('CHECKPOINT_INVALID', `${file}: ${message}`, { file, ...details }, { cause })

function checkVersion(file: string, raw: Record<string, unknown>): void {
  const { format, version: actual } = raw
  if (format !== CHECKPOINT_FORMAT) {
    throw invalid(file, `its format is ${describeValue(format)}, not "${CHECKPOINT_FORMAT}"`, { path: 'format' })
  }
  const numbers = typeof actual === 'string' ? /^(\d{1,6})\.\d{1,6}$/.exec(actual) : null
  if (!numbers) throw invalid(file, `its version is ${describeValue(actual)}, not a number as 1.0`, { path: 'version' })
  if (Number(numbers[1]) === major) return
  throw createError(
    'MODEL_VERSION_MISMATCH',
    `${file}: version ${actual} of the checkpoint format is not supported; ${major}.x is`,
    {
      file,
      expected: CHECKPOINT_VERSION,
      actual,
      supported: `${major}.x`,
      suggestedAction: 'Use the version of tiered-moe that wrote it or a newer one, or convert the model again.'
    }
  )
}

/**
 * The manifest in a file's text. MODEL_CORRUPTED {file, expectedSha256, actualSha256} where the checksum is another,
 * MODEL_VERSION_MISMATCH {expected, actual, supported} for another major version, CHECKPOINT_INVALID {file, path} for anything else.
 */
export function parseManifest(text: string, file: string): Manifest {
  const stated = checksumField.exec(text)?.[1]
  if (stated !== undefined) {
    const actual = checksumOf(text, stated)
    if (actual !== stated) {
      throw createError('MODEL_CORRUPTED', `${file} is damaged: its checksum is ${actual}, it states ${stated}`, {
        file,
        expectedSha256: stated,
        actualSha256: actual
      })
    }
  }
  let raw: unknown
  try {
    raw = JSON.parse(text)
  } catch (cause) {
    throw invalid(file, 'it is not JSON', {}, cause)
  }
  if (typeof raw !== 'object' || raw === null || Array.isArray(raw)) throw invalid(file, 'it is not a JSON object')
  checkVersion(file, raw as Record<string, unknown>)
  if (stated === undefined) throw invalid(file, 'its first field is not the checksum', { path: 'checksum' })
  const result = manifestSchema.safeParse(raw)
  if (result.success) return result.data
  const [issue] = result.error.issues
  const where = (issue?.path ?? []).map(String).join('.')
  throw invalid(file, `${where}: ${issue?.message}`, { path: where, faults: result.error.issues.length })
}
