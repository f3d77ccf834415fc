/** What a schema has inside, whatever is around it: objects, records, lists; and what it allows, in words. */
import { z } from 'zod'

/** The schema of the values that are meant, without what is around it: optional, default, a transformation of the result. */
export function inner(schema: z.ZodType): z.ZodType {
  let at = schema
  for (;;) {
    if (at instanceof z.ZodOptional || at instanceof z.ZodDefault || at instanceof z.ZodPrefault) {
      at = at.unwrap() as z.ZodType
    } else if (at instanceof z.ZodPipe) {
      at = at.in as z.ZodType
    } else {
      return at
    }
  }
}

/** The schemas that a value may follow: those of a union, or the one that it is. */
const forms = (schema: z.ZodType | undefined): z.ZodType[] => {
  if (schema === undefined) return []
  const at = inner(schema)
  return at instanceof z.ZodUnion ? (at.options as z.ZodType[]).flatMap(forms) : [at]
}

export const objectForm = (schema: z.ZodType | undefined): z.ZodObject | undefined =>
  forms(schema).find((form) => form instanceof z.ZodObject)

export const listForm = (schema: z.ZodType | undefined): z.ZodArray | undefined =>
  forms(schema).find((form) => form instanceof z.ZodArray)

const recordForm = (schema: z.ZodType | undefined): z.ZodRecord | undefined =>
  forms(schema).find((form) => form instanceof z.ZodRecord)

/** The schema of what is under a key or an index; undefined where anything may be, or nothing. */
export function childOf(schema: z.ZodType | undefined, key: PropertyKey): z.ZodType | undefined {
  if (typeof key === 'number') return listForm(schema)?.element as z.ZodType | undefined
  const shape = objectForm(schema)?.shape as Record<PropertyKey, z.ZodType> | undefined
  const field = shape && Object.hasOwn(shape, key) ? shape[key] : undefined
  return field ?? (recordForm(schema)?.valueType as z.ZodType | undefined)
}

/** Whether an object may have keys that its schema does not name. */
export const isOpen = (object: z.ZodObject): boolean =>
  object.def.catchall !== undefined && !(object.def.catchall instanceof z.ZodNever)

/** What a field allows: as its description says, or as its schema does. */
export function allowedOf(schema: z.ZodType): string | undefined {
  let at = schema
  for (;;) {
    if (at.description !== undefined) return at.description
    const next = at instanceof z.ZodOptional || at instanceof z.ZodDefault || at instanceof z.ZodPrefault
    if (!next) return derived(inner(at))
    at = (at as z.ZodOptional).unwrap() as z.ZodType
  }
}

function derived(schema: z.ZodType): string | undefined {
  if (schema instanceof z.ZodNumber) return numbers(schema)
  if (schema instanceof z.ZodBoolean) return 'true or false'
  if (schema instanceof z.ZodEnum) return listed(schema.options.map(String))
  if (schema instanceof z.ZodLiteral) return listed([...schema.values].map(String))
  if (schema instanceof z.ZodString) return 'a text'
  if (schema instanceof z.ZodArray) return 'a list'
  if (schema instanceof z.ZodRecord) return 'names, each with a value'
  if (schema instanceof z.ZodObject) return `{${Object.keys(schema.shape).join(', ')}}`
  if (!(schema instanceof z.ZodUnion)) return undefined
  const options = (schema.options as z.ZodType[]).map(allowedOf)
  return options.includes(undefined) ? undefined : listed(options as string[])
}

const listed = (options: readonly string[]): string =>
  options.length < 2 ? options.join('') : `${options.slice(0, -1).join(', ')} or ${options.at(-1)}`

function numbers(schema: z.ZodNumber): string {
  const { minValue, maxValue, def } = schema
  const kind = schema.format?.includes('int') ? 'an integer' : 'a number'
  const above = def.checks?.some(
    ({ _zod: { def } }) => 'inclusive' in def && def.check === 'greater_than' && !def.inclusive
  )
  const from = `${kind} ${above ? 'above' : 'from'} ${minValue}`
  if (minValue === null || maxValue === null || minValue < Number.MIN_SAFE_INTEGER) return kind
  if (maxValue >= Number.MAX_SAFE_INTEGER) return above ? from : `${from} on`
  return above ? `${from}, up to ${maxValue}` : `${from} to ${maxValue}`
}
