/** Refuses what cannot be followed, and schemas that are too large to look at. */
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'

/** Why a schema is not followed. */
export type Reason = 'invalid' | 'unsupported' | 'unsatisfiable' | 'too_large'

export function refusal(path: string, reason: Reason, keyword: string | undefined, text: string): EngineError {
  const details = { path, reason, ...(keyword !== undefined && { keyword }) }
  return createError('GUIDANCE_SCHEMA_UNSUPPORTED', `the schema cannot be followed at ${path}: ${text}`, details)
}

/** Characters of a schema as JSON, about. */
const mostSize = 2 ** 20

/** Objects and lists inside of each other: more than any schema that is followed has. */
const mostLevels = 1000

/** A list with holes is as long as it says. */
const lengthOf = (value: unknown): number =>
  typeof value === 'string' || Array.isArray(value) || ArrayBuffer.isView(value)
    ? ((value as { length?: number }).length ?? 0)
    : 2

/** Throws GUIDANCE_SCHEMA_UNSUPPORTED. Ends soon for any value, of one that holds itself or the same parts many times too. */
export function checkSize(schema: unknown): void {
  let size = 0
  const open: [value: unknown, level: number][] = [[schema, 0]]
  for (let next = open.pop(); next; next = open.pop()) {
    const [value, level] = next
    if (level > mostLevels) throw refusal('#', 'too_large', undefined, `it has more than ${mostLevels} levels`)
    size += 2 + lengthOf(value)
    if (size > mostSize) throw refusal('#', 'too_large', undefined, `it has more than ${mostSize} characters`)
    if (typeof value !== 'object' || value === null) continue
    for (const [name, member] of Object.entries(value)) {
      size += name.length
      open.push([member, level + 1])
    }
  }
}
