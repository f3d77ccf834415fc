/**
 * Values that JSON has no form for, on their way through the channel: typed arrays travel as attachments ({"$bin": [id, type, length]}), numbers
 * that are not finite, bigints and errors as {"$number"}, {"$bigint"} and {"$error"}. A key of the value's own that begins with $ gets another one.
 */
import type { EngineError, ErrorCode, ErrorDetails } from '../errors/index.js'
import { catalog, errorFromWire, errorOf, isEngineError, messageOf } from '../errors/index.js'
import { protocolError } from './frames.js'

const arrays = {
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array
} as const
type ArrayName = keyof typeof arrays

/** Errors that came from a worker: it has told of them. */
const fromWorker = new WeakSet<object>()

export const isFromWorker = (error: unknown): boolean =>
  typeof error === 'object' && error !== null && fromWorker.has(error)

/** `error` as one that was told of where `of` was. */
export function asToldOf<Made extends object>(error: Made, of: unknown): Made {
  if (isFromWorker(of)) fromWorker.add(error)
  return error
}

/** Deeper values are refused: nobody's are, but those that contain themselves. */
const deepest = 100
/** Causes of causes that an error keeps. */
const mostCauses = 4

/** `attach` takes the bytes of an array and gives the id under which they travel. Throws a RangeError for what contains itself. */
export function pack(value: unknown, attach: (bytes: Buffer) => number, depth = 0): unknown {
  if (typeof value === 'number' && !Number.isFinite(value)) return { $number: String(value) }
  if (typeof value === 'bigint') return { $bigint: String(value) }
  if (typeof value === 'function' || typeof value === 'symbol') return undefined
  if (typeof value !== 'object' || value === null) return value
  if (depth > deepest) throw new RangeError('a value that is too deep')
  const inner = (item: unknown): unknown => pack(item, attach, depth + 1)
  if (ArrayBuffer.isView(value)) {
    const name = value instanceof Uint8Array ? 'Uint8Array' : value.constructor.name
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
    const length = Object.hasOwn(arrays, name) ? (value as Uint8Array).length : value.byteLength
    return { $bin: [attach(bytes), Object.hasOwn(arrays, name) ? name : 'Uint8Array', length] }
  }
  if (isEngineError(value)) return { $error: packError(value, inner, 0) }
  if (value instanceof Error) return { $error: { message: messageOf(value) } }
  if (Array.isArray(value)) return value.map(inner)
  // Not by assignment: a key may be __proto__.
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key.startsWith('$') ? `$${key}` : key, inner(item)])
  )
}

function packError(error: EngineError, inner: (value: unknown) => unknown, causes: number): unknown {
  const { code, message, details, timestamp, cause } = error
  const own = { code, message, details: inner(details), timestamp }
  if (cause === undefined || causes >= mostCauses) return own
  return { ...own, cause: isEngineError(cause) ? packError(cause, inner, causes + 1) : { message: messageOf(cause) } }
}

/** What `pack` was given. `take` gives the bytes of an id. Throws WORKER_PROTOCOL_ERROR. */
export function unpack(value: unknown, take: (id: number) => Buffer | undefined, depth = 0): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (depth > deepest + mostCauses) throw protocolError('a value that is too deep', null, null)
  const inner = (item: unknown): unknown => unpack(item, take, depth + 1)
  if (Array.isArray(value)) return value.map(inner)
  const entries = Object.entries(value)
  const [first] = entries
  if (first?.[0].startsWith('$') && !first[0].startsWith('$$')) {
    if (entries.length !== 1) throw protocolError('a value of unknown form', null, null)
    return special(first[0], first[1], inner, take)
  }
  return Object.fromEntries(entries.map(([key, item]) => [key.startsWith('$$') ? key.slice(1) : key, inner(item)]))
}

function special(
  key: string,
  value: unknown,
  inner: (value: unknown) => unknown,
  take: (id: number) => Buffer | undefined
): unknown {
  if (key === '$bin') return unpackArray(value, take)
  if (key === '$number' && /^(NaN|-?Infinity)$/.test(String(value))) return Number(value)
  if (key === '$bigint' && typeof value === 'string' && /^-?\d{1,10000}$/.test(value)) return BigInt(value)
  if (key === '$error') return unpackError(value, inner, 0)
  throw protocolError('a value of unknown form', null, null)
}

function unpackArray(value: unknown, take: (id: number) => Buffer | undefined): unknown {
  const [id, name, length] = Array.isArray(value) ? value : []
  const bytes = typeof id === 'number' ? take(id) : undefined
  const known = typeof name === 'string' && Object.hasOwn(arrays, name) ? arrays[name as ArrayName] : undefined
  if (!bytes || !known || bytes.length !== length * known.BYTES_PER_ELEMENT) {
    throw protocolError('an array without its bytes', null, bytes?.length ?? null)
  }
  // A copy of its own: pieces of what was read lie anywhere.
  const copy = new Uint8Array(bytes)
  return new known(copy.buffer, 0, length)
}

function unpackError(value: unknown, inner: (value: unknown) => unknown, causes: number): unknown {
  const { code, message, details, timestamp, cause } = (value ?? {}) as Record<string, unknown>
  const because =
    typeof cause !== 'object' || cause === null || causes > mostCauses
      ? undefined
      : 'code' in cause
        ? unpackError(cause, inner, causes + 1)
        : (cause as { message?: unknown }).message
  if (typeof code !== 'string' || !Object.hasOwn(catalog, code)) return errorFromWire(value, 'worker')
  const own = inner(details)
  const options = {
    ...(because !== undefined && { cause: because }),
    ...(typeof timestamp === 'string' && { timestamp })
  }
  const fields = typeof own === 'object' && own !== null ? (own as ErrorDetails) : {}
  const error = errorOf(code as ErrorCode, typeof message === 'string' ? message : code, fields, options)
  fromWorker.add(error)
  return error
}
