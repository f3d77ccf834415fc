/** What is wrong with what callers hand in: VALIDATION_ERROR with path, found and allowed; and sizes in bytes as they write them. */
import type { EngineError } from './errors/index.js'
import { createError, isEngineError } from './errors/index.js'

/** A value as a short text: never long, never throws. */
export function describeValue(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}...` : value)
  if (typeof value === 'bigint') return `${String(value).slice(0, 40)}n`
  if (typeof value === 'function') return 'a function'
  if (typeof value !== 'object' || value === null) return String(value)
  try {
    if (Array.isArray(value)) return `an array of ${value.length}`
    if (ArrayBuffer.isView(value)) return `${value.constructor.name} of ${value.byteLength} bytes`
    return 'an object'
  } catch {
    return 'an object'
  }
}

/** The error of one bad argument. `path` is as the caller writes it: `temperature`, `stop[1]`. */
export function validationError(
  subject: string,
  path: string,
  found: unknown,
  allowed: string,
  cause?: unknown
): EngineError {
  return refusal(subject, path, describeValue(found), allowed, cause)
}

/** The same where the fault has no value of its own, or one that is better told in words. */
export function refusal(subject: string, path: string, text: string, allowed: string, cause?: unknown): EngineError {
  return createError(
    'VALIDATION_ERROR',
    `${subject}: ${path} is ${text}, allowed: ${allowed}`,
    { path, found: text, allowed },
    { cause }
  )
}

/** The error of an argument that throws when it is looked at. */
export const unreadable = (subject: string, cause: unknown): EngineError =>
  refusal(subject, 'the argument', 'an object that cannot be read', 'a plain object', cause)

/** What `read` makes of a request. VALIDATION_ERROR where reading it fails: a getter that throws, a bigint where a number belongs. */
export function reading<Result>(subject: string, read: () => Result): Result {
  try {
    return read()
  } catch (error) {
    throw isEngineError(error) ? error : unreadable(subject, error)
  }
}

const byteUnits: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
  ti: 2 ** 40
}

/** Bytes of a number or of a text (`2GiB`, `512 MB`, `1.5g`); NaN where it is neither. */
export function byteSize(value: number | string): number {
  if (typeof value === 'number') return value
  const [, number, unit] = /^(\d+(?:\.\d+)?) ?([kmgt]i?)?b?$/i.exec(value.trim()) ?? []
  return number === undefined ? Number.NaN : Math.floor(Number(number) * byteUnits[(unit ?? '').toLowerCase()]!)
}

/** A number of bytes from 1 to 2^52, or a text that says one. */
export const isByteSize = (value: unknown): value is number | string => {
  const bytes = typeof value === 'number' || typeof value === 'string' ? byteSize(value) : Number.NaN
  return Number.isInteger(bytes) && bytes >= 1 && bytes <= 2 ** 52
}
