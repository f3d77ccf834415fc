/** Room on disks: how much there is, and the error where it is too little. */
import { statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { createError, type EngineError, isEngineError } from './errors/index.js'

/** Bytes that may be written to the disk of a folder, or of the folder above where it is not there yet. */
export async function availableBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder).catch(() => statfs(dirname(folder)))
  return bavail * bsize
}

/** RESOURCE_DISK_EXHAUSTED {path, required, available, resourceInfo}. `subject` is what the message calls the folder. */
export const noRoom = (
  folder: string,
  required: number,
  available: number,
  cause?: unknown,
  subject = folder
): EngineError =>
  createError(
    'RESOURCE_DISK_EXHAUSTED',
    `${subject}: ${required} bytes are to be written, the disk has room for ${available}`,
    {
      path: folder,
      required,
      available,
      resourceInfo: { required, available, current: null, limit: null, unit: 'bytes' }
    },
    { cause }
  )

/** RESOURCE_DISK_EXHAUSTED {required, available}. */
export async function checkRoom(folder: string, required: number, subject = folder): Promise<void> {
  const available = await availableBytes(folder)
  if (required > available) throw noRoom(folder, required, available, undefined, subject)
}

/** A failed write as what it is: RESOURCE_DISK_EXHAUSTED where the disk is full. */
export async function explainWrite(error: unknown, folder: string, required: number): Promise<unknown> {
  if (!isEngineError(error) || error.code !== 'FILE_WRITE_FAILED') return error
  if (error.details.errno !== 'ENOSPC' && error.details.errno !== 'EDQUOT') return error
  return noRoom(folder, required, await availableBytes(folder).catch(() => 0), error)
}
