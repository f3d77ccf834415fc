/** Opens the journal that an engine's options name. */
import { resolve } from 'node:path'
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
  return Journal.open({ ...options, path: resolve(options.path) }, (fd) => addon.tryLockFile(fd))
}
