/** The text of a configuration, YAML or JSON, as values and where they stand. */
import { createReadStream } from 'node:fs'
import { type Document, isMap, isScalar, isSeq, LineCounter, type Node, type Scalar, visit } from 'yaml'
import { createError, isEngineError, readFailed } from '../errors/index.js'
import { parseYaml } from './yaml.js'

export interface Place {
  line: number
  column: number
}

export interface ConfigText {
  /** null of an empty text. */
  value: unknown
  /** Where a path of it stands, or the nearest around it: its key, or its item of a list. */
  place(path: readonly PropertyKey[]): Place
}

/** The parser takes up to 3 µs and 1 KiB of memory for each byte: 128 KiB are read in well under a second, wherever they come from. */
const mostBytes = 2 ** 17

const unparsable = (source: string, reason: string, place: Place | undefined, cause?: unknown) =>
  createError(
    'CONFIG_PARSE_FAILED',
    `${source}${place ? `:${place.line}:${place.column}` : ''} cannot be read: ${reason}`,
    { source, line: place?.line ?? null, column: place?.column ?? null, reason },
    { cause }
  )

const tooLarge = (source: string) => unparsable(source, `it is larger than ${mostBytes} bytes`, undefined)

/** The text of a file, at most 128 KiB of UTF-8; undefined where there is none. CONFIG_PARSE_FAILED, FILE_READ_FAILED. */
export async function readText(path: string): Promise<string | undefined> {
  const pieces: Buffer[] = []
  let bytes = 0
  try {
    // What is no file may have no end.
    for await (const piece of createReadStream(path, { end: mostBytes }) as AsyncIterable<Buffer>) {
      bytes += piece.length
      pieces.push(piece)
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw readFailed(path, error, `the configuration ${path}`)
  }
  if (bytes > mostBytes) throw tooLarge(path)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(pieces))
  } catch (cause) {
    throw unparsable(path, 'it is not UTF-8', undefined, cause)
  }
}

/** Values that a text may come to: aliases multiply them. */
const mostValues = 2 ** 20

/** What an alias stands for counts wherever it is used: each place gets a copy of its own later. */
function hasTooMany(value: unknown): boolean {
  const open = [value]
  for (let count = 0; open.length > 0; count++) {
    const at = open.pop()
    if (count + open.length > mostValues) return true
    if (typeof at === 'object' && at !== null) for (const item of Object.values(at)) open.push(item)
  }
  return false
}

/** A key that its mapping has had before. */
function repeatedKey(document: Document.Parsed): Scalar | undefined {
  let found: Scalar | undefined
  visit(document, {
    Map(_, { items }) {
      const known = new Set<string>()
      for (const { key } of items) {
        if (!isScalar(key)) continue
        const name = String(key.value)
        if (known.has(name)) found = key
        if (found) return visit.BREAK
        known.add(name)
      }
      return undefined
    }
  })
  return found
}

/** CONFIG_PARSE_FAILED {source, line, column, reason}: no YAML, two documents, a key twice, unknown tags, aliases that multiply. */
export function readConfig(text: string, source: string): ConfigText {
  if (Buffer.byteLength(text) > mostBytes) throw tooLarge(source)
  const lines = new LineCounter()
  const placeAt = (offset: number): Place => {
    const { line, col } = lines.linePos(offset)
    return { line, column: col }
  }
  try {
    const document = parseYaml(text, lines)
    const [error] = [...document.errors, ...document.warnings]
    if (error) throw unparsable(source, error.message, placeAt(error.pos[0]), error)
    const again = repeatedKey(document)
    if (again) throw unparsable(source, `the key ${again.value} is there twice`, placeAt(again.range?.[0] ?? 0))
    const value: unknown = document.toJS({ maxAliasCount: 100 })
    if (hasTooMany(value)) throw unparsable(source, 'its aliases multiply what it says', undefined)
    const root = document.contents
    return { value, place: (path) => placeAt(offsetOf(root, path)) }
  } catch (error) {
    if (isEngineError(error)) throw error
    // What an alias means is found out when it is replaced.
    const reason = error instanceof RangeError ? 'it is nested too deeply' : (error as Error).message
    throw unparsable(source, reason, undefined, error)
  }
}

/** Where the deepest node on a path begins. Of an alias that is where it is used. */
function offsetOf(root: Node | null, path: readonly PropertyKey[]): number {
  let at: unknown = root
  let offset = root?.range?.[0] ?? 0
  for (const key of path) {
    if (isMap(at)) {
      const pair = at.items.find((item) => isScalar(item.key) && String(item.key.value) === String(key))
      if (!pair) return offset
      offset = (pair.key as Node).range?.[0] ?? offset
      at = pair.value
    } else if (isSeq(at)) {
      at = at.items[Number(key)]
      if (at === undefined) return offset
      offset = (at as Node).range?.[0] ?? offset
    } else {
      return offset
    }
  }
  return offset
}

/**
 * The value of a variable: a YAML scalar, or a list or mapping in brackets. What is written without quotes is taken as it is where it is no number,
 * no truth and not empty; an empty one is null.
 */
export function readScalar(text: string): unknown {
  const trimmed = text.trim()
  if (Buffer.byteLength(text) > mostBytes) return text
  try {
    const document = parseYaml(trimmed)
    const { contents } = document
    if (document.errors.length > 0 || document.warnings.length > 0) return text
    if (contents === null) return trimmed === '' ? null : text
    if (isScalar(contents)) {
      return contents.type === 'PLAIN' && typeof contents.value === 'string' ? text : contents.value
    }
    return /^[[{]/.test(trimmed) ? document.toJS({ maxAliasCount: 0 }) : text
  } catch {
    return text
  }
}
