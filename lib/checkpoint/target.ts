/** The folder that a conversion writes: what may be there before, and what of it is kept. */

import { type FileHandle, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { createError, type EngineError, isEngineError } from '../errors/index.js'
import { type FileRecord, readJournal } from './convert-journal.js'
import {
  BASE_NAME,
  EXPERTS_FOLDER,
  JOURNAL_NAME,
  LOCK_NAME,
  listFolder,
  makeFolder,
  readManifest,
  removeFile,
  statIfAny,
  syncFolder,
  VERSIONS_FOLDER,
  writeFailed
} from './folder.js'
import { MANIFEST_NAME, type Manifest, type ManifestExpert, type OptimizerState } from './manifest.js'

export interface Target {
  folder: string
  /** Files that an earlier run of the same conversion finished. */
  known: Map<string, FileRecord>
  /** The manifest of the same conversion, where it is there already. */
  manifest: Manifest | undefined
  /** Kept from what was here before. */
  optimizer: OptimizerState | undefined
}

const refuse = (folder: string, found: string, allowed: string): EngineError =>
  createError('VALIDATION_ERROR', `convert: ${folder} ${found}, allowed: ${allowed}`, { path: 'to', found, allowed })

/** A folder with one of these is a checkpoint, or was to become one. */
const OWN_NAMES: readonly string[] = [MANIFEST_NAME, JOURNAL_NAME, LOCK_NAME]
const temporary = /\.tmp-\d+(-|$)/

/** Files that a killed conversion left unfinished. */
async function removeTemporary(folder: string): Promise<void> {
  const experts = join(folder, EXPERTS_FOLDER)
  const folders = [folder, experts, ...(await listFolder(experts)).map((name) => join(experts, name))]
  for (const path of folders) {
    if (!(await statIfAny(path))?.isDirectory()) continue
    for (const name of await listFolder(path)) if (temporary.test(name)) await removeFile(join(path, name))
  }
}

/** Removes a checkpoint, its manifest first: what remains of it when that is cut short is not taken for one. */
async function clear(folder: string): Promise<void> {
  await removeFile(join(folder, MANIFEST_NAME))
  await syncFolder(folder)
  for (const name of [JOURNAL_NAME, BASE_NAME, EXPERTS_FOLDER, VERSIONS_FOLDER]) {
    const path = join(folder, name)
    await rm(path, { recursive: true, force: true }).catch((error) => {
      throw writeFailed(path, error)
    })
  }
  await syncFolder(folder)
}

/** The records of a complete checkpoint, as its conversion's journal had them: files without blobs, or with one after another. */
function recordsOf(manifest: Manifest): Map<string, FileRecord> {
  const blobs = manifest.shards.map((): ManifestExpert[] => [])
  for (const { experts } of manifest.layers) for (const entry of experts) blobs[entry.shard]?.push(entry)
  const records = manifest.shards.flatMap(({ path, bytes, sha256 }, shard): FileRecord[] => {
    const own = blobs[shard]!.sort((a, b) => a.offset - b.offset)
    if (own.some((entry, i) => entry.offset !== i * entry.bytes)) return []
    const sums = { crc32c: own.map((entry) => entry.crc32c), blobSha256: own.map((entry) => entry.sha256) }
    return [{ path, bytes, sha256, ...sums }]
  })
  return new Map(records.map((record) => [record.path, record]))
}

const sameSource = (a: Manifest['source'], b: Manifest['source']): boolean =>
  a.bytes === b.bytes && a.modified === b.modified && a.header === b.header

/**
 * Takes the folder for one conversion; it is made where it is not there. Close the handle to give it back. VALIDATION_ERROR where it
 * holds something else than a checkpoint, JOURNAL_LOCKED where another process converts into it, FILE_READ_FAILED, FILE_WRITE_FAILED.
 */
export async function lockTarget(folder: string, tryLock: (descriptor: number) => boolean): Promise<FileHandle> {
  const info = await statIfAny(folder)
  if (info && !info.isDirectory() && !info.isSymbolicLink()) throw refuse(folder, 'is a file', 'a folder')
  const names = await listFolder(folder)
  if (names.length > 0 && !names.some((name) => OWN_NAMES.includes(name))) {
    throw refuse(folder, 'holds something else than a checkpoint', 'a new or empty folder')
  }
  await makeFolder(folder)
  const path = join(folder, LOCK_NAME)
  for (let locked = true; locked; ) {
    const handle = await open(path, 'a').catch((error) => {
      throw writeFailed(path, error)
    })
    try {
      locked = tryLock(handle.fd)
      // One that another conversion has removed at its end keeps nobody out.
      if (locked && (await handle.stat()).nlink > 0) return handle
    } catch (error) {
      await handle.close()
      throw error
    }
    await handle.close()
  }
  throw createError('JOURNAL_LOCKED', `another conversion into ${folder} is under way`, {
    path: folder,
    suggestedAction: 'Wait until it has ended, or convert into another folder.'
  })
}

/**
 * Makes the locked folder ready for a conversion: what another one left unfinished goes; a complete checkpoint of another one is refused
 * without `replace` (VALIDATION_ERROR). FILE_READ_FAILED, FILE_WRITE_FAILED.
 */
export async function prepareTarget(
  folder: string,
  conversion: string,
  source: Manifest['source'],
  replace: boolean
): Promise<Target> {
  const names = await listFolder(folder)
  const target: Target = { folder, known: new Map(), manifest: undefined, optimizer: undefined }
  if (names.includes(MANIFEST_NAME)) {
    const manifest = await readManifest(folder).catch((error: unknown) => {
      if (replace) return undefined
      if (isEngineError(error)) error.details.suggestedAction = 'Convert with --replace to write all of it anew.'
      throw error
    })
    if (manifest?.conversion === conversion) {
      await removeTemporary(folder)
      return { folder, known: recordsOf(manifest), manifest, optimizer: manifest.optimizer }
    }
    if (!replace) {
      throw refuse(folder, 'holds a checkpoint of another source or of other tiers', 'another folder, or --replace')
    }
    const optimizer = manifest && sameSource(manifest.source, source) ? manifest.optimizer : undefined
    await clear(folder)
    return { ...target, optimizer }
  }
  const journal = await readJournal(folder)
  if (journal?.header.conversion === conversion) {
    await removeTemporary(folder)
    return { ...target, known: journal.files, optimizer: journal.header.optimizer }
  }
  await clear(folder)
  await removeTemporary(folder)
  return target
}
