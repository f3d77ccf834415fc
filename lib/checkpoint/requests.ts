/** What callers of convertModel and verifyCheckpoint hand in, checked at the border. */
import { z } from 'zod'
import { isTierName, PLACEMENTS, type Placement } from '../model/hser.js'
import { callback, callFields } from '../validation.js'
import type { ConvertProgress } from './convert.js'
import { statisticsSchema } from './tiers-file.js'
import type { VerifyProgress } from './verify-shards.js'

const path = z
  .string()
  .min(1)
  .refine((text) => !text.includes('\0'))
const ids = z.array(z.int().min(0).max(4095))

const tierSpec = z.strictObject({
  name: z.string().refine(isTierName),
  placement: z.enum(PLACEMENTS as [Placement, ...Placement[]]),
  budget: z.int().min(1).exactOptional(),
  experts: z.union([
    z.literal('rest'),
    z.strictObject({ ids }),
    z.strictObject({ layers: z.map(z.int().min(0), ids) }),
    z.strictObject({ share: z.number().min(0).max(1) })
  ])
})
const distinct = (tiers: readonly { name: string }[]): boolean =>
  new Set(tiers.map(({ name }) => name)).size === tiers.length

export const convertSchema = z.strictObject({
  from: path.describe('the path of a GGUF file or of a checkpoint'),
  to: path.describe('the path of a folder'),
  tiers: z
    .union([path, z.array(tierSpec).min(1).max(64).refine(distinct)])
    .optional()
    .describe(
      'measured, the path of a YAML file, or a list of {name, placement, budget, experts} with different names'
    ),
  statistics: z
    .union([path, statisticsSchema])
    .optional()
    .describe('the path of a JSON file, or {layers: [[uses of each expert]]}'),
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
