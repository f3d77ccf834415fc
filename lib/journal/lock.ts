/** One engine at a time in a journal. */
import { createError } from '../errors/index.js'
import { lockFolder } from '../folder-lock.js'
import { lockPath, unwritable } from './files.js'

/** Locks a folder's journal; the lock is held until the descriptor is closed. JOURNAL_LOCKED {path, pid, at}, FILE_WRITE_FAILED. */
export const lockJournal = (folder: string, tryLock: (fd: number) => boolean): Promise<number> =>
  lockFolder({
    path: lockPath(folder),
    tryLock,
    taken: (holder, who) =>
      createError('JOURNAL_LOCKED', `the journal in ${folder} is in use by ${who}`, { path: folder, ...holder }),
    failed: (error) => unwritable(lockPath(folder), error)
  })
