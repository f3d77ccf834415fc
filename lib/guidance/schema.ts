/**
 * From a JSON schema to the grammar of texts that it accepts. What the grammar makes is always valid; where a schema leaves a choice, the
 * grammar takes the usual one: properties in their order, no others unless the schema speaks of them.
 */
import type { EngineError } from '../errors/index.js'
import { isEngineError } from '../errors/index.js'
import { allBut, type CharAutomaton, ofLength } from './char-automaton.js'
import { Exclusion } from './disjoint.js'
import { formats } from './formats.js'
import type { Grammar } from './grammar.js'
import { depthNeeded, GrammarBuilder, GrammarTooLarge, mostDepth } from './grammar.js'
import { JsonRules } from './json-rules.js'
import { farBound, mostDigits } from './number-range.js'
import { PatternRefused, readPattern } from './pattern.js'
import { patternAutomaton } from './pattern-automaton.js'
import type { JsonSchema, ResponseFormat } from './response-format.js'
import {
  annotations,
  isOfType,
  isSchema,
  type JsonType,
  jsonTypes,
  keywords,
  typeOf,
  typesOfKeywords
} from './schema-keywords.js'
import { checkSize, refusal } from './schema-size.js'

/** Schemas inside of each other, references followed. */
const deepestSchema = 256
const mostOneOf = 500
/** Comparisons of schemas, and of the values that they list, over all `oneOf` of a schema. */
const mostSteps = 1_000_000
/** States and edges of a string's pattern times the lengths that are told apart. */
const mostLengthParts = 400_000

/** A format that is followed. */
export type Guided = Exclude<ResponseFormat, { type: 'text' }>

/** A format's schema as JSON, empty where it has none. GUIDANCE_SCHEMA_UNSUPPORTED. */
export function schemaText(format: Guided): string {
  if (format.type === 'json_object') return ''
  try {
    checkSize(format.schema)
    return JSON.stringify(format.schema)
  } catch (error) {
    if (isEngineError(error)) throw error
    throw refusal('#', 'invalid', undefined, 'it cannot be written as JSON')
  }
}

/** The grammar of a format. GUIDANCE_SCHEMA_UNSUPPORTED {path, reason, keyword}. */
export function grammarOf(format: Guided): Grammar {
  try {
    return new SchemaCompiler(format).grammar()
  } catch (error) {
    if (error instanceof GrammarTooLarge) throw refusal('#', 'too_large', undefined, error.reason)
    throw error
  }
}

