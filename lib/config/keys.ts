/**
 * Keys of files, in snake_case, and of options, in camelCase, as the schema has them: keys of its objects are translated, names that people
 * give (of records) are not.
 */
import type { z } from 'zod'
import { camelCase, snakeCase } from '../errors/wire.js'
import { childOf, isOpen, objectForm } from './shape.js'

/** One item of a list, put over what the list has at that index. */
export class ListItem {
  constructor(
    readonly index: number,
    readonly value: unknown
  ) {}
}

export const isMapping = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof ListItem)

export interface UnknownKey {
  /** As it was written. */
  path: readonly PropertyKey[]
  /** What may be there, in snake_case. */
  known: readonly string[]
}

type Rename = (object: z.ZodObject | undefined, key: string, path: readonly PropertyKey[]) => string | undefined

/** A copy with other keys; `rename` gives undefined for one that is left out. Getters and cycles throw what they throw. */
function renamed(schema: z.ZodType | undefined, value: unknown, path: readonly PropertyKey[], rename: Rename): unknown {
  if (value instanceof ListItem) {
    const { index } = value
    return new ListItem(index, renamed(childOf(schema, index), value.value, [...path, index], rename))
  }
  if (Array.isArray(value)) return value.map((item, i) => renamed(childOf(schema, i), item, [...path, i], rename))
  if (!isMapping(value)) return value
  const object = objectForm(schema)
  const entries = Object.entries(value).flatMap(([key, item]): [string, unknown][] => {
    const name = rename(object, key, path)
    // One of the two is the schema's.
    return name === undefined
      ? []
      : [[name, renamed(childOf(schema, name) ?? childOf(schema, key), item, [...path, key], rename)]]
  })
  // Not by assignment: a key may be __proto__.
  return Object.fromEntries(entries)
}

const has = (object: z.ZodObject, key: string): boolean => Object.hasOwn(object.shape, key)

/** Keys as the schema has them. `spelling`: what is accepted. Keys that it does not have are told and left out. */
export function schemaKeys(
  schema: z.ZodType,
  value: unknown,
  spelling: 'snake_case' | 'camelCase',
  unknown: (key: UnknownKey) => void
): unknown {
  return renamed(schema, value, [], (object, key, path) => {
    if (object === undefined) return key
    const name = spelling === 'camelCase' ? key : camelCase(key)
    const written = spelling === 'camelCase' || key === snakeCase(name)
    if (has(object, name) && written) return name
    if (isOpen(object)) return key
    const known = Object.keys(object.shape).map((each) => (spelling === 'camelCase' ? each : snakeCase(each)))
    unknown({ path: [...path, key], known })
    return undefined
  })
}

/** The same value with the keys of a file; what is undefined is left out. */
export const fileKeys = (schema: z.ZodType, value: unknown): unknown =>
  renamed(schema, withoutUndefined(value), [], (object, key) => (object && has(object, key) ? snakeCase(key) : key))

function withoutUndefined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutUndefined)
  if (!isMapping(value)) return value
  const entries = Object.entries(value).filter(([, item]) => item !== undefined)
  return Object.fromEntries(entries.map(([key, item]) => [key, withoutUndefined(item)]))
}

/** A path of the schema as a file has it, or of a file as the schema has it. */
function walk(schema: z.ZodType, path: readonly PropertyKey[], name: (key: string) => string): PropertyKey[] {
  let at: z.ZodType | undefined = schema
  return path.map((key) => {
    const object = objectForm(at)
    const inside = typeof key === 'string' && object ? name(key) : key
    const own: PropertyKey = typeof key === 'string' && object && has(object, camelCase(key)) ? camelCase(key) : key
    at = childOf(at, own)
    return object && has(object, String(own)) ? inside : key
  })
}

export const filePath = (schema: z.ZodType, path: readonly PropertyKey[]): PropertyKey[] =>
  walk(schema, path, snakeCase)
export const schemaPath = (schema: z.ZodType, path: readonly PropertyKey[]): PropertyKey[] =>
  walk(schema, path, camelCase)

/** A text with the names of options as a file has them. */
export function fileSpelling(schema: z.ZodType, text: string): string {
  const names = camelKeys(schema)
  return text.replace(/\b[a-z]+(?:[A-Z][a-z]*)+\b/g, (word) => (names.has(word) ? snakeCase(word) : word))
}

const namesOf = new WeakMap<z.ZodType, ReadonlySet<string>>()

function camelKeys(schema: z.ZodType): ReadonlySet<string> {
  const known = namesOf.get(schema)
  if (known) return known
  const names = new Set<string>()
  const visit = (at: z.ZodType | undefined): void => {
    if (at === undefined) return
    for (const [key, field] of Object.entries(objectForm(at)?.shape ?? {})) {
      names.add(key)
      visit(field as z.ZodType)
    }
    visit(childOf(at, 0))
  }
  visit(schema)
  namesOf.set(schema, names)
  return names
}

/** The known key that was probably meant. */
export function nearestKey(key: string, known: readonly string[]): string | undefined {
  const plain = (text: string): string => text.replaceAll('_', '').toLowerCase()
  const wanted = plain(key)
  const most = Math.max(2, Math.floor(wanted.length / 3))
  const distances = known.map((name) => ({ name, distance: editDistance(wanted, plain(name)) }))
  const [best] = distances.sort((a, b) => a.distance - b.distance)
  return best && best.distance <= most && best.distance < wanted.length ? best.name : undefined
}

/** Letters to insert, to take out or to change (Levenshtein). */
function editDistance(from: string, to: string): number {
  if (from.length > 64) return from.length
  let row = Array.from({ length: to.length + 1 }, (_, i) => i)
  for (let i = 1; i <= from.length; i++) {
    const next = [i]
    for (let j = 1; j <= to.length; j++) {
      const change = row[j - 1]! + (from[i - 1] === to[j - 1] ? 0 : 1)
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, change))
    }
    row = next
  }
  return row[to.length]!
}
