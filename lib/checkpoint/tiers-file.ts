/** Tiers from a YAML file, and the statistics of a model's routing from a JSON file: what people write, checked. */
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { readConfig } from '../config/read.js'
import { createError, type EngineError, isEngineError } from '../errors/index.js'
import { isTierName, PLACEMENTS, type Placement } from '../model/hser.js'
import { byteSize, describeValue, isByteSize } from '../validation.js'
import { isAbsent, readFailed } from './folder.js'
import type { ExpertChoice, RoutingStatistics, TierSpec } from './tiers.js'

/** What a manifest can have. */
const MOST_EXPERTS = 4096
const MOST_LAYERS = 1024

/** Ids and ranges: [0, '4-7']. */
type ExpertList = readonly (number | string)[]

/** One tier as people write it, in a YAML file or in a call. */
export interface TierConfig {
  name: string
  /** convertModel needs it; elsewhere the name may say it. */
  placement?: Placement
  /** Most of its experts that are pinned where it is hot, as bytes or as text ('2GiB'). */
  budget?: number | string
  /** Of a model without tiers of its own: ids of every layer, lists by layer, a share of the most used, or 'rest' (default). */
  experts?: 'rest' | ExpertList | Readonly<Record<string, ExpertList>> | { readonly share: number }
  /** Of a hierarchical model: how many groups the tier is expected to have. */
  groups?: number
}

const refuse = (path: string, found: unknown, allowed: string, cause?: unknown): EngineError =>
  createError(
    'VALIDATION_ERROR',
    `tiers: ${path} is ${describeValue(found)}, allowed: ${allowed}`,
    { path, found: describeValue(found), allowed },
    { cause }
  )

const range = /^(\d{1,4})-(\d{1,4})$/
const listAllowed = "a list of numbers and ranges as '0-7'"

/** `[0, '4-7']` as [0, 4, 5, 6, 7]. */
function numbers(value: unknown, path: string): number[] {
  const items: unknown[] = Array.isArray(value) ? value : [value]
  // Each stands for up to all experts: a short text could ask for any amount of memory.
  const ids: number[] = []
  for (const [i, item] of items.entries()) {
    const ends = typeof item === 'number' ? [item, item] : typeof item === 'string' && range.exec(item)?.slice(1)
    const [first, last] = ends ? (ends.map(Number) as [number, number]) : [Number.NaN, Number.NaN]
    if (!Number.isInteger(first) || first < 0 || last < first || last >= MOST_EXPERTS) {
      throw refuse(`${path}[${i}]`, item, listAllowed)
    }
    if (ids.length + last - first >= MOST_EXPERTS)
      throw refuse(path, value, `at most ${MOST_EXPERTS} experts, each once`)
    for (let id = first; id <= last; id++) ids.push(id)
  }
  return ids
}

const choiceAllowed = `rest, ${listAllowed}, lists by layer, or {share: 0 to 1} of the most used`

function choiceOf(value: unknown, path: string): ExpertChoice {
  if (value === 'rest' || value === undefined) return 'rest'
  if (Array.isArray(value)) return { ids: numbers(value, path) }
  if (typeof value !== 'object' || value === null) throw refuse(path, value, choiceAllowed)
  const entries = Object.entries(value)
  if ('share' in value) {
    const { share } = value
    if (entries.length === 1 && typeof share === 'number' && share >= 0 && share <= 1) return { share }
    throw refuse(`${path}.share`, share, 'a number from 0 to 1')
  }
  const layers = new Map<number, number[]>()
  for (const [key, list] of entries) {
    const named = /^\d{1,4}$/.test(key) ? [Number(key)] : numbers(key, `${path}.${key}`)
    const ids = numbers(list, `${path}.${key}`)
    for (const layer of named) {
      if (layer >= MOST_LAYERS) throw refuse(`${path}.${key}`, key, `layers below ${MOST_LAYERS}`)
      if (layers.has(layer)) throw refuse(`${path}.${key}`, key, 'each layer once')
      layers.set(layer, ids)
    }
  }
  return { layers }
}

const fileSchema = z.strictObject({
  tiers: z
    .array(
      z.strictObject({
        name: z.string().refine(isTierName, "a name of letters, digits, '-', '_' and '.', at most 64"),
        placement: z.enum(PLACEMENTS as [Placement, ...Placement[]]),
        budget: z.union([z.string(), z.number()]).optional(),
        experts: z.unknown().optional()
      })
    )
    .min(1)
    .max(64)
})

/** The tiers of a YAML text. VALIDATION_ERROR {path, found, allowed}. */
export function parseTiers(text: string, file: string): TierSpec[] {
  let raw: unknown
  try {
    raw = readConfig(text, file).value
  } catch (cause) {
    throw refuse(file, isEngineError(cause) ? cause.details.reason : cause, 'a YAML file', cause)
  }
  return tierSpecs(raw, file)
}

/** `{tiers: [{name, placement, budget, experts}, …]}` as a file or a caller has it. VALIDATION_ERROR {path, found, allowed}. */
export function tierSpecs(raw: unknown, file: string): TierSpec[] {
  const result = fileSchema.safeParse(raw)
  if (!result.success) {
    const [issue] = result.error.issues
    const where = (issue?.path ?? []).map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`)).join('')
    throw createError('VALIDATION_ERROR', `tiers: ${file}: ${where.slice(1) || 'the file'}: ${issue?.message}`, {
      path: where.slice(1),
      file,
      allowed: 'tiers: a list of {name, placement, budget, experts}'
    })
  }
  const names = new Set<string>()
  return result.data.tiers.map(({ name, placement, budget, experts }, i) => {
    const path = `tiers[${i}]`
    if (names.has(name)) throw refuse(`${path}.name`, name, 'a name that no other tier has')
    names.add(name)
    const bytes = isByteSize(budget) ? byteSize(budget) : undefined
    if (budget !== undefined && bytes === undefined) throw refuse(`${path}.budget`, budget, 'bytes, or a text as 2GiB')
    return {
      name,
      placement,
      ...(bytes === undefined ? {} : { budget: bytes }),
      experts: choiceOf(experts, `${path}.experts`)
    }
  })
}

export const statisticsSchema = z.looseObject({
  layers: z.array(z.array(z.number().min(0)).max(MOST_EXPERTS)).max(MOST_LAYERS)
})

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (isAbsent(error)) throw refuse('file', path, 'a file that exists', error)
    throw readFailed(path, error)
  }
}

/** Tiers of a YAML file. VALIDATION_ERROR, FILE_READ_FAILED. */
export const readTiers = async (path: string): Promise<TierSpec[]> => parseTiers(await readText(path), path)

/** `{"layers": [[count of each expert, …], …]}` of a JSON file. VALIDATION_ERROR, FILE_READ_FAILED. */
export async function readStatistics(path: string): Promise<RoutingStatistics> {
  const allowed = 'a JSON file {"layers": [[count of each expert, ...], ...]}'
  let raw: unknown
  try {
    raw = JSON.parse(await readText(path))
  } catch (error) {
    if (error instanceof SyntaxError) throw refuse('statistics', path, allowed, error)
    throw error
  }
  const result = statisticsSchema.safeParse(raw)
  if (!result.success) throw refuse('statistics', path, allowed, result.error)
  return { layers: result.data.layers }
}