class SchemaCompiler {
  readonly #builder = new GrammarBuilder()
  readonly #json = new JsonRules(this.#builder)
  readonly #format: Guided
  readonly #rules = new Map<JsonSchema, number>()
  readonly #paths = new Map<number, string>()
  readonly #strings = new Map<string, number>()
  readonly #exclusion = new Exclusion(
    (schema) => this.#resolved(schema),
    (steps) => this.#spend(steps)
  )
  /** What references name. */
  readonly #targets = new Map<string, unknown>()
  /** In a part that has an `$id` of its own: `#` is that part there. */
  #apart = false
  #depth = 0
  #steps = 0
  /** The first part of the schema that no value can meet. */
  #unmet: EngineError | undefined

  constructor(format: Guided) {
    this.#format = format
  }

  grammar(): Grammar {
    const b = this.#builder
    const value = this.#format.type === 'json_object' ? this.#json.anyObject() : this.#value(this.#format.schema, '#')
    const circle = b.circle()
    if (circle !== undefined) {
      const text = 'it refers to itself without an object or an array between'
      throw refusal(this.#paths.get(circle) ?? '#', 'unsupported', '$ref', text)
    }
    const root = b.rule()
    const end = b.state(root)
    b.call(b.run(b.start(root), this.#json.space()), value, end)
    b.accept(end)
    const grammar = b.finish(root)
    const need = depthNeeded(grammar.rules[root]!, grammar.states)
    if (need === Number.POSITIVE_INFINITY) {
      throw this.#unmet ?? refusal('#', 'unsatisfiable', undefined, 'no value meets it')
    }
    if (need > mostDepth) throw refusal('#', 'too_large', undefined, `its values have more than ${mostDepth} levels`)
    return grammar
  }

  /** The rule of a schema's values: there before it is whole, because schemas refer to themselves. */
  #value(schema: unknown, path: string): number {
    if (schema === true) return this.#json.any()
    if (schema === false) return this.#never(path, undefined, 'false accepts nothing')
    if (!isSchema(schema)) throw refusal(path, 'invalid', undefined, 'a schema is an object, true or false')
    const known = this.#rules.get(schema)
    if (known !== undefined) return known
    if (++this.#depth > deepestSchema) {
      throw refusal('#', 'too_large', undefined, `more than ${deepestSchema} schemas inside of each other`)
    }
    const rule = this.#builder.rule()
    this.#rules.set(schema, rule)
    this.#paths.set(rule, path)
    const around = this.#apart
    this.#apart ||= path !== '#' && typeof schema.$id === 'string'
    this.#choose(rule, this.#alternatives(schema, path))
    this.#apart = around
    this.#depth--
    return rule
  }

  /** Fills a rule: one of several. */
  #choose(rule: number, alternatives: readonly number[]): void {
    const b = this.#builder
    const end = b.state(rule)
    b.accept(end)
    for (const alternative of new Set(alternatives)) b.call(b.start(rule), alternative, end)
  }

  /** A rule without a text. What it is part of may still have some. */
  #never(path: string, keyword: string | undefined, text: string): number {
    this.#unmet ??= refusal(path, 'unsatisfiable', keyword, text)
    return this.#builder.rule()
  }

  #alternatives(schema: JsonSchema, path: string): number[] {
    const keys = Object.keys(schema).filter((key) => !annotations.has(key) && !key.startsWith('x-'))
    const unknown = keys.find((key) => !keywords.has(key))
    if (unknown !== undefined) throw refusal(path, 'unsupported', unknown, `the keyword ${JSON.stringify(unknown)}`)
    for (const key of ['$ref', 'allOf', 'anyOf', 'oneOf'] as const) {
      if (!keys.includes(key)) continue
      const other = keys.find((name) => name !== key)
      if (other !== undefined) throw refusal(path, 'unsupported', other, `${other} beside ${key}`)
      return key === '$ref'
        ? [this.#reference(schema.$ref, `${path}/$ref`)]
        : this.#combined(schema, key, `${path}/${key}`)
    }
    if (keys.includes('enum') || keys.includes('const')) return [this.#constants(schema, keys, path)]
    const types = this.#types(schema, keys, path)
    if (types.length === 0) return [this.#json.any()]
    return types.map((type) => this.#ofType(type, schema, path))
  }

  #ofType(type: JsonType, schema: JsonSchema, path: string): number {
    if (type === 'object') return this.#object(schema, path)
    if (type === 'array') return this.#array(schema, path)
    if (type === 'string') return this.#string(schema, path)
    if (type === 'boolean') return this.#json.texts(['true', 'false'])
    if (type === 'null') return this.#json.texts(['null'])
    const bound = (key: string): number | undefined => {
      const value = schema[key]
      if (value === undefined || typeof value === 'number') return value
      throw refusal(`${path}/${key}`, 'invalid', key, `${key} is a number`)
    }
    const [least, most] = [bound('minimum'), bound('maximum')]
    const [above, below] = [bound('exclusiveMinimum'), bound('exclusiveMaximum')]
    const range = { whole: type === 'integer', least, most, above, below }
    const number = this.#json.number(range)
    if (number !== undefined) return number
    const far = farBound(range)
    if (far === undefined) return this.#never(path, undefined, `no ${type} is between its bounds`)
    const text = `no number of up to ${mostDigits} digits meets ${far} ${schema[far]}`
    throw refusal(`${path}/${far}`, 'unsupported', far, text)
  }

  #types(schema: JsonSchema, keys: readonly string[], path: string): JsonType[] {
    if (!keys.includes('type')) return typesOfKeywords(keys)
    const types = [schema.type].flat() as JsonType[]
    if (types.length === 0 || types.some((type) => !jsonTypes.includes(type))) {
      throw refusal(`${path}/type`, 'invalid', 'type', `a type is one of ${jsonTypes.join(', ')}, or a list of them`)
    }
    // A whole number is a number.
    return [...new Set(types)].filter((type) => type !== 'integer' || !types.includes('number'))
  }

  #reference(reference: unknown, path: string): number {
    return this.#value(this.#target(reference, path), reference as string)
  }

  #target(reference: unknown, path: string): unknown {
    if (typeof reference !== 'string') throw refusal(path, 'invalid', '$ref', 'a reference is a string')
    if (this.#apart) throw refusal(path, 'unsupported', '$ref', 'a reference in a part that has an $id of its own')
    if (reference !== '#' && !reference.startsWith('#/')) {
      throw refusal(path, 'unsupported', '$ref', 'only references into the schema itself, as #/$defs/name')
    }
    if (this.#targets.has(reference)) return this.#targets.get(reference)
    const all: unknown = this.#format.type === 'json_schema' ? this.#format.schema : undefined
    let found = all
    for (const part of reference.split('/').slice(1)) {
      const name = unescaped(part)
      if (found !== all && isSchema(found) && typeof found.$id === 'string') {
        throw refusal(path, 'unsupported', '$ref', 'a reference into a part that has an $id of its own')
      }
      if (typeof found !== 'object' || found === null || name === undefined || !Object.hasOwn(found, name)) {
        throw refusal(path, 'invalid', '$ref', `there is no ${JSON.stringify(reference)}`)
      }
      found = (found as Record<string, unknown>)[name]
    }
    this.#targets.set(reference, found)
    return found
  }

  #combined(schema: JsonSchema, key: 'allOf' | 'anyOf' | 'oneOf', path: string): number[] {
    const list = schema[key]
    if (!Array.isArray(list) || list.length === 0) throw refusal(path, 'invalid', key, `${key} is a list of schemas`)
    if (key === 'allOf' && list.length > 1) throw refusal(path, 'unsupported', key, 'allOf of more than one schema')
    if (key === 'oneOf' && list.length > mostOneOf) {
      throw refusal(path, 'too_large', key, `more than ${mostOneOf} schemas`)
    }
    const rules = list.map((each, i) => this.#value(each, `${path}/${i}`))
    if (key === 'oneOf' && !this.#exclusion.holds(list)) {
      throw refusal(path, 'unsupported', key, 'schemas that may accept the same value; use anyOf')
    }
    return rules
  }

  /** A schema behind its references; undefined in a circle of them. */
  #resolved(schema: unknown): JsonSchema | undefined {
    let found = schema
    for (let i = 0; i < deepestSchema && isSchema(found) && found.$ref !== undefined; i++) {
      this.#spend(1)
      found = this.#target(found.$ref, '#')
    }
    return isSchema(found) && found.$ref === undefined ? found : undefined
  }

  #spend(steps: number): void {
    this.#steps += steps
    if (this.#steps <= mostSteps) return
    throw refusal('#', 'too_large', 'oneOf', 'it takes too long to see whether schemas of oneOf exclude each other')
  }

  #constants(schema: JsonSchema, keys: readonly string[], path: string): number {
    const key = keys.includes('enum') ? 'enum' : 'const'
    const other = keys.find((name) => name !== key && name !== 'type')
    if (other !== undefined) throw refusal(path, 'unsupported', other, `${other} beside ${key}`)
    const list = key === 'enum' ? schema.enum : [schema.const]
    if (!Array.isArray(list)) throw refusal(`${path}/enum`, 'invalid', 'enum', 'enum is a list of values')
    const types = this.#types(schema, keys, path)
    const values = types.length > 0 ? list.filter((value) => isOfType(typeOf(value), types)) : list
    if (values.length === 0) return this.#never(`${path}/${key}`, key, `no value of ${key} is of the type`)
    return this.#json.texts(values.map((value) => JSON.stringify(value)))
  }

  #string(schema: JsonSchema, path: string): number {
    const least = this.#count(schema, 'minLength', path) ?? 0
    const most = this.#count(schema, 'maxLength', path) ?? Number.POSITIVE_INFINITY
    if (least > most) return this.#never(path, 'minLength', `minLength ${least} is above maxLength ${most}`)
    const { pattern, format } = schema
    if (pattern === undefined && format === undefined) return this.#json.string(least, most)
    if (pattern !== undefined && format !== undefined) {
      throw refusal(path, 'unsupported', 'format', 'format beside pattern')
    }
    const key = pattern === undefined ? 'format' : 'pattern'
    const at = `${path}/${key}`
    if (typeof schema[key] !== 'string') throw refusal(at, 'invalid', key, `${key} is a string`)
    const source = pattern ?? (Object.hasOwn(formats, format as string) ? formats[format as string] : undefined)
    if (source === undefined) {
      throw refusal(
        at,
        'unsupported',
        key,
        `the format ${JSON.stringify(format)}, of ${Object.keys(formats).join(', ')}`
      )
    }
    const name = `${least} ${most} ${source}`
    let rule = this.#strings.get(name)
    if (rule === undefined) {
      const automaton = this.#lengthened(this.#pattern(source as string, key, at), least, most, key, at)
      rule = automaton
        ? this.#json.stringOf(automaton, true)
        : this.#never(at, key, 'no string of the length matches it')
      this.#strings.set(name, rule)
    }
    return rule
  }

  #pattern(source: string, keyword: string, path: string): CharAutomaton {
    try {
      return patternAutomaton(readPattern(source))
    } catch (error) {
      if (error instanceof PatternRefused) throw refusal(path, error.reason, keyword, error.message)
      throw error
    }
  }

  #lengthened(automaton: CharAutomaton, least: number, most: number, keyword: string, path: string) {
    const lengths = (most < Number.POSITIVE_INFINITY ? most : least) + 1
    const parts = automaton.reduce((sum, { edges }) => sum + 1 + edges.length, 0)
    if (parts * lengths > mostLengthParts) {
      const text = `a ${keyword} of ${parts} states and edges with ${lengths} lengths, of ${mostLengthParts} together`
      throw refusal(path, 'too_large', keyword, text)
    }
    return ofLength(automaton, least, most)
  }

  #object(schema: JsonSchema, path: string): number {
    const { properties = {}, required = [], additionalProperties = true } = schema
    if (!isSchema(properties)) throw refusal(`${path}/properties`, 'invalid', 'properties', 'properties are an object')
    if (!Array.isArray(required) || required.some((name) => typeof name !== 'string')) {
      throw refusal(`${path}/required`, 'invalid', 'required', 'required is a list of names')
    }
    const needed = new Set<string>(required)
    const others = `${path}/additionalProperties`
    // A schema that names properties and says nothing of others has no others.
    const unsaid = schema.additionalProperties === undefined
    const open = unsaid ? schema.properties === undefined && needed.size === 0 : additionalProperties
    const members = Object.entries(properties).map(([name, member]) => ({
      name,
      value: this.#value(member, `${path}/properties/${escaped(name)}`),
      required: needed.has(name)
    }))
    for (const name of needed) {
      if (Object.hasOwn(properties, name)) continue
      members.push({ name, value: this.#value(additionalProperties, others), required: true })
    }
    const rule = this.#builder.rule({ container: true })
    const names = members.map(({ name }) => name)
    // Each character takes a state or more.
    this.#builder.checkRoom(names.reduce((sum, name) => sum + name.length, 0))
    this.#json.object(
      rule,
      members,
      open === false
        ? undefined
        : {
            // A name that is written with an escape could be that of a property.
            key: names.length === 0 ? this.#json.string() : this.#json.stringOf(allBut(names), false),
            value: this.#value(open, others)
          }
    )
    return rule
  }

  #array(schema: JsonSchema, path: string): number {
    const { items, prefixItems = [], uniqueItems = false } = schema
    if (uniqueItems !== false) throw refusal(path, 'unsupported', 'uniqueItems', 'uniqueItems')
    if (Array.isArray(items)) throw refusal(`${path}/items`, 'unsupported', 'items', 'a list of items; use prefixItems')
    if (!Array.isArray(prefixItems)) {
      throw refusal(`${path}/prefixItems`, 'invalid', 'prefixItems', 'prefixItems are a list of schemas')
    }
    const least = this.#count(schema, 'minItems', path) ?? 0
    const most = this.#count(schema, 'maxItems', path) ?? Number.POSITIVE_INFINITY
    const first = prefixItems.slice(0, most).map((item, i) => this.#value(item, `${path}/prefixItems/${i}`))
    const open = items === undefined ? prefixItems.length === 0 : items
    const others = open === false || first.length >= most ? undefined : this.#value(open, `${path}/items`)
    if (least > most || (others === undefined && least > first.length)) {
      return this.#never(path, 'minItems', `minItems ${least} is more than it may have`)
    }
    const rest = { least: Math.max(0, least - first.length), most: most - first.length }
    const rule = this.#builder.rule({ container: true, ...rest })
    this.#json.array(rule, first, others, least)
    return rule
  }

  #count(schema: JsonSchema, key: string, path: string): number | undefined {
    const value = schema[key]
    if (value === undefined || (Number.isSafeInteger(value) && (value as number) >= 0))
      return value as number | undefined
    throw refusal(`${path}/${key}`, 'invalid', key, `${key} is a whole number from 0 on`)
  }
}

/** A name in a JSON pointer. */
const escaped = (name: string): string => name.replaceAll('~', '~0').replaceAll('/', '~1')

/** The name of a part of a reference; undefined where it is none. */
function unescaped(part: string): string | undefined {
  try {
    return decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~')
  } catch {
    return undefined
  }
}
