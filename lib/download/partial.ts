/**
 * What has come of a file that is being downloaded: `<to>.part`, and `<to>.part.json` which says what it is a part of. Both outlive the process,
 * so that a later one can go on; one process has them at a time.
 */
import type { Hash } from 'node:crypto'
import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { constants, lstat, open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { explainWrite } from '../disk-room.js'
import { createError, errnoOf, isEngineError, readFailed, writeFailed } from '../errors/index.js'
import { syncFolder } from '../folders.js'
import { native } from '../native.js'
import { refusal } from '../validation.js'

/** The file that a part is of. Addresses are told without their query: that may be a secret. */
export interface Whole {
  url: string
  bytes: number
  /** What names this version of the file on its server; null where that does not say. */
  validator: string | null
  /** What its bytes must have, where the caller knows. */
  sha256: string | null
}

/** What the caller asks for. */
export interface Wanted {
  /** Without its query. */
  url: string
  sha256: string | null
  bytes?: number | undefined
}

const readBytes = 2 ** 20

export class PartialFile {
  readonly path: string
  readonly #to: string
  readonly #file: FileHandle
  #whole: Whole | undefined
  #received = 0
  #ended = false
  #hash: Hash = createHash('sha256')

  private constructor(to: string, file: FileHandle) {
    this.#to = to
    this.path = partPath(to)
    this.#file = file
  }

  /**
   * Opens what an earlier call has left of `to`, or begins anew where it left nothing that is a part of this file. FILE_WRITE_FAILED {path, errno}
   * (EBUSY where another call has it), FILE_READ_FAILED, CANCELLED; VALIDATION_ERROR where the part is somebody else's.
   */
  static async open(to: string, wanted: Wanted, signal: AbortSignal | undefined): Promise<PartialFile> {
    const partial = new PartialFile(to, await lockPart(partPath(to)))
    try {
      const noted = await readWhole(to)
      const { size } = await partial.#file.stat()
      if (noted === 'none' && size > 0) {
        throw refusal('pullFile', 'to', `${to}, beside a ${partial.path} that no download has left`, 'another path')
      }
      const whole = typeof noted === 'object' ? noted : undefined
      if (whole && size > 0 && size <= whole.bytes && isSame(whole, wanted)) {
        const { url, sha256 } = wanted
        partial.#whole = { ...whole, url, sha256, validator: whole.url === url ? whole.validator : null }
        await partial.#takeUp(size, signal)
      } else {
        await partial.restart()
      }
      return partial
    } catch (error) {
      await partial.#end()
      throw error
    }
  }

  /** What it is a part of; undefined until `begin`. */
  get whole(): Whole | undefined {
    return this.#whole
  }

  /** Bytes that are there. */
  get received(): number {
    return this.#received
  }

  get complete(): boolean {
    return this.#whole !== undefined && this.#received === this.#whole.bytes
  }

  /** Notes what the bytes that come now are a part of. FILE_WRITE_FAILED, RESOURCE_DISK_EXHAUSTED. */
  async begin(whole: Whole): Promise<void> {
    const temporary = `${this.path}.json.tmp`
    await this.#writing(async () => {
      await rm(temporary, { force: true })
      await writeFile(temporary, `${JSON.stringify(whole)}\n`, { flag: 'wx' })
      await rename(temporary, descriptionPath(this.#to))
    })
    this.#whole = whole
  }

  /** FILE_WRITE_FAILED, RESOURCE_DISK_EXHAUSTED {required, available}. */
  async append(piece: Buffer): Promise<void> {
    await this.#writing(async () => {
      for (let at = 0; at < piece.length; ) {
        const { bytesWritten } = await this.#file.write(piece, at, piece.length - at, this.#received + at)
        at += bytesWritten
      }
    })
    this.#hash.update(piece)
    this.#received += piece.length
  }

  /** Nothing of it counts. FILE_WRITE_FAILED. */
  async restart(): Promise<void> {
    await this.#writing(() => this.#file.truncate(0))
    this.#received = 0
    this.#hash = createHash('sha256')
    this.#whole = undefined
  }

  /** SHA-256 of what is there, in lower-case hexadecimal. */
  sha256(): string {
    return this.#hash.copy().digest('hex')
  }

  /** Puts the file in its place, durably, and ends. FILE_WRITE_FAILED. */
  async finish(): Promise<void> {
    await this.#writing(() => this.#file.sync())
    await this.#writing(() => rename(this.path, this.#to))
    // Without its part it says nothing.
    await rm(descriptionPath(this.#to), { force: true }).catch(() => undefined)
    await syncFolder(dirname(this.#to))
    await this.#end()
  }

  /** Deletes it, and ends. FILE_WRITE_FAILED. */
  async remove(): Promise<void> {
    await this.#writing(async () => {
      await rm(this.path, { force: true })
      await rm(descriptionPath(this.#to), { force: true })
    })
    await this.#end()
  }

  /** Leaves what is there to a later call; where that is nothing, nothing. Once it has ended nothing is done. */
  async close(): Promise<void> {
    if (this.#ended) return
    if (this.#received === 0) await this.remove().catch(() => undefined)
    await this.#end()
  }

  async #end(): Promise<void> {
    this.#ended = true
    await this.#file.close()
  }

  /** Reads what is there, for its sum. */
  async #takeUp(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    const buffer = Buffer.allocUnsafe(readBytes)
    while (this.#received < bytes) {
      if (signal?.aborted) {
        const cause = signal.reason
        throw createError('CANCELLED', `${this.path}: the caller aborted`, { method: 'pullFile' }, { cause })
      }
      const { bytesRead } = await this.#file.read(buffer, 0, readBytes, this.#received).catch((error: unknown) => {
        throw readFailed(this.path, error)
      })
      // Somebody cut it off meanwhile: what was read is what there is.
      if (bytesRead === 0) break
      this.#hash.update(buffer.subarray(0, bytesRead))
      this.#received += bytesRead
    }
  }

  async #writing<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      const missing = (this.#whole?.bytes ?? 0) - this.#received
      throw await explainWrite(writeFailed(this.path, error), dirname(this.#to), Math.max(1, missing))
    }
  }
}

const partPath = (to: string): string => `${to}.part`
const descriptionPath = (to: string): string => `${to}.part.json`

/** Whether a part that was begun for `whole` can be gone on with: the server can say whether it is still the same, or the sum will. */
const isSame = (whole: Whole, { url, sha256, bytes = whole.bytes }: Wanted): boolean =>
  whole.bytes === bytes &&
  ((sha256 !== null && whole.sha256 === sha256) || (whole.url === url && whole.validator !== null))

/** A link that somebody has put there would have another file written: it is not followed, where the system can do without. */
const openFlags = constants.O_RDWR | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0)

