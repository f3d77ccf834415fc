/** Folders of workers for what lives as long as their engine: removed with it, or by the next engine where it could not do so. */
import { closeSync, rmSync } from 'node:fs'
import { mkdtemp, open, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeFailed } from '../errors/index.js'
import { lockFolder } from '../folder-lock.js'
import { native } from '../native.js'

const prefix = 'tiered-moe-workers-'
const lockName = 'lock'
/** Milliseconds after which a folder without a lock is nobody's: whoever made it would have locked it. */
const unlockedMs = 60_000

/** Of engines of this process, for its end. */
const live = new Set<TempFolder>()
const removeLive = (): void => {
  for (const folder of live) folder.removeNow()
}

export class TempFolder {
  readonly path: string
  readonly #lock: number
  readonly #onExit: () => void

  private constructor(path: string, lock: number, onExit: () => void) {
    this.path = path
    this.#lock = lock
    this.#onExit = onExit
    if (live.size === 0) process.on('exit', removeLive)
    live.add(this)
  }

  /** Removes what dead engines left, and makes a new one, which only this user can read. `onExit` comes before it is removed at the process's end. FILE_WRITE_FAILED. */
  static async make(onExit: () => void): Promise<TempFolder> {
    await removeDead()
    const path = await mkdtemp(join(tmpdir(), prefix)).catch((error) => {
      throw writeFailed(tmpdir(), error)
    })
    const failed = (error: unknown) => writeFailed(path, error)
    const taken = () => writeFailed(path, 'another engine has it')
    const lock = await lockFolder({
      path: join(path, lockName),
      tryLock: (descriptor) => native().tryLockFile(descriptor),
      taken,
      failed
    })
    return new TempFolder(path, lock, onExit)
  }

  async remove(): Promise<void> {
    live.delete(this)
    if (live.size === 0) process.removeListener('exit', removeLive)
    await rm(this.path, { recursive: true, force: true }).catch(() => {})
    closeSync(this.#lock)
  }

  removeNow(): void {
    this.#onExit()
    try {
      rmSync(this.path, { recursive: true, force: true })
    } catch {
      // The next engine tries again.
    }
  }
}

async function removeDead(): Promise<void> {
  const names = await readdir(tmpdir()).catch(() => [])
  for (const name of names) {
    if (!name.startsWith(prefix)) continue
    const path = join(tmpdir(), name)
    if (await isDead(path)) await rm(path, { recursive: true, force: true }).catch(() => {})
  }
}

/** The system gives a lock back however its process ends. */
async function isDead(path: string): Promise<boolean> {
  try {
    const lock = await open(join(path, lockName), 'r+')
    try {
      const { size } = await lock.stat()
      // Whoever is just making it is about to lock it.
      return (size > 0 || (await isOld(path))) && native().tryLockFile(lock.fd)
    } finally {
      await lock.close()
    }
  } catch {
    return isOld(path)
  }
}

/** Of another user's, nothing is known. */
const isOld = async (path: string): Promise<boolean> => {
  const found = await stat(path).catch(() => undefined)
  return found !== undefined && found.uid === process.getuid?.() && Date.now() - found.mtimeMs > unlockedMs
}
