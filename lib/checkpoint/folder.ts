/** The files of a checkpoint's folder: where they may be, what is there, and writing a small one so that it is there whole or not at all. */
import type { Stats } from 'node:fs'
import { lstat, open, readdir, readFile, realpath, rename, rm } from 'node:fs/promises'
import { dirname, join, sep } from 'node:path'
import { createError, errnoOf, isEngineError, readFailed, writeFailed } from '../errors/index.js'
import { makeFolder, syncFolder } from '../folders.js'
import { LARGEST_MANIFEST, MANIFEST_NAME, type Manifest, manifestText, parseManifest } from './manifest.js'

export const BASE_NAME = 'base.gguf'
export const EXPERTS_FOLDER = 'experts'
/** Blobs of experts that were changed while the model served, one file each. */
export const VERSIONS_FOLDER = 'versions'
/** Whether a manifest's path is that of such a file. */
export const isVersionFile = (path: string): boolean => path.startsWith(`${VERSIONS_FOLDER}/`)
/** Progress of a conversion that has not ended. */
export const JOURNAL_NAME = 'convert.journal'

/** Locked while a conversion runs. */
export const LOCK_NAME = 'convert.lock'

export { makeFolder, readFailed, syncFolder, writeFailed }

export const layerFile = (tier: string, layer: number): string =>
  `${EXPERTS_FOLDER}/${tier}/layer-${String(layer).padStart(3, '0')}.bin`

export const isAbsent = (error: unknown): boolean => ['ENOENT', 'ENOTDIR'].includes(errnoOf(error))

/** What is at a path, no link followed; undefined where nothing is. FILE_READ_FAILED. */
export async function statIfAny(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path)
  } catch (error) {
    if (isAbsent(error)) return undefined
    throw readFailed(path, error)
  }
}

/** Writes a small file: under another name, synced, renamed. FILE_WRITE_FAILED. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const temporary = `${path}.tmp-${process.pid}`
  try {
    const handle = await open(temporary, 'w')
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined)
    throw writeFailed(path, error)
  }
  await syncFolder(dirname(path))
}

/** FILE_WRITE_FAILED; a file that is not there is removed already. */
export async function removeFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true })
  } catch (error) {
    throw writeFailed(path, error)
  }
}

/** Names in a folder, empty where it is not there. FILE_READ_FAILED. */
export async function listFolder(path: string): Promise<string[]> {
  try {
    return await readdir(path)
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return []
    throw readFailed(path, error)
  }
}

/** The manifest of a folder. MODEL_NOT_FOUND, FILE_READ_FAILED, and the errors of parseManifest. */
export async function readManifest(folder: string): Promise<Manifest> {
  const path = join(folder, MANIFEST_NAME)
  let text: string
  try {
    const info = await lstat(path)
    if (info.isFile() && info.size > LARGEST_MANIFEST) {
      throw createError('CHECKPOINT_INVALID', `${path} has ${info.size} bytes, ${LARGEST_MANIFEST} are possible`, {
        file: path
      })
    }
    if (!info.isFile()) throw createError('CHECKPOINT_INVALID', `${path} is not a regular file`, { file: path })
    text = await readFile(path, 'utf8')
  } catch (error) {
    if (isAbsent(error)) throw createError('MODEL_NOT_FOUND', `there is no file ${path}`, { path }, { cause: error })
    if (isEngineError(error)) throw error
    throw readFailed(path, error)
  }
  return parseManifest(text, path)
}

/** Puts a manifest into a folder, atomically. FILE_WRITE_FAILED. */
export const writeManifest = (folder: string, manifest: Manifest): Promise<void> =>
  writeWhole(join(folder, MANIFEST_NAME), manifestText(manifest))

export type ShardState =
  | { state: 'present'; path: string; bytes: number }
  | { state: 'absent'; path: string }
  /** A link out of the folder, a folder, a device. */
  | { state: 'foreign'; path: string; reason: string }

/** What is at a manifest's path. FILE_READ_FAILED. */
export async function findShard(folder: string, path: string): Promise<ShardState> {
  const full = join(folder, ...path.split('/'))
  try {
    const root = await realpath(folder)
    const real = await realpath(full)
    if (!real.startsWith(root.endsWith(sep) ? root : root + sep)) {
      return { state: 'foreign', path: full, reason: `it is a link out of the folder, to ${real}` }
    }
    const info = await lstat(real)
    if (!info.isFile()) return { state: 'foreign', path: full, reason: 'it is not a regular file' }
    return { state: 'present', path: full, bytes: info.size }
  } catch (error) {
    if (isAbsent(error)) return { state: 'absent', path: full }
    throw readFailed(full, error)
  }
}
