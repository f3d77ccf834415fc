/** Variables of the environment as settings: the parts of a name behind the prefix, two underscores between them, are keys and indices of lists. */
import type { z } from 'zod'
import { camelCase } from '../errors/wire.js'
import { ListItem } from './keys.js'
import { readScalar } from './read.js'
import { childOf, listForm } from './shape.js'

export interface Variable {
  name: string
  /** With the keys of a file. */
  value: unknown
}

/** No setting is so deep: of a name with more parts, these are enough to find that there is none. */
const mostParts = 16

/** In the order of their names. A part that is no key is found like any unknown key of a file. */
export function settingsOf(schema: z.ZodType, env: Readonly<Record<string, string | undefined>>): Variable[] {
  const names = Object.keys(env).sort()
  return names.flatMap((name) => {
    const [, rest] = /^TIERED_MOE__(.*)$/s.exec(name) ?? []
    const text = env[name]
    if (rest === undefined || text === undefined) return []
    return [{ name, value: nested(schema, rest.toLowerCase().split('__', mostParts), readScalar(text)) }]
  })
}

function nested(schema: z.ZodType | undefined, [part, ...rest]: readonly string[], value: unknown): unknown {
  if (part === undefined) return value
  if (listForm(schema) && /^\d{1,3}$/.test(part)) {
    const index = Number(part)
    return new ListItem(index, nested(childOf(schema, index), rest, value))
  }
  return { [part]: nested(childOf(schema, camelCase(part)), rest, value) }
}
