/** What callers of convertModel and verifyCheckpoint hand in, checked at the border. */
import { z } from 'zod'
import { callback, callFields } from '../schemas.js'
import type { ConvertProgress } from './convert.js'
import { manifestUrl } from './manifest.js'
import { statisticsSchema } from './tiers-file.js'
import type { VerifyProgress } from './verify-shards.js'

const path = z
  .string()
  .min(1)
  .refine((text) => !text.includes('\0'))
export const convertSchema = z.strictObject({
  from: path.describe('the path of a GGUF file, of a folder with safetensors files or of a checkpoint'),
  to: path.describe('the path of a folder'),
  tiers: z
    .union([
      path,
      z
        .array(z.looseObject({ name: z.string() }))
        .min(1)
        .max(64)
    ])
    .optional()
    .describe('measured, the path of a YAML file, or a list of {name, placement, budget, experts}'),
  statistics: z
    .union([path, statisticsSchema])
    .optional()
    .describe('the path of a JSON file, or {layers: [[uses of each expert]]}'),
  archiveUrl: manifestUrl.optional(),
  quantize: z.enum(['Q8_0', 'Q4_0']).optional().describe('Q8_0 or Q4_0'),
  replace: z.boolean().default(false).describe('true or false')
})

const { signal } = callFields

export const convertCallSchema = z.strictObject({
  signal,
  onProgress: callback<(progress: ConvertProgress) => void>().describe('a function')
})

export const verifySchema = z.strictObject({ folder: path.describe('the path of a folder') })
export const verifyCallSchema = z.strictObject({
  signal,
  onProgress: callback<(progress: VerifyProgress) => void>().describe('a function')
})
