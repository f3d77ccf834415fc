/** config.json of a folder: its values as metadata, with the dots of nested objects in their keys. */
import { join } from 'node:path'
import { createError } from '../errors/index.js'
import { Metadata, type RawMetadata } from '../model/metadata.js'
import { isObject, parseObject, readSmallFile } from './read-json.js'

export const CONFIG_FILE = 'config.json'
const largestConfig = 2 ** 20
/** Of nested objects: nothing that is read lies deeper. */
const mostLevels = 3

/** What the key of an object itself has; its values have keys of their own. */
export const OBJECT = 'an object'

type Value = RawMetadata[string]

const isScalar = (value: unknown): value is Value => ['number', 'string', 'boolean'].includes(typeof value)

/** Lists of anything else than one kind of scalars become a text, so that whoever wants them finds the wrong type. */
function listOf(value: unknown[]): Value {
  const alike = value.every((item) => isScalar(item) && typeof item === typeof value[0])
  return alike ? (value as Value) : 'a list of other values'
}

/** JSON's null is what is not there. */
function flatten(value: Record<string, unknown>, prefix: string, level: number, out: Map<string, Value>): void {
  for (const [key, item] of Object.entries(value)) {
    const name = `${prefix}.${key}`
    if (Array.isArray(item)) out.set(name, listOf(item))
    else if (isObject(item)) {
      out.set(name, OBJECT)
      if (level < mostLevels) flatten(item, name, level + 1, out)
    } else if (isScalar(item)) out.set(name, item)
  }
}

/**
 * The values of a JSON object: key `.a.b` of the result is what `{"a": {"b": …}}` has. `name` is the file's, for errors. MODEL_FILE_INVALID {path}.
 */
export function parseConfig(json: Uint8Array, path: string, name: string): Metadata {
  const values = new Map<string, Value>()
  flatten(parseObject(json, path, name), name, 0, values)
  return new Metadata(Object.fromEntries(values), name)
}

/** A file of this kind in a folder. MODEL_NOT_FOUND, FILE_READ_FAILED, MODEL_FILE_INVALID. */
export async function readConfig(folder: string, name: string): Promise<Metadata> {
  const path = join(folder, name)
  return parseConfig(await readSmallFile(path, largestConfig), path, name)
}

/** Refuses a value that changes the computation in a way that is not supported; `neutral` is what it may be. */
export function onlyNeutral(config: Metadata, key: string, neutral: readonly (number | boolean | string)[]): void {
  const value = config.get(key)
  if (value === undefined || (!Array.isArray(value) && neutral.includes(value))) return
  if (Array.isArray(value) && value.length === 0) return
  config.refuse(key, `${neutral.join(' or ')}: anything else is not supported`)
}

/** ARCHITECTURE_UNSUPPORTED {architecture, supported}. */
export const unsupported = (architecture: string, supported: readonly string[], why: string) =>
  createError(
    'ARCHITECTURE_UNSUPPORTED',
    `architecture ${JSON.stringify(architecture)} ${why}; supported in safetensors folders: ${supported.join(', ')}`,
    { architecture, supported: [...supported] }
  )
