/** Folders that are made durably. */
import { mkdir, open, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { errnoOf, isEngineError, writeFailed } from './errors/index.js'

/** Makes a folder's entries durable. Some file systems cannot, and need not. */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r').catch(() => undefined)
  await handle?.sync().catch(() => undefined)
  await handle?.close()
}

/** Makes a folder and those above it, durably, where it is not there. FILE_WRITE_FAILED. */
export async function makeFolder(path: string): Promise<void> {
  // Not mkdir's own `recursive`: on file systems where nothing can be made, such as /proc, it never ends.
  const make = () =>
    mkdir(path).then(
      () => true,
      async (error: unknown) => {
        if (errnoOf(error) !== 'EEXIST' || !(await stat(path)).isDirectory()) throw error
        return false
      }
    )
  let made: boolean
  try {
    made = await make().catch(async (error: unknown) => {
      if (errnoOf(error) !== 'ENOENT' || dirname(path) === path) throw error
      await makeFolder(dirname(path))
      return make()
    })
  } catch (error) {
    throw isEngineError(error) ? error : writeFailed(path, error)
  }
  if (made) await syncFolder(dirname(path))
}
