/** Checks what callers hand in, at the border: zod schemas in, VALIDATION_ERROR with path, found and allowed out. */
import { z } from 'zod'
import { isEngineError } from './errors/index.js'
import { refusal, unreadable, validationError } from './validation.js'

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
    if (issue?.code === 'unrecognized_keys') {
      const allowed = field === undefined ? Object.keys(schema.shape).join(', ') : allowedAt(schema, issue.path)
      throw refusal(subject, pathText([...issue.path, String(issue.keys[0])]), 'not an option', allowed)
    }
    if (field === undefined) throw validationError(subject, 'the argument', value, 'an object of options')
    const allowed = allowedAt(schema, [field, ...rest])
    let found: unknown = (value as Record<PropertyKey, unknown>)[field]
    for (const key of rest) found = (found as Record<PropertyKey, unknown> | undefined)?.[key]
    throw validationError(subject, pathText([field, ...rest]), found, allowed)
  } catch (error) {
    if (isEngineError(error)) throw error
    throw unreadable(subject, error)
  }
}

/** A path as a caller writes it: `gpu.memory`, `tiers[0]`. */
const pathText = ([field, ...rest]: readonly PropertyKey[]): string =>
  [String(field), ...rest.map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`))].join('')

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
