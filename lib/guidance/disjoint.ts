/** Whether schemas can accept the same value, as far as that is easily seen: then `oneOf` is more than `anyOf`. */
import type { JsonSchema } from './response-format.js'
import { isOfType, isSchema, type JsonType, typeOf } from './schema-keywords.js'

/** Listed values, each as JSON. */
type Values = ReadonlySet<string>

/** What a schema says by which others can be told from it. */
interface Marks {
  /** All that it accepts, where it lists its values. */
  values: Values | undefined
  types: readonly JsonType[] | undefined
  /** Of an object: the members that it must have whose values are listed. */
  members: ReadonlyMap<string, Values>
}

export class Exclusion {
  /** A schema without its references; undefined where that is none. */
  readonly #resolve: (schema: unknown) => JsonSchema | undefined
  readonly #spend: (steps: number) => void
  /** The same schema may be part of many comparisons. */
  readonly #marks = new Map<JsonSchema, Marks>()
  readonly #values = new Map<JsonSchema, Values | undefined>()

  /** `spend` is told of each comparison, and throws where there are too many. */
  constructor(resolve: (schema: unknown) => JsonSchema | undefined, spend: (steps: number) => void) {
    this.#resolve = resolve
    this.#spend = spend
  }

  /** True only where no value is accepted by two of the schemas. */
  holds(schemas: readonly unknown[]): boolean {
    const before: Marks[] = []
    for (const each of schemas) {
      const schema = this.#resolve(each)
      const own = schema && this.#marksOf(schema)
      if (!own || before.some((other) => !this.#exclude(own, other))) return false
      before.push(own)
    }
    return true
  }

  #exclude(own: Marks, other: Marks): boolean {
    this.#spend(1)
    if (own.values && other.values) return this.#haveNoneInCommon(own.values, other.values)
    if (!own.types || !other.types) return false
    const overlap = (from: readonly JsonType[], to: readonly JsonType[]) => from.some((type) => isOfType(type, to))
    if (!overlap(own.types, other.types) && !overlap(other.types, own.types)) return true
    for (const [name, values] of own.members) {
      const others = other.members.get(name)
      if (others && this.#haveNoneInCommon(values, others)) return true
    }
    return false
  }

  #haveNoneInCommon(a: Values, b: Values): boolean {
    const [few, many] = a.size < b.size ? [a, b] : [b, a]
    this.#spend(few.size)
    for (const value of few) if (many.has(value)) return false
    return true
  }

  #marksOf(schema: JsonSchema): Marks {
    let marks = this.#marks.get(schema)
    if (!marks) {
      const types = typesOf(schema)
      marks = { values: this.#valuesOf(schema), types, members: this.#membersOf(schema, types) }
      this.#marks.set(schema, marks)
    }
    return marks
  }

  #membersOf({ properties, required }: JsonSchema, types: readonly JsonType[] | undefined): Map<string, Values> {
    const members = new Map<string, Values>()
    if (types?.join() !== 'object' || !isSchema(properties) || !Array.isArray(required)) return members
    for (const name of required) {
      const member = Object.hasOwn(properties, name) ? this.#resolve(properties[name]) : undefined
      const values = member && this.#valuesOf(member)
      if (values) members.set(name, values)
    }
    return members
  }

  #valuesOf(schema: JsonSchema): Values | undefined {
    if (this.#values.has(schema)) return this.#values.get(schema)
    const { enum: list, const: value } = schema
    const listed = Array.isArray(list) ? list : value === undefined ? undefined : [value]
    const values = listed && new Set(listed.map((each) => JSON.stringify(each, sorted)))
    this.#values.set(schema, values)
    return values
  }
}

/** Members in one order: JSON knows none, so equal values have equal texts. */
const sorted = (_: string, value: unknown): unknown =>
  isSchema(value) ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))) : value

function typesOf({ type, enum: list, const: value }: JsonSchema): JsonType[] | undefined {
  if (type !== undefined) return [type].flat() as JsonType[]
  if (Array.isArray(list)) return [...new Set(list.map(typeOf))]
  return value === undefined ? undefined : [typeOf(value)]
}
