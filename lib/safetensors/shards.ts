/** Which files a folder's tensors are in: one file, or the shards that an index names. */
import { join } from 'node:path'
import { createError } from '../errors/index.js'
import { readHeader, type StoredTensor } from './header.js'
import { invalid, isObject, parseObject, readSmallFile, shown, shownValue } from './read-json.js'

export const SINGLE_FILE = 'model.safetensors'
export const INDEX_FILE = 'model.safetensors.index.json'

const largestIndex = 32 * 2 ** 20
const mostShards = 4096
const mostTensors = 2 ** 18

/** A name of a file in the folder itself: the index comes from elsewhere and must not lead out of it. */
const plainName = /^[\w][\w.+=@ -]{0,250}\.safetensors$/

/** File of each tensor. MODEL_FILE_INVALID {path}. */
export function parseIndex(json: Uint8Array, path: string): Map<string, string> {
  const { weight_map: map } = parseObject(json, path, 'the index')
  if (!isObject(map)) throw invalid(path, 'it has no weight_map')
  const entries = Object.entries(map)
  if (entries.length === 0 || entries.length > mostTensors) {
    throw invalid(path, `its weight_map has ${entries.length} tensors, 1 to ${mostTensors} are possible`)
  }
  const files = new Map<string, string>()
  for (const [name, file] of entries) {
    if (typeof file !== 'string' || !plainName.test(file)) {
      throw invalid(path, `tensor ${shown(name)} is in ${shownValue(file)}, which is no file of the folder`, {
        tensor: shown(name)
      })
    }
    files.set(name, file)
  }
  return files
}

export interface PlacedTensor extends StoredTensor {
  /** Index into the folder's files. */
  file: number
}

export interface StoredTensors {
  files: { path: string; bytes: number }[]
  tensors: PlacedTensor[]
}

/**
 * Every tensor of a folder with its place. MODEL_NOT_FOUND for a file that is not there, FILE_READ_FAILED, MODEL_FILE_INVALID for damaged files, and
 * for an index that contradicts its shards.
 */
export async function readShards(folder: string): Promise<StoredTensors> {
  const path = join(folder, SINGLE_FILE)
  const single = await ifAny(readHeader(path))
  if (single) {
    const { tensors, fileBytes } = single
    return { files: [{ path, bytes: fileBytes }], tensors: tensors.map((own) => ({ ...own, file: 0 })) }
  }
  const indexPath = join(folder, INDEX_FILE)
  const index = await ifAny(readSmallFile(indexPath, largestIndex))
  if (!index) {
    throw createError('MODEL_NOT_FOUND', `there is neither ${SINGLE_FILE} nor ${INDEX_FILE} in ${folder}`, { path })
  }
  const fileOf = parseIndex(index, indexPath)
  const names = [...new Set(fileOf.values())].sort()
  if (names.length > mostShards) throw invalid(indexPath, `it names ${names.length} files, ${mostShards} are possible`)
  const stored: StoredTensors = { files: [], tensors: [] }
  let found = 0
  for (const [file, name] of names.entries()) {
    const path = join(folder, name)
    const { tensors, fileBytes } = await readHeader(path)
    stored.files.push({ path, bytes: fileBytes })
    for (const tensor of tensors) {
      const stated = fileOf.get(tensor.name)
      if (stated !== name) {
        const where = stated === undefined ? 'not at all' : `in ${stated}`
        throw invalid(indexPath, `tensor ${shown(tensor.name)} is in ${name}, and the index has it ${where}`, {
          tensor: shown(tensor.name)
        })
      }
      found++
      stored.tensors.push({ ...tensor, file })
    }
  }
  // No file has a name twice, and each is in the file that the index says.
  if (found < fileOf.size) {
    const known = new Set(stored.tensors.map(({ name }) => name))
    const [name, file] = [...fileOf].find(([own]) => !known.has(own))!
    throw createError('TENSOR_MISSING', `tensor ${shown(name)} is not in ${file}, where the index has it`, {
      tensor: name
    })
  }
  return stored
}

/** Undefined where there is no such file. */
export async function ifAny<Result>(reading: Promise<Result>): Promise<Result | undefined> {
  try {
    return await reading
  } catch (error) {
    if ((error as { code?: unknown }).code === 'MODEL_NOT_FOUND') return undefined
    throw error
  }
}
