/** Opens the journal that an engine's options name. */
import { readdir, rm } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { Journal } from '../journal/index.js'
import type { NativeAddon } from '../native.js'
import type { CheckedOptions } from './options.js'
import { journalSchema } from './options.js'

/**
 * Undefined where there is none. JOURNAL_LOCKED, JOURNAL_CORRUPTED, JOURNAL_VERSION_UNSUPPORTED, JOURNAL_WRITE_FAILED, FILE_READ_FAILED,
 * FILE_WRITE_FAILED.
 */
export async function openJournal(given: CheckedOptions['journal'], addon: NativeAddon): Promise<Journal | undefined> {
  if (given === undefined) return undefined
  const options = typeof given === 'string' ? journalSchema.parse({ path: given }) : given
  const journal = await Journal.open({ ...options, path: resolve(options.path) }, (fd) => addon.tryLockFile(fd))
  // What damaged records named is not known.
  if (journal.recovered.damage.length === 0) await removeLeftovers(journal)
  return journal
}

/** Where versions of experts are kept for models that have no folder of their own. */
export const journalVersions = ({ path }: Journal): string => join(path, 'experts')

/** Versions that no record names: a process was killed while it wrote them, or nobody has loaded their model again. */
async function removeLeftovers(journal: Journal): Promise<void> {
  const folder = journalVersions(journal)
  // By name: the journal may have been moved.
  const named = new Set(journal.expertFiles().map((path) => basename(path)))
  for (const name of await readdir(folder).catch(() => [])) {
    if (!named.has(name)) await rm(join(folder, name), { force: true }).catch(() => {})
  }
}