/** Opens and locks the part. */
async function lockPart(path: string): Promise<FileHandle> {
  for (;;) {
    const file = await open(path, openFlags, 0o666).catch((error: unknown) => {
      throw writeFailed(path, error)
    })
    try {
      if (!native().tryLockFile(file.fd)) {
        throw createError('FILE_WRITE_FAILED', `${path} is being written by another call`, {
          path,
          errno: 'EBUSY',
          suggestedAction: 'Wait until the other download of this file has ended, or write to another path.'
        })
      }
      // Another call that had it may have put it in its place since it was opened: that file is not ours to write.
      const [own, named] = await Promise.all([file.stat(), lstat(path).catch(() => undefined)])
      if (named?.ino === own.ino && named.dev === own.dev) return file
    } catch (error) {
      await file.close()
      throw isEngineError(error) ? error : writeFailed(path, error)
    }
    await file.close()
  }
}

/** What an earlier call noted: before its first byte, so that a part without any is not ours. */
async function readWhole(to: string): Promise<Whole | 'none' | 'damaged'> {
  const text = await readFile(descriptionPath(to), 'utf8').catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw readFailed(descriptionPath(to), error)
  })
  if (text === undefined) return 'none'
  try {
    const { url, bytes, validator, sha256 } = JSON.parse(text)
    const isText = (value: unknown) => value === null || typeof value === 'string'
    const isSound = typeof url === 'string' && Number.isSafeInteger(bytes) && isText(validator) && isText(sha256)
    return isSound ? { url, bytes, validator, sha256 } : 'damaged'
  } catch {
    return 'damaged'
  }
}
