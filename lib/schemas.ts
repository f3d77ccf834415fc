/** Checks what callers hand in, at the border: zod schemas in, VALIDATION_ERROR with path, found and allowed out. */
import { z } from 'zod'
import { faultsOf, pathText } from './config/fault.js'
import { isEngineError } from './errors/index.js'
import { refusal, unreadable } from './validation.js'

/** What `z.validate` parses with: only the first issue is told, and a large list of wrong items would have one for each. */
const untilFirst: z.core.ParseContextInternal<z.core.$ZodIssue> = { abortEarly: true }

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
    const result = schema.safeParse(value, untilFirst)
    if (result.success) return result.data
    const { path, found, allowed } = faultsOf(schema, value, result.error.issues.slice(0, 1))[0]!
    if (path.length === 0) throw refusal(subject, 'the argument', found, 'an object of options')
    throw refusal(subject, pathText(path), found, allowed)
  } catch (error) {
    if (isEngineError(error)) throw error
    throw unreadable(subject, error)
  }
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
