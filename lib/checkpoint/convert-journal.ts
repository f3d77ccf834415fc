/**
 * Which files of a conversion are finished: one line of JSON each, durable before the next file is begun. A conversion that was killed goes
 * on from it; a line that was cut off, and what follows it, does not count.
 */
import { appendFileSync, closeSync, fsyncSync, openSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { isAbsent, JOURNAL_NAME, readFailed, removeFile, writeFailed, writeWhole } from './folder.js'
import { manifestSchema } from './manifest.js'

const FORMAT = 'tiered-moe-convert'

const hash = z.string().regex(/^[0-9a-f]{64}$/)
const headerSchema = z.object({
  format: z.literal(FORMAT),
  conversion: hash,
  optimizer: manifestSchema.shape.optimizer
})
const recordSchema = z.object({
  path: z.string(),
  bytes: z.int().min(0),
  sha256: hash,
  /** Of its blobs, in order. */
  crc32c: z.array(z.string().regex(/^[0-9a-f]{8}$/)),
  blobSha256: z.array(hash)
})

/** A finished file. */
export type FileRecord = z.output<typeof recordSchema>
export type JournalHeader = z.output<typeof headerSchema>

export interface JournalContents {
  header: JournalHeader
  files: Map<string, FileRecord>
}

function parseLine<Schema extends z.ZodType>(schema: Schema, line: string | undefined): z.output<Schema> | undefined {
  if (line === undefined) return undefined
  try {
    const result = schema.safeParse(JSON.parse(line))
    return result.success ? result.data : undefined
  } catch {
    return undefined
  }
}

/** What a folder's journal says; undefined where there is none or its first line is not whole. FILE_READ_FAILED. */
export async function readJournal(folder: string): Promise<JournalContents | undefined> {
  const path = join(folder, JOURNAL_NAME)
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if (isAbsent(error)) return undefined
    throw readFailed(path, error)
  }
  const [first, ...lines] = text.split('\n')
  const header = parseLine(headerSchema, first)
  if (!header) return undefined
  const files = new Map<string, FileRecord>()
  for (const line of lines) {
    const record = parseLine(recordSchema, line)
    if (!record) break
    files.set(record.path, record)
  }
  return { header, files }
}

export class ConvertJournal {
  readonly #path: string
  readonly #descriptor: number

  private constructor(path: string, descriptor: number) {
    this.#path = path
    this.#descriptor = descriptor
  }

  /** Begins a folder's journal anew, with the files that an earlier run finished. FILE_WRITE_FAILED. */
  static async begin(
    folder: string,
    header: Omit<JournalHeader, 'format'>,
    known: Iterable<FileRecord>
  ): Promise<ConvertJournal> {
    const path = join(folder, JOURNAL_NAME)
    const lines = [{ format: FORMAT, ...header }, ...known].map((line) => `${JSON.stringify(line)}\n`)
    await writeWhole(path, lines.join(''))
    try {
      return new ConvertJournal(path, openSync(path, 'a'))
    } catch (error) {
      throw writeFailed(path, error)
    }
  }

  /** FILE_WRITE_FAILED. */
  add(record: FileRecord): void {
    try {
      appendFileSync(this.#descriptor, `${JSON.stringify(record)}\n`)
      fsyncSync(this.#descriptor)
    } catch (error) {
      throw writeFailed(this.#path, error)
    }
  }

  close(): void {
    closeSync(this.#descriptor)
  }

  /** The conversion has ended. FILE_WRITE_FAILED. */
  async remove(): Promise<void> {
    await removeFile(this.#path)
  }
}
