/** Whether two schemas can accept the same value, as far as that is easily seen: then `oneOf` is more than `anyOf`. */
import type { JsonSchema } from './response-format.js'
import { isOfType, isSchema, type JsonType, typeOf } from './schema-keywords.js'

/** A schema without its references. */
export type Resolve = (schema: unknown) => JsonSchema | undefined

/** True only where no value is accepted by both. */
export function areDisjoint(a: unknown, b: unknown, resolve: Resolve): boolean {
  const [own, other] = [resolve(a), resolve(b)]
  if (!own || !other) return false
  const [values, others] = [constants(own), constants(other)]
  if (values && others) return !values.some((value) => others.includes(value))
  const [types, otherTypes] = [typesOf(own), typesOf(other)]
  if (types && otherTypes) {
    const overlap = (from: readonly JsonType[], to: readonly JsonType[]) => from.some((type) => isOfType(type, to))
    if (!overlap(types, otherTypes) && !overlap(otherTypes, types)) return true
    if (types.join() !== 'object' || otherTypes.join() !== 'object') return false
  }
  return required(own).some((name) => {
    if (!types || !otherTypes || !required(other).includes(name)) return false
    const [mark, otherMark] = [own, other].map((schema) => {
      const member = isSchema(schema.properties) && resolve(schema.properties[name])
      return member && constants(member)
    })
    return mark && otherMark ? !mark.some((value) => otherMark.includes(value)) : false
  })
}

/** Of a schema that lists its values, each as JSON. */
function constants({ enum: list, const: value }: JsonSchema): string[] | undefined {
  if (Array.isArray(list)) return list.map((each) => JSON.stringify(each))
  return value === undefined ? undefined : [JSON.stringify(value)]
}

function typesOf({ type, enum: list, const: value }: JsonSchema): JsonType[] | undefined {
  if (type !== undefined) return [type].flat() as JsonType[]
  if (Array.isArray(list)) return [...new Set(list.map(typeOf))]
  return value === undefined ? undefined : [typeOf(value)]
}

const required = (schema: JsonSchema): string[] =>
  Array.isArray(schema.required) ? schema.required.filter((name) => typeof name === 'string') : []
