/** What JSON schemas are made of: types, and the keywords that are followed. */
import type { JsonSchema } from './response-format.js'

export const jsonTypes = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'] as const
export type JsonType = (typeof jsonTypes)[number]

/** Keywords that ask for nothing. */
export const annotations: ReadonlySet<string> = new Set([
  '$schema',
  '$id',
  '$comment',
  '$defs',
  'definitions',
  'title',
  'description',
  'default',
  'example',
  'examples',
  'deprecated',
  'readOnly',
  'writeOnly',
  'contentEncoding',
  'contentMediaType'
])

/** Keywords of values of one type, in the order in which types are guessed from them. */
const typeKeywords: Readonly<Partial<Record<JsonType, readonly string[]>>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems', 'uniqueItems'],
  string: ['minLength', 'maxLength', 'pattern', 'format'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum']
}

export const keywords: ReadonlySet<string> = new Set([
  'type',
  'enum',
  'const',
  '$ref',
  'anyOf',
  'oneOf',
  'allOf',
  ...Object.values(typeKeywords).flat()
])

/** The types that a schema without `type` speaks of. */
export const typesOfKeywords = (keys: readonly string[]): JsonType[] =>
  (Object.keys(typeKeywords) as JsonType[]).filter((type) => typeKeywords[type]!.some((key) => keys.includes(key)))

export const isSchema = (value: unknown): value is JsonSchema =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** A value's type; a whole number is an integer. */
export function typeOf(value: unknown): JsonType {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'array'
  if (typeof value === 'number') return Number.isInteger(value) ? 'integer' : 'number'
  return typeof value as 'object' | 'string' | 'boolean'
}

/** Whether a value of type `own` is one of the types. */
export const isOfType = (own: JsonType, types: readonly unknown[]): boolean =>
  types.includes(own) || (own === 'integer' && types.includes('number'))
