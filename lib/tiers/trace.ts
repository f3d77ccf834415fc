/** Traces: what was asked of an expert cache, and the file that keeps it (docs/traces.md). */
import { createHash, randomUUID } from 'node:crypto'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { z } from 'zod'
import type { EngineError } from '../errors/index.js'
import { createError, readFailed, writeFailed } from '../errors/index.js'
import type { NativeTrace } from '../native.js'

const FORMAT = 'tiered-moe trace'
const MAJOR = 1
/** The head ends here at the latest; words begin at a multiple of 64 bytes. */
const MOST_HEAD = 65536
const ALIGNMENT = 64

/** How many tokens of how many sequences a step had. */
export interface StepShape {
  sequences: number
  /** Tokens. */
  rows: number
  /** Tokens of sequences that brought more than one. */
  prefillRows: number
}

export interface Trace extends NativeTrace {
  /** Of the cache that was recorded. */
  policy: 'adaptive' | 'lru' | 'lfu'
  seed: number
  model: string | undefined
}

/** Kinds of records; a record is one head, kind + 256 · (number of words that follow), and those words. */
export const traceKinds = {
  step: 1,
  layer: 2,
  prefetch: 3,
  pin: 4,
  demote: 5,
  resize: 6,
  drop: 7,
  version: 8
} as const

/** Prefetches between two layers. */
export const afterLayer = 0xffffffff

/** Collects the words of a trace. */
export class TraceWriter {
  #words = new Uint32Array(1024)
  #count = 0

  step({ sequences, rows, prefillRows }: StepShape): void {
    this.record('step', [sequences, rows, prefillRows])
  }
  /** `entries` ascending: layer · experts + expert, or what a version was numbered. */
  layer(layer: number, entries: readonly number[]): void {
    this.record('layer', [layer, ...entries])
  }
  record(kind: keyof typeof traceKinds, words: readonly number[]): void {
    const end = this.#count + 1 + words.length
    if (end > this.#words.length) {
      const larger = new Uint32Array(Math.max(end, 2 * this.#words.length))
      larger.set(this.#words)
      this.#words = larger
    }
    this.#words[this.#count] = traceKinds[kind] + 256 * words.length
    this.#words.set(words, this.#count + 1)
    this.#count = end
  }
  words(): Uint32Array {
    return this.#words.slice(0, this.#count)
  }
}

/** The records of a trace in their order; a record that is cut off ends it. */
export function* traceRecords(words: Uint32Array): Generator<{ kind: number; words: Uint32Array }> {
  for (let at = 0; at < words.length; ) {
    const head = words[at]!
    const end = at + 1 + (head >>> 8)
    if (end > words.length) return
    yield { kind: head & 0xff, words: words.subarray(at + 1, end) }
    at = end
  }
}

export function traceSteps(trace: NativeTrace): number {
  let steps = 0
  for (const { kind } of traceRecords(trace.words)) if (kind === traceKinds.step) steps++
  return steps
}

const count = z.number().int().min(0).max(0xffffffff)
const headSchema = z.object({
  format: z.literal(FORMAT),
  version: z.string().regex(/^\d+\.\d+$/),
  layers: count.min(1),
  experts: count.min(1),
  slots: count,
  policy: z.enum(['adaptive', 'lru', 'lfu']),
  seed: count,
  model: z.string().optional(),
  words: count,
  sha256: z.string().regex(/^[0-9a-f]{64}$/)
})

const invalid = (path: string, reason: string): EngineError =>
  createError('TRACE_INVALID', `${path} is no usable trace: ${reason}`, { path, reason })

const calledTrace = (path: string): string => `the trace ${path}`

const isLittleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1

/** The bytes of words, little-endian. */
function bytesOf(words: Uint32Array): Buffer {
  const bytes = Buffer.from(words.buffer, words.byteOffset, words.byteLength)
  return isLittleEndian ? bytes : Buffer.from(bytes).swap32()
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

/** Writes a trace whole or not at all. FILE_WRITE_FAILED {path, errno}. */
export async function writeTrace(path: string, trace: Trace): Promise<void> {
  const { layers, experts, slots, policy, seed, model, words } = trace
  const body = bytesOf(words)
  const version = `${MAJOR}.0`
  const head = JSON.stringify({
    format: FORMAT,
    version,
    layers,
    experts,
    slots,
    policy,
    seed,
    model,
    words: words.length,
    sha256: sha256(body)
  })
  const length = Math.ceil((Buffer.byteLength(head) + 1) / ALIGNMENT) * ALIGNMENT
  const padding = ' '.repeat(length - Buffer.byteLength(head) - 1)
  const temporary = `${path}.${randomUUID()}.tmp`
  try {
    await writeFile(temporary, Buffer.concat([Buffer.from(`${head}${padding}\n`), body]), { flush: true })
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined)
    throw writeFailed(path, error, calledTrace(path))
  }
}

function parseHead(path: string, line: string): z.infer<typeof headSchema> {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    throw invalid(path, 'its first line is not JSON')
  }
  const parsed = headSchema.safeParse(value)
  if (!parsed.success) {
    const { path: field, message } = parsed.error.issues[0]!
    throw invalid(path, `its head has a wrong ${field.join('.') || 'form'}: ${message}`)
  }
  const major = Number(parsed.data.version.split('.')[0])
  if (major !== MAJOR) throw invalid(path, `its version is ${parsed.data.version}, readable is ${MAJOR}.x`)
  return parsed.data
}

/** TRACE_INVALID {path, reason}: no trace, of another major version, cut off, or damaged. FILE_READ_FAILED {path, errno}. */
export async function readTrace(path: string): Promise<Trace> {
  let bytes: Buffer
  try {
    bytes = await readFile(path)
  } catch (error) {
    throw readFailed(path, error, calledTrace(path))
  }
  const end = bytes.subarray(0, MOST_HEAD).indexOf('\n')
  if (end < 0) throw invalid(path, 'it has no head')
  const head = parseHead(path, bytes.toString('utf8', 0, end))
  const body = bytes.subarray(end + 1)
  if (body.length !== head.words * 4) throw invalid(path, `it has ${body.length} bytes of words, not ${head.words * 4}`)
  if (sha256(body) !== head.sha256) throw invalid(path, 'its words do not have the SHA-256 of its head')
  const words = new Uint32Array(head.words)
  const copy = Buffer.from(words.buffer)
  body.copy(copy)
  if (!isLittleEndian) copy.swap32()
  const { layers, experts, slots, policy, seed, model } = head
  return { layers, experts, slots, policy, seed, model, words }
}
