/** What is wrong with a value that a schema refuses: where, what was found there, what is allowed. */
import { z } from 'zod'
import { describeFound } from './hidden.js'

export interface Fault {
  /** [] is the value itself. */
  path: readonly PropertyKey[]
  found: string
  allowed: string
}

export type Issue = z.core.$ZodIssue

/** The faults of `issues`, which `schema` found in `value`, in their order. Throws what looking at the value throws. */
export const faultsOf = (
  schema: z.ZodType,
  value: unknown,
  issues: readonly Issue[],
  allowed: (schema: z.ZodType, path: readonly PropertyKey[]) => string = allowedAt
): Fault[] =>
  issues.flatMap((issue): Fault[] => {
    const { path } = issue
    if (issue.code === 'unrecognized_keys') {
      const known = allowed(schema, path)
      return issue.keys.map((key) => ({ path: [...path, key], found: 'not an option', allowed: known }))
    }
    // What a name may be is said by what has the names.
    const at = issue.code === 'invalid_key' ? path.slice(0, -1) : path
    return [{ path, found: describeFound(path, valueAt(value, path)), allowed: allowed(schema, at) }]
  })

export function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  let found = value
  for (const key of path) found = (found as Record<PropertyKey, unknown> | undefined | null)?.[key]
  return found
}

/** A path as a caller writes it: `gpu.memory`, `tiers[0]`. */
export const pathText = ([field, ...rest]: readonly PropertyKey[]): string =>
  field === undefined
    ? ''
    : [String(field), ...rest.map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`))].join('')

/** The description of the field at a path, or of the nearest around it that has one; of an object without any, its fields. */
export function allowedAt(schema: z.ZodType, path: readonly PropertyKey[]): string {
  if (path.length === 0) return schema instanceof z.ZodObject ? Object.keys(schema.shape).join(', ') : 'another value'
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
