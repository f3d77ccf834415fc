/** A checkpoint's blobs on a web server, and archives that read them. */
import { createHash } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Test } from 'tap'
import type { Archive as ArchiveClass, ArchiveEvent } from '../../lib/archive/archive.js'
import type { BlobReference } from '../../lib/archive/blob-download.js'
import type { ColdFolder as ColdFolderClass } from '../../lib/archive/cold-folder.js'
import type { ArchiveOptions, archiveSchema as ArchiveSchema } from '../../lib/archive/options.js'
import type { native as Native } from '../../lib/native.js'
import { built } from '../fixtures/package.js'

// These parts are not exported by the package: they are reached by their place.
const { Archive } = (await built('archive/archive.js')) as { Archive: typeof ArchiveClass }
const { archiveSchema } = (await built('archive/options.js')) as { archiveSchema: typeof ArchiveSchema }
export const { ColdFolder } = (await built('archive/cold-folder.js')) as { ColdFolder: typeof ColdFolderClass }
export const { native } = (await built('native.js')) as { native: typeof Native }

/** `count` bytes that look random and repeat with the seed. */
export function seededBytes(count: number, seed: number): Buffer {
  let state = (seed * 2654435761) >>> 0 || 1
  const bytes = Buffer.alloc(count)
  for (let i = 0; i < count; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    bytes[i] = state >>> 8
  }
  return bytes
}

export const blobBytes = 256 * 1024

/** Writes a file of blobs below `folder`; where each lies and what it is. */
export function writeBlobs(folder: string, file: string, count: number, seed: number): BlobReference[] {
  const bytes = seededBytes(count * blobBytes, seed)
  mkdirSync(dirname(join(folder, file)), { recursive: true })
  writeFileSync(join(folder, file), bytes)
  chmodSync(join(folder, file), 0o644)
  return Array.from({ length: count }, (_, index) => {
    const offset = index * blobBytes
    const blob = bytes.subarray(offset, offset + blobBytes)
    return {
      file,
      offset,
      bytes: blobBytes,
      crc32c: native().crc32c(blob),
      sha256: createHash('sha256').update(blob).digest('hex'),
      fileBytes: bytes.length
    }
  })
}

export interface Opened {
  archive: ArchiveClass
  events: ArchiveEvent[]
  coldFolder: string
  /** Names of the events of one kind. */
  count(type: ArchiveEvent['type']): number
}

/** A folder that goes with the test. */
export function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-cold-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Waits that a test can afford; the schedule's own numbers are checked in test/resilience. */
const quick = {
  retry: { attempts: 5, delaysMs: [1, 2, 4, 8, 16], jitterMs: 2 },
  timeouts: { connectMs: 2000, firstByteMs: 400, betweenBytesMs: 400, totalMs: 20_000 }
}

export async function openArchive(
  t: Test,
  url: string,
  options: Partial<ArchiveOptions> = {},
  onEvent?: (event: ArchiveEvent) => void
): Promise<Opened> {
  const coldFolder = options.coldFolder ?? temporaryFolder(t)
  const events: ArchiveEvent[] = []
  const listen = (event: ArchiveEvent): void => {
    events.push(event)
    onEvent?.(event)
  }
  const checked = archiveSchema.parse({ ...quick, ...options, url, coldFolder })
  const archive = await Archive.open({ ...checked, url }, { seed: 7, onEvent: listen })
  t.teardown(() => archive.close())
  return { archive, events, coldFolder, count: (type) => events.filter((event) => event.type === type).length }
}

/** Whether the fetched file has the blob's bytes. */
export const isRight = (path: string, blob: BlobReference): boolean =>
  createHash('sha256').update(readFileSync(path)).digest('hex') === blob.sha256
