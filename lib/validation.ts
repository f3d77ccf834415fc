/** Checks what callers hand in, at the border: zod schemas in, VALIDATION_ERROR with path, found and allowed out. */
import { z } from 'zod'
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

function refusal(subject: string, path: string, text: string, allowed: string, cause?: unknown): EngineError {
  return createError(
    'VALIDATION_ERROR',
    `${subject}: ${path} is ${text}, allowed: ${allowed}`,
    { path, found: text, allowed },
    { cause }
  )
}

/**
 * `value` as the schema types it. Each field's description says what is allowed. Throws VALIDATION_ERROR {path, found, allowed};
 * of several faults the first. A getter or proxy that throws is a fault too.
 */
export function validated<Shape extends z.core.$ZodLooseShape>(
  schema: z.ZodObject<Shape, z.core.$strict>,
  value: unknown,
  subject: string
): z.output<z.ZodObject<Shape, z.core.$strict>> {
  try {
    const result = schema.safeParse(value)
    if (result.success) return result.data
    const [issue] = result.error.issues
    const [field, ...rest] = issue?.path ?? []
    if (field === undefined && issue?.code === 'unrecognized_keys') {
      throw refusal(subject, String(issue.keys[0]), 'not an option', Object.keys(schema.shape).join(', '))
    }
    if (field === undefined) throw validationError(subject, 'the argument', value, 'an object of options')
    const allowed = allowedAt(schema, [field, ...rest])
    let found: unknown = (value as Record<PropertyKey, unknown>)[field]
    for (const key of rest) found = (found as Record<PropertyKey, unknown> | undefined)?.[key]
    const path = [String(field), ...rest.map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`))].join(
      ''
    )
    throw validationError(subject, path, found, allowed)
  } catch (error) {
    if (isEngineError(error)) throw error
    throw unreadable(subject, error)
  }
}

/** The description of the field at a path, or of the nearest around it that has one. */
function allowedAt(schema: z.ZodType, path: readonly PropertyKey[]): string {
  let allowed = 'see the documentation'
  let at: z.ZodType | undefined = schema
  for (const key of path) {
    at = at instanceof z.ZodObject ? (at.shape as Record<PropertyKey, z.ZodType>)[key] : undefined
    allowed = at?.description ?? allowed
    // An optional field, or one with a default, is a schema around that of its values.
    while (at instanceof z.ZodOptional || at instanceof z.ZodDefault || at instanceof z.ZodPrefault) {
      at = at.unwrap() as z.ZodType
      allowed = at.description ?? allowed
    }
  }
  return allowed
}

/** The error of an argument that throws when it is looked at. */
export const unreadable = (subject: string, cause: unknown): EngineError =>
  refusal(subject, 'the argument', 'an object that cannot be read', 'a plain object', cause)

/** The longest delay that a timer can have, in milliseconds. */
const longestTimeout = 2 ** 31 - 1

/** The fields that every call takes. */
export const callFields = {
  signal: z.instanceof(AbortSignal).optional().describe('an AbortSignal'),
  timeoutMs: z
    .number()
    .positive()
    .max(longestTimeout)
    .optional()
    .describe(`a number of milliseconds above 0, up to ${longestTimeout}`)
}

/** A function of the caller's, not called here. */
export const callback = <F extends (...args: never[]) => unknown>() =>
  z.custom<F>((value) => typeof value === 'function').optional()

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
